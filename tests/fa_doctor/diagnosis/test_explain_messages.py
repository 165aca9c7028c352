"""Messages as the software prints them, each alone on a machine with an AMD GPU, and the cause that they prove."""

from __future__ import annotations

import pytest

from fa_doctor.diagnosis.explain import explain_text, shortened

MESSAGES = {
    "ImportError: libhipfile.so.0: cannot open shared object file: No such file or directory": "rocm-library-missing",
    "ImportError: librocm_sysdeps_liblzma.so.5: cannot open shared object file: No such file or directory": (
        "rocm-library-missing"
    ),
    "crw------- 1 root root 234, 0 May 21 05:13 /dev/kfd": "device-permission",
    "/usr/bin/ld: libtorch_cpu.so: undefined reference to `hypot@GLIBC_2.35'": "glibc-or-libstdcxx-too-old",
    "clang: error: unable to find library -lstdc++": "host-compiler-missing",
    "Error! Could not locate dkms.conf file.\nFile: /var/lib/dkms/amdgpu/6.7.0/source/dkms.conf does not exist.": (
        "driver-missing"
    ),
    "kernel BUG at /var/lib/dkms/amdgpu/6.8.5/build/amd/amdkcl/kcl_common.h:24!": "driver-version-mismatch",
    "amdgpu 0000:03:00.0: ring sdma0 timeout, but soft recovered": "gpu-hang-or-reset",
    "[drm:amdgpu_job_submit [amdgpu]] *ERROR* Trying to push to a killed entity": "gpu-hang-or-reset",
    "[aiter] failed jit build [module_aiter_core]": "aiter-missing-or-broken",
    "NotImplementedError: No operator found for `memory_efficient_attention_forward` with inputs:": (
        "unsupported-feature"
    ),
    "MIOpen Error: /src/miopen/src/sqlite_db.cpp:227: Internal error while accessing SQLite database: disk I/O error": (
        "triton-cache-unwritable"
    ),
    "AttributeError: Invalid attention type encoder-only": "unsupported-feature",
    "amdgpu 0000:0d:00.0: amdgpu: SMU: I'm not done with your previous command: SMN_C2PMSG_66:0x00000012": (
        "gpu-hang-or-reset"
    ),
    "OSError: libmpi_cxx.so.40: cannot open shared object file\n(clinfo needs sudo to show the GPU)": (
        "rocm-library-missing"
    ),
    "ImportError: cannot import name 'set_wrap_triton_enabled' from 'torch._library.triton'": "triton-version-mismatch",
    "/usr/bin/ld: /opt/rocm/lib/libMIOpen.so.1.0: undefined reference to `rocblas_gemm_ex3'": "rocm-library-conflict",
    "(RayWorkerWrapper pid=1234) RuntimeError: HIP error: invalid device ordinal": "visible-devices-misuse",
    "PermissionError: [Errno 13] Permission denied: '/tmp/triton/0123456789abcdef0123456789abcdef.lock'": (
        "triton-cache-unwritable"
    ),
    "Compilation is in progress. Please wait...": "slow-first-run",
    "RuntimeError: DeviceGemm_Xdl_CShuffle<256, 128, 128, 32, 8, 8> does not support this problem": (
        "unsupported-feature"
    ),
    "AssertionError: Decode Context Parallelism (DCP) requires attention implementations": "unsupported-feature",
    "See https://pytorch.org/get-started/locally/ for up-to-date torch install instructions if no CUDA devices are "
    "seen by torch.": "torch-not-rocm",
    "HIP error: operation not permitted on an event last recorded in a capturing stream": "rccl-multi-gpu",
    "PyTorch is not able to access CUDA": "torch-not-rocm",
    "c10/util/StringUtil.h(68): catastrophic error: out of memory": "build-out-of-memory",
    "ImportError: site-packages/aiter/jit/module_rmsnorm.so: undefined symbol: _ZN7ck_tile6kentryILi1E": (
        "aiter-missing-or-broken"
    ),
    "build/amd/amdgpu/amdgpu_drv.c:2416:25: error: implicit declaration of function": "driver-missing",
    "modprobe: ERROR: could not insert 'amdkfd': Exec format error": "driver-missing",
    "Requested CUDA version:          6.3": "companion-package-cuda-built",
    "MIOpen(HIP): Warning [BuildHip] CompileSource:39:10: fatal error: 'limits' file not found": "host-compiler-missing",
    "fatal error: 'fmha_bwd.hpp' file not found": "build-hip-compile-error",
    "Permission needed to access required GPU device node(s):": "device-permission",
    "Unable to open /dev/kfd read-write: Cannot allocate memory\nuser is member of render group": "driver-missing",
    "build.sh: line 204: 119059 Killed                  $LINK -o $2.linked.bc": "build-out-of-memory",
}


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_software_proves_its_cause(message: str) -> None:
    found = explain_text(f"AMD Instinct MI300X\n{message}\n")
    assert found.confident, [(each.cause, round(each.confidence, 2)) for each in found.candidates]
    assert found.confident.cause == MESSAGES[message]


def test_rocblas_that_sees_no_device_is_not_taken_for_an_unsupported_gpu() -> None:
    found = explain_text("rocBLAS error: Could not initialize Tensile host: No devices found\n")
    assert "no-hip-gpus" in found.symptoms
    assert "gpu-arch-unsupported" not in {each.cause for each in found.candidates}


def test_a_command_that_was_typed_is_no_sign_that_the_package_is_missing() -> None:
    found = explain_text("$ pip install flash-attn --no-build-isolation\n")
    assert not {"flash-attn-missing", "build-needs-torch"} & {each.cause for each in found.candidates}


@pytest.mark.parametrize(
    "text",
    [
        "Loading checkpoint shards:  66%\nKilled\n",
        "WARNING: No libcudart.so found! Install CUDA or the cudatoolkit package (anaconda)!\n",
        "Requested CUDA version:          12.1\nDetected PyTorch CUDA version:   12.1\n",
        "torch.compile of this model goes OOM while the graph is compiled\n",
    ],
)
def test_words_that_other_machines_print_too_are_not_enough(text: str) -> None:
    assert explain_text(text).confident is None


def test_a_long_line_is_shown_around_what_matched() -> None:
    line = "x" * 900 + " RuntimeError: PassManager::run failed " + "y" * 900
    found = explain_text(f"gfx1100\n{line}\n").confident
    assert found
    shown = shortened(found.lines[0].text, 120, found.lines[0].at)
    assert "PassManager::run failed" in shown
    assert shown.startswith("…")
    assert shown.endswith("…")
    assert len(shown) == 120
    assert shortened("  short   text ", 120, 3) == "short text"


def test_a_setting_that_is_only_mentioned_is_no_slow_start() -> None:
    text = "AMD Radeon PRO W7900\nPlease describe MIOPEN_FIND_MODE and MIOPEN_USER_DB_PATH in the manual.\n"
    assert explain_text(text).confident is None


def test_wsl_is_seen_in_the_kernel_s_log() -> None:
    found = explain_text(
        "AMD Radeon RX 7800 XT\nmisc dxg: dxgkio_query_adapter_info: Ioctl failed: -22\nNo HIP GPUs are available\n"
    )
    assert found.confident
    assert found.confident.cause == "wsl-specific"
