"""For each cause that ROCm, its libraries and the compilers can show: a machine on which exactly that is wrong.

As in test_causes_python_world: a healthy machine with one thing broken; all checks run, nothing else may be wrong.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cause_cases import Case, commands, judge, name_of
from healthy import in_container, mi300x, rx7900xtx, unbundle, wsl
from staged_machine import Staged, examine, trouble
from tiny_elf import tiny_elf

from fa_doctor.diagnosis.model import Finding, Status
from fa_doctor.facts.loaded import CHILD
from fa_doctor.level import Level


def second_rocm(machine: Staged, release: str = "7.1.0") -> None:
    """Another ROCm beside what is there, in a folder of its own and not registered with ldconfig."""
    folder = f"/opt/rocm-{release}"
    major = release.split(".")[0]
    machine.files[f"{folder}/.info/version"] = f"{release}-1\n"
    for name, needed in {
        f"libamdhip64.so.{major}": ("libhsa-runtime64.so.1", "libc.so.6"),
        "libhsa-runtime64.so.1": ("libc.so.6",),
        "libMIOpen.so.1": ("libc.so.6",),
        "libMIOpen.so": ("libc.so.6",),
    }.items():
        machine.files[f"{folder}/lib/{name}"] = tiny_elf(name, needed, runpath="$ORIGIN")
    machine.links[f"{folder}/lib/libamdhip64.so"] = f"libamdhip64.so.{major}"


def no_rocm() -> Staged:
    machine = rx7900xtx()
    unbundle(machine)
    return machine


def rocm_without_its_runtime() -> Staged:
    machine = mi300x(1)
    unbundle(machine)
    machine.remove_below("/opt/rocm-6.4.1/lib/")
    machine.links = {"/opt/rocm": "/opt/rocm-6.4.1"}
    return machine


def no_rocm_in_an_image() -> Staged:
    machine = in_container(rx7900xtx())
    unbundle(machine)
    return machine


def rocm_of_another_major_release() -> Staged:
    machine = mi300x(1)
    unbundle(machine, "libamdhip64.so.7")
    return machine


def folder_not_registered() -> Staged:
    machine = mi300x(1)
    unbundle(machine)
    del machine.files["/etc/ld.so.conf.d/rocm.conf"]
    return machine


def folder_not_registered_for_root() -> Staged:
    machine = folder_not_registered()
    machine.recording["user"] = {"uid": 0, "gid": 0, "groups": [0], "name": "root", "home": "/home/user"}
    return machine


def folder_not_registered_in_an_image() -> Staged:
    return in_container(folder_not_registered())


def ldconfig_not_run() -> Staged:
    machine = mi300x(1)
    unbundle(machine)
    machine.files["/etc/ld.so.cache"] = b"glibc-ld.so.cache1.1" + bytes(28)
    return machine


def library_path_is_taken() -> Staged:
    machine = folder_not_registered()
    machine.environ["LD_LIBRARY_PATH"] = "/usr/local/lib"
    return machine


def bundled_library_gone() -> Staged:
    machine = rx7900xtx()
    machine.remove_below(f"{machine.site}/torch/lib/libMIOpen.so")
    return machine


def bundled_library_is_no_library() -> Staged:
    machine = rx7900xtx()
    machine.files[f"{machine.site}/torch/lib/libMIOpen.so"] = "version https://git-lfs.github.com/spec/v1\n"
    return machine


def system_library_gone() -> Staged:
    machine = mi300x(1)
    name = f"{machine.site}/torch/lib/libhsa-runtime64.so"
    machine.files[name] = tiny_elf("libhsa-runtime64.so", ("libnuma.so.1", "libc.so.6"), rpath="$ORIGIN")
    return machine


def library_path_before_torch() -> Staged:
    """torch's files search by RUNPATH, which comes after LD_LIBRARY_PATH, and that names another release."""
    machine = mi300x(1)
    second_rocm(machine)
    hip = f"{machine.site}/torch/lib/libtorch_hip.so"
    needed = ("libtorch_cpu.so", "libc10_hip.so", "libamdhip64.so", "librocblas.so", "libMIOpen.so")
    machine.files[hip] = tiny_elf("libtorch_hip.so", needed, runpath="$ORIGIN")
    module = f"{machine.site}/torch/_C.cpython-312-x86_64-linux-gnu.so"
    machine.files[module] = tiny_elf(None, ("libtorch.so", "libc.so.6"), runpath="$ORIGIN/lib")
    for name, needs in {
        "libtorch.so": ("libtorch_cpu.so", "libtorch_hip.so"),
        "libtorch_cpu.so": ("libc10.so",),
    }.items():
        machine.files[f"{machine.site}/torch/lib/{name}"] = tiny_elf(name, needs, runpath="$ORIGIN")
    # Only MIOpen is asked for by a name that the other release has too: the HIP runtime stays torch's.
    del machine.links["/opt/rocm-7.1.0/lib/libamdhip64.so"]
    machine.environ["LD_LIBRARY_PATH"] = "/usr/local/lib:/opt/rocm-7.1.0/lib/"
    return machine


def preload_of_another_release() -> Staged:
    machine = rx7900xtx()
    second_rocm(machine, "6.4.1")
    machine.files["/usr/bin/python3.12"] = tiny_elf(None, ("libc.so.6",))
    machine.environ["LD_PRELOAD"] = "/opt/rocm-6.4.1/lib/libamdhip64.so.6"
    return machine


def companion_of_another_release() -> Staged:
    machine = rx7900xtx()
    second_rocm(machine)
    extension = tiny_elf(None, ("libc10_hip.so", "libamdhip64.so.7", "libc.so.6"), runpath="/opt/rocm-7.1.0/lib")
    owns: dict[str, str | bytes] = {"mamba_ssm/__init__.py": "", "selective_scan_cuda.cpython-312.so": extension}
    machine.distribution("mamba-ssm", "2.2.5", owns=owns)
    return machine


def companion_of_a_gone_release() -> Staged:
    machine = rx7900xtx()
    extension = tiny_elf(None, ("libc10_hip.so", "libamdhip64.so.5", "libc.so.6"))
    owns: dict[str, str | bytes] = {"exllamav2/__init__.py": "", "exllamav2_ext.cpython-312.so": extension}
    machine.distribution("exllamav2", "0.0.14", owns=owns)
    return machine


def rocm_packages_of_two_versions() -> Staged:
    machine = rx7900xtx()
    for name, version in (("rocm", "7.14.1"), ("rocm-sdk-core", "7.14.1"), ("rocm-sdk-libraries", "7.14.0")):
        machine.distribution(name, version)
    return machine


def triton_told_of_another_hip() -> Staged:
    machine = rx7900xtx()
    second_rocm(machine)
    machine.environ["TRITON_LIBHIP_PATH"] = "/opt/rocm-7.1.0/lib/libamdhip64.so"
    return machine


def triton_refuses_two_rocms() -> Staged:
    """Triton 3.9, a torch that carries its libraries, and the rocm packages beside it."""
    from machine_parts import torch_rocm

    machine = rx7900xtx()
    for name, modules in (("torch", "torch/"), ("triton-rocm", "triton/")):
        machine.remove_distribution(name, modules)
    torch_rocm(machine, "2.13.0", "rocm7.2", hip="7.2.26015-fc0010cf6a", triton=("triton-rocm", "3.9.0"))
    core = {"_rocm_sdk_core/lib/libamdhip64.so.7": tiny_elf("libamdhip64.so.7")}
    machine.distribution("rocm-sdk-core", "7.14.1", owns=dict(core))
    return machine


def triton_told_of_nothing() -> Staged:
    machine = rx7900xtx()
    machine.environ["TRITON_LIBHIP_PATH"] = "/opt/rocm/lib"
    return machine


def classic(machine: Staged, triton: str = "3.2.0") -> Staged:
    """The classic stack, whose Triton calls ld.lld."""
    from machine_parts import torch_rocm

    for name, modules in (("torch", "torch/"), ("triton-rocm", "triton/"), ("pytorch-triton-rocm", "triton/")):
        machine.remove_distribution(name, modules)
    torch, local, hip = ("2.6.0", "rocm6.2.4", "6.2.41134-65d174c3e")
    if triton != "3.2.0":
        torch, local, hip = ("2.8.0", "rocm6.4", "6.4.43482-0f2d60242")
    torch_rocm(machine, torch, local, hip=hip, triton=("pytorch-triton-rocm", triton))
    return machine


def no_linker() -> Staged:
    return classic(rx7900xtx())


def linker_elsewhere() -> Staged:
    machine = classic(rx7900xtx())
    second_rocm(machine, "6.2.4")
    machine.files["/opt/rocm-6.2.4/lib/llvm/bin/ld.lld"] = "an executable"
    return machine


def linker_too_old() -> Staged:
    machine = classic(rx7900xtx(), "3.4.0")
    machine.files["/usr/bin/ld.lld"] = "an executable"
    machine.commands[("/usr/bin/ld.lld", "--version")] = "Debian LLD 14.0.6 (compatible with GNU linkers)\n"
    return machine


def linker_too_old_on_debian_12() -> Staged:
    machine = linker_too_old()
    machine.files["/etc/os-release"] = 'ID=debian\nVERSION_ID="12"\n'
    return machine


def no_compiler() -> Staged:
    machine = mi300x(1)
    machine.recording["which"] |= {"gcc": None, "clang": None, "cc": None}
    return machine


def no_compiler_in_an_image() -> Staged:
    return in_container(no_compiler())


def compiler_of_a_gone_module() -> Staged:
    machine = mi300x(1)
    machine.environ["CC"] = "/apps/gcc/12/bin/gcc"
    return machine


def compiler_without_headers() -> Staged:
    machine = mi300x(1)
    machine.remove_below("/usr/include/stdio.h")
    return machine


def headers_of_triton_gone() -> Staged:
    machine = mi300x(1)
    machine.remove_below(f"{machine.site}/triton/backends/amd/include")
    return machine


def aiter(machine: Staged) -> Staged:
    owns: dict[str, str | bytes] = {
        "aiter/__init__.py": "",
        "aiter/ops/__init__.py": "",
        "aiter/jit/utils/chip_info.py": 'GFX_MAP = {0: "native", 1: "gfx90a", 8: "gfx942", 13: "gfx950"}\n',
    }
    machine.distribution("amd-aiter", "0.1.5", owns=owns)
    return machine


def aiter_finds_no_headers() -> Staged:
    machine = aiter(mi300x(1))
    machine.files["/apps/rocm/bin/hipcc"] = "an executable"
    machine.files["/apps/rocm/.info/version"] = "6.4.0-1\n"
    machine.environ["ROCM_HOME"] = "/apps/rocm"
    return machine


def aiter_without_hipcc() -> Staged:
    machine = aiter(mi300x(1))
    machine.remove_below("/opt/rocm-6.4.1/bin/hipcc")
    machine.recording["which"]["hipcc"] = None
    return machine


def aiter_with_an_old_hipcc() -> Staged:
    machine = aiter(mi300x(1))
    machine.files["/opt/rocm-6.4.1/.info/version"] = "5.7.1-1\n"
    return machine


MISSING, CONFLICT, MISMATCH = "rocm-library-missing", "rocm-library-conflict", "rocm-torch-mismatch"
NAME_IT = "export LD_LIBRARY_PATH=/opt/rocm/lib"
REGISTER = "echo /opt/rocm/lib | sudo tee /etc/ld.so.conf.d/rocm.conf\nsudo ldconfig"
REGISTER_IMAGE = "RUN echo /opt/rocm/lib > /etc/ld.so.conf.d/rocm.conf && ldconfig"
WARN = Status.WARN

CASES = [
    Case("no ROCm", no_rocm, {"ROC001": "rocm-not-installed"}, fix="torch==2.13.0+rocm7.2"),
    Case("half a ROCm", rocm_without_its_runtime, {"ROC001": "rocm-not-installed"}, fix="torch==2.9.1+rocm6.4"),
    Case("no ROCm in an image", no_rocm_in_an_image, {"ROC001": "rocm-not-installed"}, fix="FROM rocm/"),
    Case("another major ROCm", rocm_of_another_major_release, {"ROC002": MISMATCH}, fix="torch==2.9.1+rocm6.4"),
    Case("not registered", folder_not_registered, {"LIB001": MISSING}, fix=NAME_IT),
    Case("not registered, host", folder_not_registered, {"LIB001": MISSING}, fix=REGISTER),
    Case(
        "not registered, root", folder_not_registered_for_root, {"LIB001": MISSING}, fix=REGISTER.replace("sudo ", "")
    ),
    Case("not registered, image", folder_not_registered_in_an_image, {"LIB001": MISSING}, fix=REGISTER_IMAGE),
    Case("ldconfig not run", ldconfig_not_run, {"LIB001": MISSING}, fix="\nsudo ldconfig"),
    Case("a path is set", library_path_is_taken, {"LIB001": MISSING}, fix=f"{NAME_IT}:/usr/local/lib"),
    Case("bundled file gone", bundled_library_gone, {"LIB001": MISSING}, fix="--force-reinstall --no-deps"),
    Case("bundled file is text", bundled_library_is_no_library, {"LIB001": MISSING}, fix="--force-reinstall"),
    Case("libnuma gone", system_library_gone, {"LIB001": MISSING}, fix="apt-get install -y libnuma1"),
    Case(
        "LD_LIBRARY_PATH", library_path_before_torch, {"LIB002": CONFLICT}, fix="export LD_LIBRARY_PATH=/usr/local/lib"
    ),
    Case("LD_PRELOAD", preload_of_another_release, {"LIB002": CONFLICT}, fix="unset LD_PRELOAD"),
    Case("companion", companion_of_another_release, {"LIB003": CONFLICT}, fix="--no-build-isolation"),
    Case("companion, gone", companion_of_a_gone_release, {"LIB003": MISSING}, fix="--no-binary exllamav2"),
    Case("rocm packages", rocm_packages_of_two_versions, {"ROC003": CONFLICT}),
    Case("Triton, other HIP", triton_told_of_another_hip, {"LIB101": CONFLICT}, fix="unset TRITON_LIBHIP_PATH"),
    Case("Triton, two ROCms", triton_refuses_two_rocms, {"LIB101": CONFLICT}, fix="uninstall -y rocm-sdk-core"),
    Case(
        "Triton, no HIP", triton_told_of_nothing, {"LIB101": "triton-hip-library-not-found"}, fix="unset TRITON_LIBHIP"
    ),
    Case("no ld.lld", no_linker, {"CCP002": "triton-linker-missing"}, fix="pytorch-triton-rocm==3.2.0"),
    Case(
        "ld.lld elsewhere",
        linker_elsewhere,
        {"CCP002": "triton-linker-missing"},
        fix="export TRITON_HIP_LLD_PATH=/opt/rocm-6.2.4/lib/llvm/bin/ld.lld",
    ),
    Case("old ld.lld", linker_too_old, {"CCP002": "triton-linker-missing"}, fix="pytorch-triton-rocm==3.4.0"),
    Case(
        "old ld.lld, Debian", linker_too_old_on_debian_12, {"CCP002": "triton-linker-missing"}, fix="install -y lld-15"
    ),
    Case("no compiler", no_compiler, {"CCP001": "host-compiler-missing"}, fix="sudo apt-get install -y gcc libc6-dev"),
    Case(
        "no compiler, image", no_compiler_in_an_image, {"CCP001": "host-compiler-missing"}, fix="RUN apt-get update &&"
    ),
    Case("CC is gone", compiler_of_a_gone_module, {"CCP001": "host-compiler-missing"}, fix="unset CC"),
    Case("no C headers", compiler_without_headers, {"CCP001": "host-compiler-missing"}, fix="libc6-dev"),
    Case(
        "Triton's headers", headers_of_triton_gone, {"CCP003": "hip-headers-missing"}, fix="pytorch-triton-rocm==3.5.1"
    ),
    Case(
        "aiter's headers", aiter_finds_no_headers, {"CCP003": "hip-headers-missing"}, fix="export ROCM_HOME=/opt/rocm"
    ),
    Case(
        "no hipcc", aiter_without_hipcc, {"ROC004": "rocm-not-installed"}, fix="export AITER_TRITON_ONLY=1", status=WARN
    ),
    Case("old hipcc", aiter_with_an_old_hipcc, {"ROC004": MISMATCH}, fix="export AITER_TRITON_ONLY=1", status=WARN),
]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_exactly_the_cause_is_found(case: Case, tmp_path: Path) -> None:
    lines = judge(case, tmp_path)
    for beside_the_point in ("HSA_OVERRIDE_GFX_VERSION", "cuda"):
        assert beside_the_point not in lines


def test_other_versions_on_the_system_are_no_fault(tmp_path: Path) -> None:
    """A wheel with its own ROCm beside any other release, in LD_LIBRARY_PATH too: its RPATH goes first."""
    machine = rx7900xtx()
    second_rocm(machine, "6.2.4")
    machine.environ["LD_LIBRARY_PATH"] = "/opt/rocm-6.2.4/lib"
    _, findings = examine(machine, tmp_path)
    assert trouble(findings) == {}


def test_a_library_that_lies_nowhere_is_not_promised_by_ld_library_path(tmp_path: Path) -> None:
    machine = rx7900xtx()
    machine.remove_below(f"{machine.site}/torch/lib/libMIOpen.so")
    _, findings = examine(machine, tmp_path)
    (finding,) = [found for found in findings if found.id == "LIB001"]
    assert not any("LD_LIBRARY_PATH" in line for line in commands([finding]))


def imported(machine: Staged, *steps: dict[str, object], returncode: int = 0, **ending: object) -> Staged:
    """The child's output for a staged machine: what it told before it ended."""
    text = "".join(f"fa-doctor-step:{json.dumps(step)}\n" for step in steps)
    machine.commands[(f"{machine.venv}/bin/python", "-c", CHILD)] = text
    return machine


def steps_of(machine: Staged, *more: str) -> list[dict[str, object]]:
    lib = f"{machine.site}/torch/lib"
    return [
        {"step": "start", "version": "3.12.3"},
        {"step": "torch", "version": "2.9.1+rocm6.4", "hip": "6.4.43482"},
        {"step": "triton", "version": "3.5.1"},
        {"step": "maps", "paths": [f"{lib}/libamdhip64.so", f"{lib}/libhsa-runtime64.so", *more]},
        {"step": "asking"},
        {"step": "devices", "available": True, "count": 1, "arch_list": ["gfx942"]},
        {"step": "end"},
    ]


def deep(machine: Staged, folder: Path) -> dict[str, Finding]:
    _, findings = examine(machine, folder, Level.STANDARD)
    return {found.id: found for found in findings}


def test_a_real_import_that_is_well(tmp_path: Path) -> None:
    machine = mi300x(1)
    found = deep(imported(machine, *steps_of(machine)), tmp_path)
    assert {found[id].status for id in ("LIB201", "LIB202", "LIB203")} == {Status.PASS}


def test_two_releases_in_the_process(tmp_path: Path) -> None:
    machine = mi300x(1)
    second_rocm(machine)
    machine.environ["LD_LIBRARY_PATH"] = "/opt/rocm-7.1.0/lib"
    found = deep(imported(machine, *steps_of(machine, "/opt/rocm-7.1.0/lib/libMIOpen.so.1")), tmp_path)
    assert found["LIB202"].status is Status.FAIL
    assert found["LIB202"].verdict.cause == CONFLICT
    assert "unset LD_LIBRARY_PATH" in commands([found["LIB202"]])


def test_the_hsa_runtime_of_wsl_is_no_second_release(tmp_path: Path) -> None:
    machine = wsl()
    steps = steps_of(machine, "/opt/rocm-6.4.2/lib/libhsa-runtime64.so.1")
    found = deep(imported(machine, *steps), tmp_path)
    assert found["LIB202"].status is Status.PASS


def test_an_import_that_fails(tmp_path: Path) -> None:
    machine = rx7900xtx()
    error = {
        "type": "OSError",
        "lines": ["OSError: libhipsparselt.so.0: cannot open shared object file: No such file or directory"],
    }
    found = deep(imported(machine, {"step": "torch", "error": error}, {"step": "end"}), tmp_path / "a")
    assert (found["LIB201"].status, found["LIB201"].verdict.cause) == (Status.FAIL, MISSING)
    assert found["LIB202"].status is Status.SKIP
    assert found["LIB201"].verdict.fixes
    machine = rx7900xtx()
    error = {"type": "ImportError", "lines": ["ImportError: cannot import name 'x' from 'y'"]}
    found = deep(imported(machine, {"step": "torch", "error": error}, {"step": "end"}), tmp_path / "b")
    assert (found["LIB201"].status, found["LIB201"].verdict.cause) == (Status.FAIL, None)


def test_a_child_that_dies_or_hangs(tmp_path: Path) -> None:
    endings: dict[str, dict[str, object]] = {
        "was killed by SIGSEGV": {"returncode": -11},
        "did not end": {"returncode": None, "problem": "timed out"},
        "with status 9": {"returncode": 9},
    }
    for number, (words, ending) in enumerate(endings.items()):
        for reached, id in ((1, "LIB201"), (2, "LIB201"), (5, "LIB203")):
            machine = rx7900xtx()
            folder = tmp_path / f"{number}-{reached}"
            imported(machine, *steps_of(machine)[:reached]).open(folder)
            log = json.loads((folder / "recording.json").read_text())
            for command in log["commands"]:
                if command["argv"][-1] == CHILD:
                    command.update(ending, stderr="Fatal Python error: something\n")
            found = findings_of(folder, log)
            assert found[id].status is Status.FAIL
            assert words in found[id].verdict.title
            assert found[id].verdict.evidence
            if (id, words) == ("LIB203", "did not end"):
                assert found[id].verdict.cause == "gpu-hang-or-reset"


def test_a_torch_that_sees_no_gpu(tmp_path: Path) -> None:
    machine = rx7900xtx()
    steps = steps_of(machine)
    steps[5] = {"step": "devices", "available": False, "count": 0, "arch_list": ["gfx1100"]}
    found = deep(imported(machine, *steps), tmp_path)
    assert found["LIB201"].status is Status.PASS
    assert found["LIB203"].status is Status.FAIL
    assert "torch sees no GPU" in found["LIB203"].verdict.title


def findings_of(folder: Path, log: dict[str, object]) -> dict[str, Finding]:
    """The findings of a recording whose log was changed."""
    from fa_doctor.diagnosis.check import all_checks
    from fa_doctor.diagnosis.engine import run_checks
    from fa_doctor.diagnosis.gather import gather
    from fa_doctor.host import RecordedHost

    (folder / "recording.json").write_text(json.dumps(log))
    machine = gather(RecordedHost(folder), level=Level.STANDARD)
    return {found.id: found for found in run_checks(machine, all_checks(), Level.STANDARD)}
