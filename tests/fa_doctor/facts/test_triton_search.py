"""Where each version of Triton looks for libamdhip64 and ld.lld, with the winner on staged machines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from healthy import Staged, mi300x, rx7900xtx, unbundle
from hypothesis import given
from hypothesis import strategies as st

from fa_doctor.facts import libraries, packages, rocm
from fa_doctor.facts.libraries import Libraries
from fa_doctor.facts.packages import Triton
from fa_doctor.facts.python import Python
from fa_doctor.facts.python import gather as gather_python
from fa_doctor.facts.triton_search import TritonSearch, find_hip_library, find_linker, llvm_of
from fa_doctor.host import LiveHost


def set_triton(staged: Staged, version: str) -> None:
    path = f"{staged.site}/triton/__init__.py"
    staged.files[path] = f"__version__ = '{version}'\n"


def searched(staged: Staged, folder: Path) -> tuple[TritonSearch, TritonSearch]:
    host = staged.open(folder)
    python = gather_python(host)
    found = packages.gather(host, python)
    played = libraries.gather(host, python, found, rocm.gather(host, python, found.torch))
    hip = find_hip_library(host, python, found.triton, played)
    linker = find_linker(host, python, found.triton)
    assert hip is not None
    assert linker is not None
    return hip, linker


def test_what_torch_has_mapped_wins(tmp_path: Path) -> None:
    hip, linker = searched(rx7900xtx(), tmp_path)
    assert (hip.state, hip.rule) == ("found", "mapped")
    assert hip.path is not None
    assert hip.path.endswith("/torch/lib/libamdhip64.so")
    assert linker.state == "in process"


def without_torch(version: str) -> Staged:
    staged = mi300x(1)
    staged.remove_distribution("torch", "torch/")
    set_triton(staged, version)
    staged.files["/sbin/ldconfig"] = "an executable"
    return staged


@pytest.mark.parametrize(
    ("version", "variables", "rule", "path"),
    [
        ("3.2.0", {"LD_LIBRARY_PATH": "/nowhere:/opt/rocm/lib"}, "env-list:LD_LIBRARY_PATH", "/opt/rocm/lib"),
        ("3.2.0", {"HIP_PATH": "/opt/rocm"}, "ldconfig", "/opt/rocm/lib"),
        ("3.5.1", {"HIP_PATH": "/opt/rocm"}, "env-dir:HIP_PATH/lib", "/opt/rocm/lib"),
        ("3.7.1", {}, "command:hipconfig --path", "/opt/rocm/lib"),
        ("3.2.0", {"TRITON_LIBHIP_PATH": "/opt/rocm/lib/libamdhip64.so"}, "env:TRITON_LIBHIP_PATH", "/opt/rocm/lib"),
    ],
)
def test_the_order_of_each_version(
    tmp_path: Path, version: str, variables: dict[str, str], rule: str, path: str
) -> None:
    staged = without_torch(version)
    staged.environ |= variables
    hip, _ = searched(staged, tmp_path)
    assert (hip.state, hip.rule, hip.path) == ("found", rule, f"{path}/libamdhip64.so")


def test_only_versioned_names_are_not_found(tmp_path: Path) -> None:
    """A runtime package without the development part has libamdhip64.so.6 and no libamdhip64.so."""
    staged = without_torch("3.2.0")
    del staged.links["/opt/rocm-6.4.1/lib/libamdhip64.so"]
    hip, _ = searched(staged, tmp_path)
    assert hip.state == "missing"
    assert "/opt/rocm/lib/libamdhip64.so" in hip.tried


def test_a_variable_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    for number, value in enumerate(("/opt/rocm/lib", "/opt/rocm/lib/libamdhip64.so.6", "/gone/libamdhip64.so")):
        staged = rx7900xtx()
        staged.environ["TRITON_LIBHIP_PATH"] = value
        hip, _ = searched(staged, tmp_path / str(number))
        assert hip.state == "error"
        assert value in (hip.problem or "")
    staged = mi300x(1)
    set_triton(staged, "3.9.0")  # which takes a versioned name
    staged.environ["TRITON_LIBHIP_PATH"] = "/opt/rocm/lib/libamdhip64.so.6"
    assert searched(staged, tmp_path / "nine")[0].state == "found"


def test_no_ldconfig_program(tmp_path: Path) -> None:
    staged = without_torch("3.2.0")
    del staged.files["/sbin/ldconfig"]
    hip, _ = searched(staged, tmp_path)
    assert hip.state == "error"
    assert "/sbin/ldconfig" in (hip.problem or "")


def test_the_linker_up_to_3_4(tmp_path: Path) -> None:
    staged = mi300x(1)
    set_triton(staged, "3.3.1")
    _, linker = searched(staged, tmp_path / "rocm")
    assert (linker.state, linker.path) == ("found", "/opt/rocm/llvm/bin/ld.lld")
    staged = rx7900xtx()
    set_triton(staged, "3.3.1")
    staged.environ["TRITON_HIP_LLD_PATH"] = "/gone"
    _, linker = searched(staged, tmp_path / "none")
    assert (linker.state, linker.tried[-1]) == ("missing", "/usr/bin/ld.lld")
    staged.files["/usr/bin/ld.lld"] = "an executable"
    staged.commands[("/usr/bin/ld.lld", "--version")] = "Debian LLD 14.0.6 (compatible with GNU linkers)\n"
    _, linker = searched(staged, tmp_path / "old")
    assert (linker.path, linker.llvm) == ("/usr/bin/ld.lld", 14)


def test_a_torch_that_takes_rocm_from_the_system(tmp_path: Path) -> None:
    staged = mi300x(1)
    unbundle(staged)
    hip, _ = searched(staged, tmp_path)
    assert (hip.rule, hip.path) == ("mapped", "/opt/rocm/lib/libamdhip64.so.6")


def test_triton_itself_agrees_on_this_machine(tmp_path: Path) -> None:
    """The installed Triton's own search, in folders of this test, beside ours."""
    triton = pytest.importorskip("triton")
    (tmp_path / "hip/lib").mkdir(parents=True)
    (tmp_path / "path").mkdir()
    code = "from triton.backends.amd.driver import _get_path_to_hip_runtime_dylib as f\nprint(f())"
    folder = str(Path(triton.__file__).parent)
    for where in ("hip/lib", "path"):  # the later one goes first in Triton's order
        (tmp_path / where / "libamdhip64.so").write_bytes(b"")
        environ = {**os.environ, "HIP_PATH": str(tmp_path / "hip"), "LD_LIBRARY_PATH": f"/nowhere:{tmp_path}/path"}
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
        host = LiveHost(environ=environ)
        python = Python(sys.executable, "3.12.0", search_path=(str(Path(folder).parent),))
        found = find_hip_library(host, python, Triton(folder, triton.__version__), Libraries())
        assert found is not None
        assert found.path == done.stdout.strip() == str(tmp_path / where / "libamdhip64.so")


@given(st.text(max_size=200))
def test_any_version_output(text: str) -> None:
    found = llvm_of(text)
    assert found is None or 0 <= found < 1000


def test_version_outputs() -> None:
    assert llvm_of("AMD LLD 19.0.0 (/src/llvm 0000) (compatible with GNU linkers)") == 19
    assert llvm_of("LLD 18.1.3 (compatible with GNU linkers)") == 18
    assert llvm_of("GNU ld 2.40") is None
