"""The C compiler that Triton would call, the ROCm that extensions would be built with, and the headers."""

from __future__ import annotations

from pathlib import Path

from healthy import mi300x, rx7900xtx
from hypothesis import given
from hypothesis import strategies as st
from staged_machine import Staged

from fa_doctor.facts.libraries import Libraries
from fa_doctor.facts.python import Python
from fa_doctor.facts.rocm import RocmInstall
from fa_doctor.facts.toolchain import Toolchain, gather
from fa_doctor.host import LiveHost

PYTHON = Python(None, None)


def tools(staged: Staged, folder: Path, installs: tuple[RocmInstall, ...] = ()) -> Toolchain:
    return gather(staged.open(folder), PYTHON, None, installs, Libraries())


def test_cc_then_gcc_then_clang(tmp_path: Path) -> None:
    staged = rx7900xtx()
    compiler = tools(staged, tmp_path / "gcc").compiler
    assert compiler is not None
    assert (compiler.command, compiler.path, compiler.has_c_headers) == ("gcc", "/usr/bin/gcc", True)
    staged.recording["which"] |= {"gcc": None, "clang": "/usr/bin/clang"}
    staged.files["/usr/bin/clang"] = "an executable"
    compiler = tools(staged, tmp_path / "clang").compiler
    assert compiler is not None
    assert compiler.path == "/usr/bin/clang"
    for number, value in enumerate(("", "nocc", "/nowhere/cc", "ccache gcc", "/usr/bin")):
        staged.environ["CC"] = value
        compiler = tools(staged, tmp_path / str(number)).compiler
        assert compiler is not None
        assert (compiler.command, compiler.path) == (value, None)
    staged.environ["CC"] = "/usr/bin/gcc"
    compiler = tools(staged, tmp_path / "cc").compiler
    assert compiler is not None
    assert compiler.path == "/usr/bin/gcc"
    del staged.environ["CC"]
    staged.recording["which"] |= {"gcc": None, "clang": None}
    compiler = tools(staged, tmp_path / "none").compiler
    assert compiler is not None
    assert (compiler.command, compiler.path) == (None, None)


def test_a_compiler_without_the_headers_of_the_c_library(tmp_path: Path) -> None:
    staged = rx7900xtx()
    del staged.files["/usr/include/stdio.h"]
    compiler = tools(staged, tmp_path).compiler
    assert compiler is not None
    assert compiler.has_c_headers is False


def test_the_rocm_that_extensions_are_built_with(tmp_path: Path) -> None:
    staged = mi300x(1)
    found = tools(staged, tmp_path / "path")
    assert (found.rocm_home, found.hip_headers) == ("/opt/rocm-6.4.1", True)
    staged.environ["ROCM_HOME"] = "/gone/rocm"
    found = tools(staged, tmp_path / "variable")
    assert (found.rocm_home, found.rocm_home_because, found.hip_headers) == (
        "/gone/rocm",
        "ROCM_HOME=/gone/rocm",
        False,
    )
    del staged.environ["ROCM_HOME"]
    wheel = RocmInstall("7.14.1", "/site/_rocm_sdk_core", "wheel")
    assert tools(staged, tmp_path / "wheel", (wheel,)).rocm_home == "/site/_rocm_sdk_core"
    assert tools(rx7900xtx(), tmp_path / "nothing").rocm_home is None


@given(st.text(max_size=30).filter(lambda text: "\0" not in text and max(text, default="") < "\ud800"))
def test_any_cc(value: str) -> None:
    compiler = gather(LiveHost(environ={"CC": value, "PATH": "/usr/bin"}), PYTHON, None, (), Libraries()).compiler
    assert compiler is not None
    assert compiler.command == value
