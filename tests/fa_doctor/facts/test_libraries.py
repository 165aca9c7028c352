"""Which ROCm libraries would be loaded, on staged machines; and the model against a real import of torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from healthy import mi300x, rx7900xtx, unbundle, wsl
from staged_machine import Staged
from tiny_elf import tiny_elf

from fa_doctor.facts import libraries, packages, rocm
from fa_doctor.facts.libraries import Libraries, LinkedFile, is_rocm_library, same_release, stem_of
from fa_doctor.facts.linker import Rule
from fa_doctor.facts.python import gather as gather_python
from fa_doctor.host import LiveHost, RecordedHost


def looked_at(host: RecordedHost | LiveHost, python: str | None = None) -> Libraries:
    target = gather_python(host, python)
    found = packages.gather(host, target)
    return libraries.gather(host, target, found, rocm.gather(host, target, found.torch))


def of_torch(staged: Staged, folder: Path) -> LinkedFile:
    found = looked_at(staged.open(folder)).torch
    assert found is not None
    return found


def test_libraries_in_torch_win_by_rpath_over_ld_library_path(tmp_path: Path) -> None:
    staged = mi300x(1)
    staged.environ["LD_LIBRARY_PATH"] = "/opt/rocm/lib"
    found = looked_at(staged.open(tmp_path))
    assert found.torch is not None
    assert {library.rule for library in found.torch.libraries} == {Rule.RPATH}
    assert {library.release for library in found.torch.libraries} == {"6.4"}
    assert found.without_variable is None  # it changes nothing


def test_ld_library_path_shadows_libraries_found_by_runpath(tmp_path: Path) -> None:
    staged = mi300x(1)
    lib = f"{staged.site}/torch/lib"
    staged.files[f"{lib}/libtorch_hip.so"] = tiny_elf("libtorch_hip.so", ("libMIOpen.so.1",), runpath="$ORIGIN")
    staged.files[f"{lib}/libMIOpen.so.1"] = tiny_elf("libMIOpen.so.1", runpath="$ORIGIN")
    staged.files[f"{staged.site}/torch/_C.cpython-312-x86_64-linux-gnu.so"] = tiny_elf(
        None, ("libtorch.so",), runpath="$ORIGIN/lib"
    )
    staged.files[f"{lib}/libtorch.so"] = tiny_elf("libtorch.so", ("libtorch_hip.so",), runpath="$ORIGIN")
    staged.environ["LD_LIBRARY_PATH"] = "/opt/rocm/lib"
    found = looked_at(staged.open(tmp_path))
    assert found.torch is not None
    miopen = next(library for library in found.torch.libraries if library.stem == "libMIOpen")
    assert (miopen.rule, miopen.release) == (Rule.LD_LIBRARY_PATH, "6.4.1")
    assert [loser.path for loser in miopen.shadowed][:1] == [f"{lib}/libMIOpen.so.1"]
    assert found.without_variable is not None
    assert {library.release for library in found.without_variable.libraries} == {"6.4"}


def test_a_torch_without_libraries_takes_those_of_the_system(tmp_path: Path) -> None:
    staged = mi300x(1)
    unbundle(staged)
    found = of_torch(staged, tmp_path)
    assert not found.missing
    hip = next(library for library in found.libraries if library.stem == "libamdhip64")
    assert (hip.path, hip.rule, hip.release) == ("/opt/rocm/lib/libamdhip64.so.6", Rule.CACHE, "6.4.1")


def test_a_missing_library_is_cured_by_a_folder_that_the_model_proves(tmp_path: Path) -> None:
    staged = mi300x(1)
    unbundle(staged)
    del staged.files["/etc/ld.so.conf.d/rocm.conf"]
    found = of_torch(staged, tmp_path / "a")
    assert {missed.name for missed in found.missing} == {"libamdhip64.so.6", "librocblas.so.4", "libMIOpen.so.1"}
    assert {missed.cure for missed in found.missing} == {"/opt/rocm/lib"}
    # With another soname than any installed one, no folder helps.
    unbundle(staged, "libamdhip64.so.7")
    found = of_torch(staged, tmp_path / "b")
    seven = next(missed for missed in found.missing if missed.name == "libamdhip64.so.7")
    assert (seven.cure, seven.elsewhere) == (None, ())


def test_a_configured_folder_that_ldconfig_has_not_seen(tmp_path: Path) -> None:
    staged = mi300x(1)
    staged.files["/etc/ld.so.cache"] = b"glibc-ld.so.cache1.1" + bytes(28)
    assert looked_at(staged.open(tmp_path)).unregistered == ("/opt/rocm/lib",)


def test_wsl_takes_the_hsa_runtime_of_the_system(tmp_path: Path) -> None:
    found = of_torch(wsl(), tmp_path)
    assert not found.missing
    hsa = next(library for library in found.libraries if library.stem == "libhsa-runtime64")
    assert hsa.path == "/opt/rocm/lib/libhsa-runtime64.so.1"


def test_a_companion_that_brings_a_second_hip(tmp_path: Path) -> None:
    staged = mi300x(1)
    extension = tiny_elf(None, ("libc10_hip.so", "libamdhip64.so.6", "libc.so.6"), runpath="/opt/rocm/lib")
    owns = {"torchvision/__init__.py": "", "torchvision/_C.so": extension}
    staged.distribution("torchvision", "0.24.1+rocm6.4", owns=owns)
    found = looked_at(staged.open(tmp_path))
    (vision,) = found.companions
    assert [(library.stem, library.release) for library in vision.libraries if library.stem == "libamdhip64"] == [
        ("libamdhip64", "6.4.1")
    ]
    assert found.torch is not None
    assert not any(library.release == "6.4.1" for library in found.torch.libraries)


def test_wheels_that_preload_the_rocm_packages(tmp_path: Path) -> None:
    staged = rx7900xtx()
    lib = f"{staged.site}/torch/lib"
    staged.remove_below(*(f"{lib}/{name}" for name in ("libamd", "libhsa", "librocblas", "libhipblaslt", "libMIOpen")))
    core = f"{staged.site}/_rocm_sdk_core/lib"
    for name in ("libc10_hip.so", "libtorch_hip.so"):
        staged.files[f"{lib}/{name}"] = tiny_elf(name, ("libamdhip64.so.7",), rpath="$ORIGIN")
    staged.files[f"{core}/libamdhip64.so.7"] = tiny_elf("libamdhip64.so.7")
    init = 'import rocm_sdk\nrocm_sdk.initialize_process(preload_shortnames=["amdhip64", "amd_comgr"])\n'
    staged.files[f"{staged.site}/torch/_rocm_init.py"] = init
    staged.distribution("rocm-sdk-core", "7.14.1")
    found = of_torch(staged, tmp_path)
    assert not found.missing
    (hip,) = found.libraries
    assert (hip.rule, hip.release) == (Rule.PATH, "7.14.1")


def test_no_torch_and_no_extension_module(tmp_path: Path) -> None:
    staged = rx7900xtx()
    staged.remove_distribution("torch", "torch/")
    assert looked_at(staged.open(tmp_path)).torch is None


def test_names() -> None:
    assert stem_of("/x/libamdhip64.so.6.4.60401") == "libamdhip64"
    assert is_rocm_library("/x/librocblas-1a2b3c4d.so")
    assert not is_rocm_library("/x/libdrm_amdgpu.so.1")
    assert same_release("6.4", "6.4.1")
    assert not same_release("6.4.0", "6.4.1")
    assert same_release(None, "7.0")


def test_the_model_says_what_a_real_import_of_torch_maps() -> None:
    pytest.importorskip("torch")
    code = "import torch; print(''.join(sorted({l.split()[5]+chr(10) for l in open('/proc/self/maps') if '.so' in l})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    real = set(done.stdout.split())
    host = LiveHost()
    found = looked_at(host, sys.executable)
    assert found.torch is not None
    assert not found.torch.missing
    model = {host.real_path(path) for path in found.mapped[1:]}
    assert model <= real
    # And nothing of torch's own is mapped that the model does not know; the rest are Python's extension modules.
    assert {path for path in real - model if "/torch/lib/" in path} == set()
