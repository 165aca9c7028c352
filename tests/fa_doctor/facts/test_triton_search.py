"""Where each version of Triton looks for libamdhip64 and ld.lld, with the winner on staged machines."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from healthy import mi300x, rx7900xtx, unbundle
from hypothesis import given
from hypothesis import strategies as st
from staged_machine import Staged

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


def tritons() -> list[Path]:
    """The installed Triton, and more of them in the folders named by FA_DOCTOR_TRITONS (a colon list of folders that
    `pip install --no-deps --target FOLDER triton==X.Y.Z` has filled)."""
    found = [Path(folder) / "triton" for folder in os.environ.get("FA_DOCTOR_TRITONS", "").split(":") if folder]
    installed = importlib.util.find_spec("triton")
    return [*([Path(installed.origin).parent] if installed and installed.origin else []), *found]


@pytest.mark.parametrize("folder", tritons(), ids=lambda folder: folder.parent.name)
def test_triton_itself_agrees_on_this_machine(folder: Path, tmp_path: Path) -> None:
    """Triton's own search, in folders of this test, beside ours: the sources are taken away one by one."""
    match = re.search(r"__version__ = '([^']+)'", (folder / "__init__.py").read_text())
    assert match
    triton = Triton(str(folder), match[1])
    code = (
        "import sys, types, json\n"
        "sys.modules.setdefault('setuptools', types.ModuleType('setuptools'))\n"
        "import triton.backends.amd.driver as d, triton.backends.amd.compiler as c\n"
        "find = getattr(d, '_get_path_to_hip_runtime_dylib')\n"
        "linker = getattr(c.HIPBackend, 'path_to_rocm_lld', lambda: None)\n"
        "def answer(f):\n"
        "    try: return str(f())\n"
        "    except (RuntimeError, Exception) as error: return 'error: ' + str(error)\n"
        "print(json.dumps([answer(find), answer(linker)]))"
    )
    places = {"LD_LIBRARY_PATH": "path", "HIP_PATH": "hip/lib", "hipconfig": "root/lib", "ROCM_PATH": "rocm/lib"}
    for place in places.values():
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "libamdhip64.so").write_bytes(b"")
    (tmp_path / "ld.lld").write_text("#!/bin/sh\n")
    (tmp_path / "bin").mkdir()
    environ = {
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(folder.parent),
        "TRITON_LIBHIP_PATH": f"{tmp_path}/path/libamdhip64.so",
        "TRITON_HIP_LLD_PATH": f"{tmp_path}/ld.lld",
        "LD_LIBRARY_PATH": f"/nowhere:{tmp_path}/path",
        "HIP_PATH": f"{tmp_path}/hip",
        "ROCM_PATH": f"{tmp_path}/rocm",
    }
    hipconfig = tmp_path / "bin/hipconfig"
    hipconfig.write_text(f"#!/bin/sh\necho {tmp_path}/root\n")
    hipconfig.chmod(0o755)
    steps = [{}, {"TRITON_LIBHIP_PATH": "/x/libamdhip64.so.6"}, {"TRITON_LIBHIP_PATH": None}]
    steps += [{"LD_LIBRARY_PATH": None}, {"HIP_PATH": None}, {"hipconfig": None}, {"ROCM_PATH": None}]
    steps += [{"TRITON_HIP_LLD_PATH": "/x"}]
    winners = set()
    for step in steps:
        for name, value in step.items():
            if name == "hipconfig":
                hipconfig.unlink()
            elif value is None:
                environ.pop(name)
            else:
                environ[name] = value
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
        real_hip, real_linker = json.loads(done.stdout.splitlines()[-1])
        host = LiveHost(environ=environ)
        python = Python(sys.executable, "3.12.0", site_packages=(str(tmp_path / "site"),))
        hip = find_hip_library(host, python, triton, Libraries())
        assert hip is not None
        winners.add(hip.path)
        assert hip.path == (None if real_hip.startswith("error") else real_hip), (step, hip)
        linker = find_linker(host, python, triton)
        assert linker is not None
        if linker.state == "in process":
            assert real_linker == "None"
        else:
            assert linker.path == (None if real_linker.startswith("error") else real_linker), (step, linker)
    assert len(winners) >= 2


@given(st.text(max_size=200))
def test_any_version_output(text: str) -> None:
    found = llvm_of(text)
    assert found is None or 0 <= found < 1000


def test_version_outputs() -> None:
    assert llvm_of("AMD LLD 19.0.0 (/src/llvm 0000) (compatible with GNU linkers)") == 19
    assert llvm_of("LLD 18.1.3 (compatible with GNU linkers)") == 18
    assert llvm_of("GNU ld 2.40") is None
