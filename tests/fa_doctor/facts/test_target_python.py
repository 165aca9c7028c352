"""The target Python: which one is chosen, and that what is read of it is what it says itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
from staging import stage

from fa_doctor.facts import python
from fa_doctor.facts.distributions import normalise
from fa_doctor.host import LiveHost


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real virtual environment with two distributions, a .pth file and a source tree that it points to."""
    folder = tmp_path_factory.mktemp("target") / "env with a blank"
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    _distribution(site, "torch", "2.9.1+rocm6.4")
    _distribution(site, "Pytorch_Triton.ROCm", "3.5.1")
    tree = folder / "tree"
    tree.mkdir()
    (tree / "some_module.py").write_text("")
    (site / "linked.pth").write_text(f"# comment\nimport sys\n{tree}\n/nowhere/at/all\n")
    return folder


def test_it_agrees_with_what_the_interpreter_says_of_itself(environment: Path) -> None:
    found = python.gather(LiveHost(), str(environment / "bin" / "python"))
    code = (
        "import sys, json, importlib.metadata as m, sysconfig; print(json.dumps([sys.version.split()[0], sys.path, "
        "sys.prefix, sys.base_prefix, sorted((d.name, d.version) for d in m.distributions()), "
        "sysconfig.get_path('include', 'posix_prefix', {'base': sys.base_prefix, 'installed_base': sys.base_prefix})]))"
    )
    output = subprocess.run(
        [environment / "bin" / "python", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    version, path, prefix, base, installed, include = json.loads(output.stdout)
    assert found.problem is None
    assert found.version == version.rstrip("+")
    assert found.environment == "venv"
    assert found.prefix == prefix
    assert found.base_prefix == base
    assert found.include_folder == include
    assert found.has_headers is (Path(include) / "Python.h").is_file()
    assert list(found.search_path) == [folder for folder in path if folder in found.search_path]
    assert {folder for folder in path if "site-packages" in folder or "tree" in folder} == set(found.search_path)
    ours = sorted((entry.name, entry.version) for entry in found.distributions or ())
    assert ours == sorted((normalise(name), version) for name, version in installed)
    assert found.writable is True
    assert found.externally_managed is False


def test_the_python_of_this_test_run() -> None:
    found = python.gather(LiveHost(), sys.executable)
    code = "import json, importlib.metadata as m; print(json.dumps(sorted({d.name for d in m.distributions()})))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert {entry.name for entry in found.distributions or ()} >= {
        normalise(name) for name in json.loads(output.stdout)
    }


def test_system_site_packages_are_seen_when_the_environment_inherits_them(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False, system_site_packages=True, symlinks=True)
    found = python.gather(LiveHost(), str(tmp_path / "env/bin/python"))
    output = subprocess.run(
        [tmp_path / "env/bin/python", "-c", "import sys; print('\\n'.join(sys.path))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    theirs = {folder for folder in output.stdout.splitlines() if "packages" in folder}
    assert theirs <= set(found.search_path)


def test_rules_of_choice(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "/venv/bin/python": "", "/conda/bin/python": "", "/usr/bin/python3": "", "/named/bin/python": "",
    }  # fmt: skip
    which = {"python3": "/usr/bin/python3"}

    def chosen(name: str, environ: dict[str, str], wanted: str | None = None) -> str | None:
        return python.gather(stage(tmp_path / name, files, environ=environ, which=which), wanted).executable

    both = {"VIRTUAL_ENV": "/venv", "CONDA_PREFIX": "/conda"}
    assert chosen("named", both, "/named/bin/python") == "/named/bin/python"
    assert chosen("venv", both) == "/venv/bin/python"
    assert chosen("conda", {"CONDA_PREFIX": "/conda"}) == "/conda/bin/python"
    assert chosen("gone", {"VIRTUAL_ENV": "/deleted"}) == "/usr/bin/python3"
    assert chosen("path", {}) == "/usr/bin/python3"
    own = "/home/me/.cache/uv/archive-v0/k_PjubRM/bin"
    files[f"{own}/python3"] = ""
    which["python3"] = f"{own}/python3"
    assert chosen("uvx", {"PATH": f"{own}:/usr/local/bin:/usr/bin"}) == "/usr/bin/python3"
    assert chosen("uvx alone", {"PATH": own}) == f"{own}/python3"
    missing = python.gather(stage(tmp_path / "missing", files, environ={}), "/no/such/python")
    assert missing.executable is None
    assert missing.problem == "--python /no/such/python: there is no such program"


SCRIPTS = {
    "crash": ("echo 'Fatal Python error: init_fs_encoding' >&2; exit 1", "Fatal Python error"),
    "segfault": ("kill -11 $$", "killed by signal 11"),
    "garbage": ("head -c 3000 /dev/urandom", "no answer"),
    "hang": ("sleep 600", "did not answer"),
    "flood": ("yes fa-doctor:{}", "last it said"),
    "silent": ("exit 0", "no answer"),
}


@pytest.mark.parametrize("fault", SCRIPTS)
def test_an_interpreter_that_does_not_start_is_a_problem_and_files_tell_the_rest(fault: str, tmp_path: Path) -> None:
    script, said = SCRIPTS[fault]
    site = tmp_path / "env/lib/python3.11/site-packages"
    _distribution(site, "torch", "2.9.1+rocm6.4")
    (tmp_path / "env/pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.2\n")
    executable = tmp_path / "env/bin/python"
    executable.parent.mkdir()
    executable.write_text(f"#!/bin/sh\n{script}\n")
    executable.chmod(0o755)
    host = LiveHost()
    host.deadline = time.monotonic() + 1.0
    started = time.monotonic()
    found = python.gather(host, str(executable))
    assert time.monotonic() - started < 3
    assert found.problem is not None
    assert said in found.problem or fault == "flood"
    assert found.problem.isprintable()
    assert found.version == "3.11.2"
    assert [entry.name for entry in found.distributions or ()] == ["torch"]
    assert found.site_packages == (str(site),)


def test_the_version_of_a_silent_system_python_stands_in_its_name(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"/usr/bin/python3": "", "/usr/bin/python3.12": "", "/usr/lib/python3.11/x": "",
                                     "/usr/lib/python3.12/EXTERNALLY-MANAGED": "", "/usr/lib/python3/dist-packages/x": ""}  # fmt: skip
    host = stage(
        tmp_path,
        files,
        environ={},
        which={"python3": "/usr/bin/python3"},
        real_paths={"/usr/bin/python3": "/usr/bin/python3.12"},
    )
    found = python.gather(host)
    assert found.problem is not None
    assert (found.version, found.environment, found.externally_managed) == ("3.12", "system", True)
    assert found.site_packages == ("/usr/lib/python3/dist-packages",)


def test_a_hurried_question_is_no_verdict(tmp_path: Path) -> None:
    executable = tmp_path / "python"
    executable.write_text("#!/bin/sh\nsleep 60\n")
    executable.chmod(0o755)
    host = LiveHost()
    host.deadline = time.monotonic() + 0.8
    found = python.gather(host, str(executable))
    assert found.hurried
    assert time.monotonic() < host.deadline  # there is time left for everything else


def test_a_program_that_cannot_be_executed(tmp_path: Path) -> None:
    executable = tmp_path / "python"
    executable.write_text("no program")
    found = python.gather(LiveHost(), str(executable))
    assert found.problem is not None
    assert "could not be started" in found.problem


def test_loops_of_links_and_folders_in_place_of_files(tmp_path: Path) -> None:
    site = tmp_path / "env/lib/python3.11/site-packages"
    site.mkdir(parents=True)
    (tmp_path / "env/pyvenv.cfg").write_text("version = 3.11.2\n")
    (tmp_path / "env/bin").mkdir()
    (tmp_path / "env/bin/python").symlink_to("python")
    (site / "a.pth").symlink_to("a.pth")
    (site / "b.pth").mkdir()
    (site / "torch-2.9.1.dist-info").symlink_to("torch-2.9.1.dist-info")
    found = python.gather(LiveHost(), str(tmp_path / "env/bin/python"))
    assert found.executable is None or found.problem


def _distribution(site: Path, name: str, version: str) -> None:
    info = site / f"{name.replace('-', '_').replace('.', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.parametrize("minor", range(8, 16))
def test_every_python_that_this_machine_has(minor: int) -> None:
    executable = shutil.which(f"python3.{minor}")
    works = executable and subprocess.run([executable, "-c", ""], capture_output=True, check=False).returncode == 0
    if not executable or not works:
        pytest.skip(f"there is no Python 3.{minor} here")
    found = python.gather(LiveHost(), executable)
    assert found.problem is None
    assert (found.version or "").startswith(f"3.{minor}.")
