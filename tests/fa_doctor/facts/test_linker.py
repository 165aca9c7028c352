"""The model of the dynamic linker against the real one (glibc's trace of loaded objects), on real ELF files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_objects import ElfMaker

from fa_doctor.facts.linker import LinkedProcess, LoadedObject, Rule
from fa_doctor.facts.linker_system import LinkerSystem, expand_tokens
from fa_doctor.host import LiveHost

AARCH64 = 183

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or not Path("/lib64/ld-linux-x86-64.so.2").exists(),
    reason="needs gcc and glibc's dynamic linker for x86-64",
)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> ElfMaker:
    return ElfMaker(tmp_path_factory.mktemp("elf"))


def environ(**variables: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **variables}


def glibc_says(program: Path, variables: dict[str, str], cwd: Path) -> tuple[list[tuple[str, str | None]], str | None]:
    """(name, path or None) of each object in the order of mapping, and the error that ended the search, if any."""
    done = subprocess.run(
        [str(program)],
        env={**variables, "LD_TRACE_LOADED_OBJECTS": "1"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    found: list[tuple[str, str | None]] = []
    for line in done.stdout.splitlines():
        match = re.match(r"\t(\S+)(?: => (not found|\S+))?(?: \(|$)", line)
        assert match, line
        name, path = match.groups()
        if not name.startswith(("linux-vdso", "/lib64/ld-linux")):
            found.append((name, None if path == "not found" else os.path.join(cwd, path or name)))
    error = re.search(r"error while loading shared libraries: (\S+): (.*)", done.stderr)
    return found, error.group(1) if error else None


def libraries(process: LinkedProcess) -> list[LoadedObject]:
    """What is mapped besides the program and the dynamic linker itself."""
    return [loaded for loaded in process.objects if not loaded.is_program and "/ld-linux" not in loaded.path]


def model_says(
    program: Path, variables: dict[str, str], cwd: Path
) -> tuple[list[tuple[str, str | None]], str | None, LinkedProcess]:
    process = LinkedProcess(LinkerSystem(LiveHost(environ=variables), {**variables, "PWD": str(cwd)}))
    assert process.start(str(program))
    found = [(loaded.resolution.name, loaded.path) for loaded in libraries(process)]
    error = next((missed.name for missed in process.missing if missed.error), None)
    return found, error, process


def agree(program: Path, cwd: Path, **variables: str) -> LinkedProcess:
    """Both give the same answer for all that a program needs; the model's process."""
    variables = environ(**variables)
    real, real_error = glibc_says(program, variables, cwd)
    model, model_error, process = model_says(program, variables, cwd)
    if real_error is not None:
        assert model_error is not None, (real, real_error)
        assert real_error.endswith(model_error), (real_error, model_error)
    else:
        assert model == [pair for pair in real if pair[1] is not None]
        assert {missed.name for missed in process.missing} == {name for name, path in real if path is None}
    return process


def rule_of(process: LinkedProcess, name: str) -> Rule | None:
    loaded = process.loaded(name)
    return loaded.resolution.rule if loaded else None


def test_rpath_goes_before_ld_library_path_and_runpath_after(make: ElfMaker, tmp_path: Path) -> None:
    for folder in ("bundled", "shadow"):
        make.library(tmp_path / folder / "libhip.so.6", "libhip.so.6")
    shadow = str(tmp_path / "shadow")
    old = make.program(tmp_path / "old", ("libhip.so.6",), rpath="$ORIGIN/bundled")
    process = agree(old, tmp_path, LD_LIBRARY_PATH=shadow)
    assert rule_of(process, "libhip.so.6") is Rule.RPATH
    losers = process.shadowed(libraries(process)[0].resolution, process.objects[0])
    assert [loser.path for loser in losers] == [f"{shadow}/libhip.so.6"]
    new = make.program(tmp_path / "new", ("libhip.so.6",), runpath="$ORIGIN/bundled")
    assert rule_of(agree(new, tmp_path, LD_LIBRARY_PATH=shadow), "libhip.so.6") is Rule.LD_LIBRARY_PATH
    assert rule_of(agree(new, tmp_path), "libhip.so.6") is Rule.RUNPATH


def test_rpath_is_inherited_and_runpath_is_not(make: ElfMaker, tmp_path: Path) -> None:
    make.library(tmp_path / "lib/libinner.so", "libinner.so")
    make.library(tmp_path / "lib/libmiddle.so", "libmiddle.so", ("libinner.so",))
    for kind in ("rpath", "runpath"):
        program = make.program(tmp_path / kind, ("libmiddle.so",), **{kind: "$ORIGIN/lib"})
        process = agree(program, tmp_path)
        assert (process.loaded("libinner.so") is not None) == (kind == "rpath")
    # An object with a RUNPATH of its own inherits no RPATH for what it asks for.
    make.library(tmp_path / "lib/libmiddle.so", "libmiddle.so", ("libinner.so",), runpath="/nowhere")
    assert agree(tmp_path / "rpath", tmp_path).missing[0].name == "libinner.so"


def test_an_unfitting_file_is_passed_over_and_a_broken_one_ends_the_search(make: ElfMaker, tmp_path: Path) -> None:
    good = make.library(tmp_path / "good/libx.so", "libx.so")
    make.library(tmp_path / "other/libx.so", "libx.so", machine=AARCH64)
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling/libx.so").symlink_to("libx.so.6")
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle/libx.so").symlink_to("libx.so")
    for name, content in (("text", b"version https://git-lfs.github.com/spec/v1\n"), ("empty", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "libx.so").write_bytes(content)
    program = make.program(tmp_path / "program", ("libx.so",), runpath="$ORIGIN/good")

    def searched(*folders: str) -> LinkedProcess:
        return agree(program, tmp_path, LD_LIBRARY_PATH=":".join(str(tmp_path / folder) for folder in folders))

    process = searched("other", "dangling", "good")
    (winner,) = libraries(process)
    assert winner.path == str(good)
    assert [rejected.path for rejected in winner.resolution.rejected] == [str(tmp_path / "other/libx.so")]
    assert "AARCH64" in winner.resolution.rejected[0].why
    assert rule_of(searched("circle", "good"), "libx.so") is Rule.RUNPATH  # a circle ends its list, not the search
    for broken in ("text", "empty"):
        (missed,) = searched(broken, "good").missing
        assert missed.error is not None
        assert f"{broken}/libx.so" in missed.error


def test_what_is_loaded_answers_by_its_soname_and_by_the_names_asked_for(make: ElfMaker, tmp_path: Path) -> None:
    make.library(tmp_path / "lib/libbare.so", "libhip.so.6")  # asked for by file name, known by another soname
    make.library(tmp_path / "system/libhip.so.6", "libhip.so.6")
    program = make.program(tmp_path / "program", ("libbare.so", "libhip.so.6"), rpath="$ORIGIN/lib:$ORIGIN/system")
    process = agree(program, tmp_path)
    assert [loaded.path for loaded in libraries(process)] == [str(tmp_path / "lib/libbare.so")]
    # With a bare soname, as in wheels that bundle ROCm, the versioned name is not satisfied: two copies.
    make.library(tmp_path / "lib/libbare.so", "libbare.so")
    assert len(libraries(agree(program, tmp_path))) == 2


def test_one_file_under_two_names_is_mapped_once(make: ElfMaker, tmp_path: Path) -> None:
    make.library(tmp_path / "lib/libone.so.1", None)
    (tmp_path / "lib/libone.so").symlink_to("libone.so.1")
    program = make.program(tmp_path / "program", ("libone.so", "libone.so.1"), rpath="$ORIGIN/lib")
    assert len(libraries(agree(program, tmp_path))) == 1


def test_the_cache_and_the_default_folders(make: ElfMaker, tmp_path: Path) -> None:
    program = make.program(tmp_path / "program", ("libm.so.6", "libnowhere.so.9", "libz.so.1"))
    process = agree(program, tmp_path)
    assert rule_of(process, "libm.so.6") in (Rule.CACHE, Rule.DEFAULT)
    assert process.missing[0].name == "libnowhere.so.9"


def test_origin_follows_links_of_the_program_only(make: ElfMaker, tmp_path: Path) -> None:
    make.library(tmp_path / "real/libdeep.so", "libdeep.so")
    make.library(tmp_path / "real/libtop.so", "libtop.so", ("libdeep.so",), runpath="$ORIGIN")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/libtop.so").symlink_to("../real/libtop.so")
    make.program(tmp_path / "real/program", ("libtop.so",), runpath="$ORIGIN/../links")
    (tmp_path / "alias").symlink_to("real/program")
    for name in ("real/program", "alias"):
        process = agree(tmp_path / name, tmp_path)
        assert [missed.name for missed in process.missing] == ["libdeep.so"]


def test_tokens_and_empty_elements(make: ElfMaker, tmp_path: Path) -> None:
    host = LinkerSystem(LiveHost(environ={}), {})
    lib = host.lib_token
    make.library(tmp_path / lib / "liba.so", "liba.so")
    make.library(tmp_path / host.platform_token / "libb.so", "libb.so")
    make.library(tmp_path / "here/libc9.so", "libc9.so")
    program = make.program(
        tmp_path / "program", ("liba.so", "libb.so", "libc9.so"), rpath="${ORIGIN}/$LIB:$ORIGIN/${PLATFORM}:$ORIGINAL"
    )
    assert not agree(program, tmp_path / "here", LD_LIBRARY_PATH="/nowhere:").missing[1:]
    assert [missed.name for missed in agree(program, tmp_path).missing] == ["libc9.so"]


def test_hwcaps_subfolders_go_first(make: ElfMaker, tmp_path: Path) -> None:
    levels = LinkerSystem(LiveHost(environ={}), {}).levels
    if not levels:
        pytest.skip("this CPU has no micro-architecture level above the baseline")
    make.library(tmp_path / "lib/libx.so", "libx.so")
    for level in levels:
        make.library(tmp_path / "lib/glibc-hwcaps" / level / "libx.so", "libx.so")
    program = make.program(tmp_path / "program", ("libx.so",), runpath="$ORIGIN/lib")
    assert libraries(agree(program, tmp_path))[0].path == str(tmp_path / "lib/glibc-hwcaps" / levels[0] / "libx.so")


def test_preload(make: ElfMaker, tmp_path: Path) -> None:
    make.library(tmp_path / "lib/libx.so", "libx.so")
    other = make.library(tmp_path / "other/libpre.so", "libx.so", ("libmore.so",), runpath="$ORIGIN")
    make.library(tmp_path / "other/libmore.so", "libmore.so")
    program = make.program(tmp_path / "program", ("libx.so",), rpath="$ORIGIN/lib")
    process = agree(program, tmp_path, LD_PRELOAD=str(other))
    assert process.loaded("libx.so") is libraries(process)[0]


def opened(program: Path, variables: dict[str, str], *words: str) -> tuple[list[str], list[str]]:
    """What the opener maps beyond the C library, in order, and its errors."""
    done = subprocess.run([str(program), *words], env=variables, capture_output=True, text=True, timeout=20, check=True)
    lines = [line for line in done.stdout.splitlines() if line and "vdso" not in line and "ld-linux" not in line]
    return [line for line in lines if not line.startswith("error")], [
        line for line in lines if line.startswith("error")
    ]


def test_dlopen_uses_the_paths_of_the_caller(make: ElfMaker, tmp_path: Path) -> None:
    program = make.opener(tmp_path / "program", rpath="$ORIGIN/of_program")
    make.library(tmp_path / "of_program/libp.so", "libp.so")
    make.library(tmp_path / "of_caller/libq.so", "libq.so", ("libp.so",))
    caller = make.library(tmp_path / "caller/libcaller.so", "libcaller.so", runpath="$ORIGIN/../of_caller", opens=True)
    with_rpath = make.library(tmp_path / "caller/libold.so", "libold.so", rpath="$ORIGIN/../of_caller", opens=True)
    variables = environ()
    for library in (caller, with_rpath):
        real, errors = opened(program, variables, f"{library}!libq.so")
        process = LinkedProcess(LinkerSystem(LiveHost(environ=variables), variables))
        assert process.start(str(program))
        mapped = process.dlopen(str(library), process.program)
        assert mapped is not None
        process.dlopen("libq.so", mapped)
        assert not errors
        assert [loaded.path for loaded in libraries(process)] == real
    # The program itself does not know that folder.
    _, errors = opened(program, variables, "libq.so")
    process = LinkedProcess(LinkerSystem(LiveHost(environ=variables), variables))
    process.start(str(program))
    assert errors
    assert process.dlopen("libq.so") is None
    assert process.missing[0].name == "libq.so"


def test_dlopen_by_path_does_not_see_an_equal_soname_as_the_same(make: ElfMaker, tmp_path: Path) -> None:
    program = make.opener(tmp_path / "program")
    words = [str(make.library(tmp_path / folder / "libhip.so", "libhip.so.6")) for folder in ("wheel", "system")]
    real, _ = opened(program, environ(), *words)
    process = LinkedProcess(LinkerSystem(LiveHost(environ=environ()), environ()))
    process.start(str(program))
    for word in words:
        process.dlopen(word)
    assert [loaded.path for loaded in libraries(process)] == real
    assert real[-2:] == words


FOLDERS = ("a", "b", "c")
NAMES = ("libr.so.1", "libs.so.2", "libt.so.3", "libu.so.4")
STATES = ("good", "good", "good", "other", "dangling", "circle", "text")
SEARCH = st.lists(st.sampled_from(["$ORIGIN", "$ORIGIN/../a", "$ORIGIN/../b", "$ORIGIN/../c", "/nowhere"]), max_size=3)


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, object]:
    """Some libraries, each in some folders in some state, each with its own needs and search paths."""
    files = draw(
        st.dictionaries(
            st.tuples(st.sampled_from(FOLDERS), st.sampled_from(NAMES)),
            st.tuples(
                st.sampled_from(STATES),
                st.lists(st.sampled_from(NAMES), max_size=3, unique=True),
                st.sampled_from(["rpath", "runpath", "none"]),
                SEARCH,
            ),
            min_size=2,
            max_size=8,
        )
    )
    return {
        "files": files,
        "needed": draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)),
        "kind": draw(st.sampled_from(["rpath", "runpath"])),
        "search": draw(SEARCH),
        "variable": draw(st.lists(st.sampled_from([*FOLDERS, ""]), max_size=3)),
    }


@given(layout=layouts())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_layout(make: ElfMaker, tmp_path: Path, layout: dict[str, object]) -> None:
    root = tmp_path / "layout"
    shutil.rmtree(root, ignore_errors=True)
    (root / "bin").mkdir(parents=True)
    files = layout["files"]
    assert isinstance(files, dict)
    for (folder, name), (state, needed, kind, search) in files.items():
        path = root / folder / name
        path.parent.mkdir(exist_ok=True)
        if state in ("dangling", "circle"):
            path.symlink_to("gone" if state == "dangling" else name)
        elif state == "text":
            path.write_text("not a library\n")
        else:
            paths = {kind: ":".join(search)} if kind != "none" and search else {}
            machine = AARCH64 if state == "other" else None
            make.library(path, name, tuple(needed), machine=machine, **paths)
    search, kind, needed, variable = (layout[key] for key in ("search", "kind", "needed", "variable"))
    assert isinstance(search, list)
    assert isinstance(needed, list)
    assert isinstance(variable, list)
    paths = {str(kind): ":".join(search)} if search else {}
    program = make.program(root / "bin/program", tuple(needed), **paths)
    value = ":".join(str(root / folder) if folder else "" for folder in variable)
    agree(program, root / "bin", **({"LD_LIBRARY_PATH": value} if variable else {}))


@given(st.text(alphabet="$/{}:;.ORIGINLBPATFMx", max_size=60), st.text(max_size=30))
def test_any_search_path(text: str, origin: str) -> None:
    system = LinkerSystem(LiveHost(environ={}), {"PWD": "/here", "LD_LIBRARY_PATH": text, "LD_PRELOAD": text})
    assert all(folder.startswith("/") for folder in system.split_path(text, ":;", "/" + origin))
    assert isinstance(expand_tokens(text, None, system), str)
    assert all(system.preload)


def test_another_dynamic_linker_is_not_modelled(make: ElfMaker, tmp_path: Path) -> None:
    program = make.program(tmp_path / "program")
    data = program.read_bytes()
    process = LinkedProcess(LinkerSystem(LiveHost(environ={}), {}))
    assert process.start(str(program))
    assert process.foreign is None
    musl = tmp_path / "musl"
    musl.write_bytes(data.replace(b"/lib64/ld-linux-x86-64.so.2", b"/lib/ld-musl-x86_64.so.1\0\0\0"))
    process = LinkedProcess(LinkerSystem(LiveHost(environ={}), {}))
    assert process.start(str(musl))
    assert "musl" in (process.foreign or "")
