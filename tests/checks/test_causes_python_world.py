"""For each cause that the target Python and its surroundings can show: a machine on which exactly that is wrong.

Each case takes a healthy machine and breaks one thing; all checks run, and nothing but the cause fails or warns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import healthy
import pytest
from cause_cases import Case, commands, judge, name_of
from healthy import in_container, install_flash_attn, replace_torch, rx7900xtx
from machine_parts import mounted_disk
from staged_machine import Staged, examine, trouble
from tiny_elf import tiny_elf

from fa_doctor.diagnosis.model import Status
from fa_doctor.facts.python import QUESTION

mi300x = partial(healthy.mi300x, 1)  # one card is enough here, and staged in half the time

ENABLE = "FLASH_ATTENTION_TRITON_AMD_ENABLE"
AUTOTUNE = "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE"


def cuda_torch(build: Callable[[], Staged] = mi300x) -> Staged:
    machine = build()
    replace_torch(machine, "2.9.1", build="cuda")
    return machine


def cpu_torch_of_a_release_without_rocm() -> Staged:
    machine = rx7900xtx()
    replace_torch(machine, "2.15.0", build="cpu")
    return machine


def cuda_torch_in_an_image() -> Staged:
    machine = in_container(mi300x(), "docker")
    replace_torch(machine, "2.9.1", build="cuda")
    return machine


def cuda_torch_in_a_managed_python() -> Staged:
    machine = mi300x()
    replace_torch(machine, "2.9.1", build="cuda")
    _move_to_system_python(machine)
    return machine


def no_torch() -> Staged:
    machine = rx7900xtx()
    machine.remove_distribution("torch", "torch/")
    machine.remove_distribution("triton-rocm", "triton/")
    machine.remove_distribution("flash-attn", "flash_attn/")
    return machine


def python_too_new() -> Staged:
    machine = no_torch()
    key = (f"{machine.venv}/bin/python", "-I", "-S", "-c", QUESTION)
    machine.commands[key] = machine.commands[key].replace("3.12", "3.16")
    machine.files = {path.replace("python3.12", "python3.16"): text for path, text in machine.files.items()}
    machine.recording["writable"][f"{machine.venv}/lib/python3.16/site-packages"] = True
    return machine


def gpu_not_in_wheel() -> Staged:
    machine = rx7900xtx()  # gfx1201 with a torch from before RDNA 4
    for path, text in machine.files.items():
        if path.endswith("nodes/1/properties") and isinstance(text, str):
            machine.files[path] = text.replace("110000", "120001").replace(str(0x744C), str(0x7550))
        if "/drm/" in path and isinstance(text, str):
            machine.files[path] = (
                text.replace("0x744c", "0x7550").replace("1002:744C", "1002:7550").replace("0xc8", "0xc0")
            )
    replace_torch(machine, "2.6.0", local="rocm6.2.4", triton=("pytorch-triton-rocm", "3.2.0"))
    machine.files["/usr/bin/ld.lld"] = "an executable"
    machine.files[f"{machine.site}/triton/backends/amd/llvm/bin/ld.lld"] = tiny_elf(None, ("libc.so.6",))
    return machine


def cuda_torchvision() -> Staged:
    machine = mi300x()
    machine.distribution(
        "torchvision",
        "0.24.1",
        ("numpy", "torch==2.9.1"),
        {"torchvision/_C.so": tiny_elf(None, ("libc10_cuda.so", "libcudart.so.12", "libc.so.6"))},
    )
    return machine


def torchaudio_of_another_torch() -> Staged:
    machine = mi300x()
    machine.distribution("torchaudio", "2.8.0+rocm6.4", ("torch==2.8.0",), {"torchaudio/__init__.py": ""})
    return machine


def sage_attention_2() -> Staged:
    machine = mi300x()
    machine.distribution("sageattention", "2.2.0", owns={"sageattention/__init__.py": ""})
    return machine


def vllm_for_cuda() -> Staged:
    machine = mi300x()
    library = tiny_elf(None, ("libcudart.so.12", "libc10_cuda.so"))
    machine.distribution("vllm", "0.11.0", owns={"vllm/_C.abi3.so": library, "vllm/__init__.py": ""})
    return machine


def no_triton() -> Staged:
    machine = mi300x()
    machine.remove_distribution("pytorch-triton-rocm", "triton/")
    return machine


def triton_leftovers() -> Staged:
    machine = no_triton()
    machine.files[f"{machine.site}/triton/backends/amd/driver.py"] = ""
    return machine


def two_tritons() -> Staged:
    machine = mi300x()
    machine.distribution("triton", "3.6.0", owns={"triton/__init__.py": "__version__ = '3.6.0'\n"})
    return machine


def triton_overwritten_and_removed() -> Staged:
    machine = mi300x()
    machine.files[f"{machine.site}/triton/__init__.py"] = "__version__ = '3.2.0'\n"
    return machine


def wrong_triton() -> Staged:
    machine = mi300x()
    machine.remove_distribution("pytorch-triton-rocm", "triton/")
    owns: dict[str, str | bytes] = {
        "triton/__init__.py": "__version__ = '3.6.0'\n",
        "triton/backends/amd/driver.py": "",
    }
    machine.distribution("triton", "3.6.0", owns=owns)
    return machine


def wrong_triton_in_the_classic_stack() -> Staged:
    machine = mi300x()
    replace_torch(machine, "2.6.0", local="rocm6.2.4", triton=("pytorch-triton-rocm", "3.3.1"), wanted="3.2.0")
    return machine


def wrong_triton_on_the_python_path() -> Staged:
    machine = mi300x()
    machine.environ["PYTHONPATH"] = "/opt/tools"
    machine.files["/opt/tools/triton/__init__.py"] = "__version__ = '3.1.0'\n"
    machine.files["/opt/tools/triton/backends/amd/driver.py"] = ""
    return machine


def no_python_headers() -> Staged:
    machine = mi300x()
    machine.remove_below("/usr/include/python3.12/")
    return machine


def no_setuptools() -> Staged:
    machine = mi300x()
    replace_torch(machine, "2.6.0", local="rocm6.2.4", triton=("pytorch-triton-rocm", "3.2.0"))
    machine.remove_distribution("setuptools", "setuptools/")
    return machine


def no_flash_attn() -> Staged:
    machine = mi300x()
    machine.remove_distribution("flash-attn", "flash_attn/")
    return machine


def no_flash_attn_and_nobody_asks() -> Staged:
    machine = no_flash_attn()
    del machine.environ[ENABLE], machine.environ[AUTOTUNE]
    return machine


def upstream(machine: Staged) -> Staged:
    install_flash_attn(machine, "2.8.3")
    return machine


def no_flag() -> Staged:
    machine = upstream(mi300x())
    del machine.environ[ENABLE]
    return machine


def flag_not_exact() -> Staged:
    machine = upstream(mi300x())
    machine.environ[ENABLE] = "1"
    return machine


def no_autotune() -> Staged:
    machine = mi300x()
    del machine.environ[AUTOTUNE]
    return machine


def autotune_on_rdna() -> Staged:
    return upstream(rx7900xtx())


def flash_attn_for_cuda() -> Staged:
    machine = mi300x()
    install_flash_attn(machine, "2.8.3+cu12torch2.9cxx11abiTRUE", extension=("libc10_cuda.so", "libcudart.so.12"))
    return machine


def flash_attn_for_another_hip() -> Staged:
    machine = mi300x()
    install_flash_attn(machine, "2.8.3", extension=("libc10_hip.so", "libamdhip64.so.7"))
    return machine


def flash_attn_for_another_python() -> Staged:
    machine = mi300x()
    install_flash_attn(machine, "2.8.3", extension=("libc10_hip.so", "libamdhip64.so.6"), python="310")
    return machine


def triton_too_new_for_flash_attn() -> Staged:
    machine = mi300x()
    replace_torch(machine, "2.15.0", local="rocm7.14", triton=("triton-rocm", "3.9.0"))
    machine.files["/sys/module/amdgpu/version"] = "6.19.14\n"
    return upstream(machine)


def no_aiter() -> Staged:
    machine = mi300x()
    install_flash_attn(machine, "2.8.4", aiter=True)
    return machine


def aiter_does_not_know_the_gpu() -> Staged:
    machine = rx7900xtx()
    machine.distribution(
        "amd-aiter",
        "0.1.5",
        owns={
            "aiter/__init__.py": "",
            "aiter/ops/__init__.py": "",
            "aiter/jit/utils/chip_info.py": 'GFX_MAP = {0: "native", 1: "gfx90a", 8: "gfx942", 13: "gfx950"}\n',
        },
    )
    return machine


def experimental_sdpa() -> Staged:
    machine = rx7900xtx()
    replace_torch(machine, "2.9.1", local="rocm6.4", triton=("pytorch-triton-rocm", "3.5.1"))
    return machine


def gfx906_with_flash_attn() -> Staged:
    machine = mi300x()  # in its place one MI50
    for path, text in machine.files.items():
        if "/kfd/" in path and isinstance(text, str):
            machine.files[path] = (
                text.replace("90402", "90006")
                .replace(str(0x74A1), str(0x66A1))
                .replace("num_xcc 8", "num_xcc 1")
                .replace("simd_count 1216", "simd_count 240")
            )
        if "/drm/" in path and isinstance(text, str):
            machine.files[path] = text.replace("0x74a1", "0x66a1").replace("1002:74A1", "1002:66A1")
    machine.remove_below("/sys/class/drm/card1/device/current_", "/sys/class/drm/card1/device/available_")
    machine.remove_below("/sys/class/drm/renderD128/device/current_c", "/sys/class/drm/renderD128/device/available_")
    replace_torch(machine, "2.9.1", local="rocm6.3", triton=("pytorch-triton-rocm", "3.5.1"))
    del machine.environ[AUTOTUNE]
    return upstream(machine)


FAIL, WARN = Status.FAIL, Status.WARN
CASES = [
    Case("CUDA torch", cuda_torch, {"TOR101": "torch-not-rocm"}, fix="torch==2.9.1+rocm6.4"),
    Case("CPU torch", cpu_torch_of_a_release_without_rocm, {"TOR101": "torch-not-rocm"}, fix="torch==2.13.0+rocm7.2"),
    Case("CUDA torch in an image", cuda_torch_in_an_image, {"TOR101": "torch-not-rocm"}, fix="RUN "),
    Case("CUDA torch, managed Python", cuda_torch_in_a_managed_python, {"TOR101": "torch-not-rocm"}, fix="-m venv"),
    Case("no torch", no_torch, {"TOR003": "torch-not-rocm"}, fix="https://download.pytorch.org/whl/rocm7.2"),
    Case("Python too new", python_too_new, {"TOR002": "python-version-unsupported"}, fix="3.12"),
    Case("GPU not in the wheel", gpu_not_in_wheel, {"TOR102": "gpu-arch-unsupported"}, fix="torch==2.13.0+rocm7.2"),
    Case("CUDA torchvision", cuda_torchvision, {"TOR103": "companion-package-cuda-built"}, fix="torchvision==0.24.1"),
    Case(
        "torchaudio of another torch",
        torchaudio_of_another_torch,
        {"TOR103": "rocm-torch-mismatch"},
        fix="torchaudio==2.9.1",
    ),
    Case("SageAttention 2", sage_attention_2, {"TOR104": "cuda-only-package"}, fix="uninstall -y sageattention"),
    Case("vLLM for CUDA", vllm_for_cuda, {"TOR104": "cuda-only-package"}, fix="uninstall -y vllm"),
    Case("no Triton", no_triton, {"TRI001": "triton-missing"}, fix="pytorch-triton-rocm==3.5.1"),
    Case("leftovers of Triton", triton_leftovers, {"TRI001": "triton-missing"}, fix="pytorch-triton-rocm==3.5.1"),
    Case("two Tritons", two_tritons, {"TRI002": "triton-dual-install"}, fix="uninstall -y triton pytorch-triton-rocm"),
    Case(
        "overwritten Triton",
        triton_overwritten_and_removed,
        {"TRI002": "triton-dual-install"},
        fix="pytorch-triton-rocm==3.5.1",
    ),
    Case("wrong Triton", wrong_triton, {"TRI003": "triton-version-mismatch"}, fix="pytorch-triton-rocm==3.5.1"),
    Case(
        "wrong Triton, classic", wrong_triton_in_the_classic_stack, {"TRI003": "triton-version-mismatch"}, fix="==3.2.0"
    ),
    Case(
        "wrong Triton on PYTHONPATH",
        wrong_triton_on_the_python_path,
        {"TRI003": "triton-version-mismatch"},
        fix="PYTHONPATH",
    ),
    Case(
        "no Python.h",
        no_python_headers,
        {"TRI005": "python-headers-missing"},
        fix="sudo apt-get install -y python3.12-dev",
    ),
    Case("no setuptools", no_setuptools, {"TRI006": None}, fix="setuptools"),
    Case("no flash_attn", no_flash_attn, {"FAT001": "flash-attn-missing"}, fix="fa-doctor install"),
    Case(
        "no flash_attn wanted",
        no_flash_attn_and_nobody_asks,
        {"FAT001": "flash-attn-missing"},
        WARN,
        "fa-doctor install",
    ),
    Case("flag missing", no_flag, {"FAT003": "backend-flag-missing-at-run"}, fix=f"export {ENABLE}=TRUE"),
    Case("flag not exact", flag_not_exact, {"FAT003": "backend-flag-missing-at-run"}, fix=f"export {ENABLE}=TRUE"),
    Case("no autotuning", no_autotune, {"FAT005": "slow-no-autotune"}, WARN, f"export {AUTOTUNE}=TRUE"),
    Case("autotuning on RDNA", autotune_on_rdna, {"FAT005": "unsupported-feature"}, fix=f"unset {AUTOTUNE}"),
    Case("flash_attn for CUDA", flash_attn_for_cuda, {"FAT002": "flash-attn-abi-mismatch"}, fix="--no-build-isolation"),
    Case(
        "flash_attn for another HIP",
        flash_attn_for_another_hip,
        {"FAT002": "flash-attn-abi-mismatch"},
        fix="flash-attn==2.8.3",
    ),
    Case("flash_attn for another Python", flash_attn_for_another_python, {"FAT002": "flash-attn-abi-mismatch"}),
    Case(
        "Triton too new",
        triton_too_new_for_flash_attn,
        {"FAT004": "triton-version-mismatch"},
        fix="--attention bundled",
    ),
    Case("no aiter", no_aiter, {"FAT006": "aiter-missing-or-broken"}, fix="AITER_TRITON_ONLY=1"),
    Case(
        "aiter without this GPU",
        aiter_does_not_know_the_gpu,
        {"FAT006": "aiter-missing-or-broken"},
        WARN,
        "uninstall -y amd-aiter",
    ),
    Case("experimental SDPA", experimental_sdpa, {"FAT009": "slow-fallback"}, WARN, "AOTRITON_ENABLE_EXPERIMENTAL=1"),
    Case(
        "gfx906",
        gfx906_with_flash_attn,
        {"FAT008": "compiler-crash"},
        fix="sdpa",
        warned={"GPU003": "gpu-arch-unsupported"},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_exactly_the_cause_is_found(case: Case, tmp_path: Path) -> None:
    judge(case, tmp_path)


def test_a_torch_that_hides_another_is_named(tmp_path: Path) -> None:
    machine = mi300x()
    machine.environ["PYTHONPATH"] = "/opt/wrong"
    machine.distribution(
        "torch",
        "2.9.1",
        owns={"torch/__init__.py": "", "torch/version.py": "__version__ = '2.9.1+cu128'\ncuda = '12.8'\nhip = None\n"},
        site="/opt/wrong",
    )
    _, findings = examine(machine, tmp_path)
    assert trouble(findings) == {"TOR101": "torch-not-rocm"}
    (finding,) = [found for found in findings if found.id == "TOR101"]
    assert f"It hides torch 2.9.1+rocm6.4 in {machine.site}." in finding.verdict.detail
    assert commands([finding]) == ["Take /opt/wrong out of PYTHONPATH", "unset PYTHONPATH"]


def test_kernels_that_were_tuned_before_need_no_variable(tmp_path: Path) -> None:
    machine = no_autotune()
    store = "/home/user/.cache/fa-doctor/tuning"
    machine.files[f"{store}/gfx90a-triton3.5.1-0123456789abcdef.json"] = "{}"
    _, findings = examine(machine, tmp_path / "another target")
    assert trouble(findings) == {"FAT005": "slow-no-autotune"}
    machine.files[f"{store}/gfx942-triton3.5.1-0123456789abcdef.json"] = "{}"
    _, findings = examine(machine, tmp_path / "this target")
    assert trouble(findings) == {}


def test_upstream_flash_attn_on_cdna_warns_of_what_it_ignores_only(tmp_path: Path) -> None:
    _, findings = examine(upstream(mi300x()), tmp_path)
    assert trouble(findings) == {"FAT007": "unsupported-feature"}


def _move_to_system_python(machine: Staged) -> None:
    """The same packages in the distribution's own Python, which PEP 668 protects."""
    system = "/usr/local/lib/python3.12/dist-packages"
    machine.files = {path.replace(machine.site, system): text for path, text in machine.files.items()}
    machine.remove_below(machine.venv)
    machine.files["/usr/lib/python3.12/EXTERNALLY-MANAGED"] = "[externally-managed]\n"
    machine.files["/usr/bin/python3"] = "an executable"
    del machine.environ["VIRTUAL_ENV"]
    machine.recording["which"]["python3"] = "/usr/bin/python3"
    answer = next(text for argv, text in machine.commands.items() if argv[-1] == QUESTION)
    machine.commands = {argv: text for argv, text in machine.commands.items() if argv[-1] != QUESTION}
    machine.commands[("/usr/bin/python3", "-I", "-S", "-c", QUESTION)] = answer
    machine.recording["writable"][system] = False
    machine.recording["disks"][system] = mounted_disk("/", "ext4")
