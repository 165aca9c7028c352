"""Three healthy machines: an MI300X server, a desktop with an RX 7900 XTX, and WSL; and what is often changed of one."""

from __future__ import annotations

from machine_parts import (
    GIB,
    ROCMINFO_WSL,
    amdgpu,
    bundled_flash_attention,
    kfd_cpu_node,
    kfd_gpu,
    linux,
    rocm_tree,
    torch_rocm,
)
from staged_machine import Staged
from tiny_elf import tiny_elf

__all__ = ["in_container", "install_flash_attn", "mi300x", "replace_torch", "rx7900xtx", "unbundle", "wsl"]


def mi300x(count: int = 8) -> Staged:
    """A server with `count` MI300X in SPX mode, AMD's driver package, ROCm 6.4.1 under /opt, torch 2.9.1+rocm6.4."""
    machine = linux("6.8.0-60-generic", memory_gib=2048, processors="0-191")
    machine.environ |= {
        "FLASH_ATTENTION_TRITON_AMD_ENABLE": "TRUE",
        "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE": "TRUE",
    }
    kfd_cpu_node(machine, 0, cores=96)
    kfd_cpu_node(machine, 1, cores=96)
    for number in range(count):
        kfd_gpu(
            machine,
            node=2 + number,
            card=1 + number,
            minor=128 + 8 * number,
            bus=0x05 + 0x10 * number,
            name="ip discovery",
            gfx_target_version=90402,
            device_id=0x74A1,
            compute_units=304,
            simd_per_cu=4,
            wavefront=64,
            lds_kib=64,
            vram=206141652992,
            unique_id=0x6A9C2B1D00000001 + number,
            xcc=8,
            partition=("SPX", "NPS1"),
        )
    amdgpu(machine, dkms_version="6.12.12")
    rocm_tree(machine, "6.4.1", "6.4.60401")
    torch_rocm(machine, "2.9.1", "rocm6.4", hip="6.4.43482-0f2d60242", triton=("pytorch-triton-rocm", "3.5.1"))
    bundled_flash_attention(machine)
    return machine


def rx7900xtx() -> Staged:
    """A desktop with one RX 7900 XTX, the kernel's own driver, no ROCm but what torch 2.13.0+rocm7.2 carries."""
    machine = linux("6.14.0-29-generic", memory_gib=64, processors="0-23")
    machine.environ |= {
        "FLASH_ATTENTION_TRITON_AMD_ENABLE": "TRUE",
        "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE": "TRUE",
    }
    kfd_cpu_node(machine, 0, cores=24)
    kfd_gpu(
        machine,
        node=1,
        card=1,
        minor=128,
        bus=0x2D,
        name="navi31",
        gfx_target_version=110000,
        device_id=0x744C,
        revision=0xC8,
        compute_units=96,
        simd_per_cu=2,
        wavefront=32,
        lds_kib=64,
        vram=25753026560,
        unique_id=0x69E905A91BAB9202,
    )
    amdgpu(machine)
    torch_rocm(machine, "2.13.0", "rocm7.2", hip="7.2.26015-fc0010cf6a", triton=("triton-rocm", "3.7.1"))
    bundled_flash_attention(machine)
    return machine


def wsl() -> Staged:
    """WSL2 with an RX 7900 XTX: no KFD, /dev/dxg, ROCm 6.4.2 for WSL, AMD's torch without its own HSA runtime."""
    machine = linux("5.15.167.4-microsoft-standard-WSL2", memory_gib=32, processors="0-15")
    machine.environ |= {
        "FLASH_ATTENTION_TRITON_AMD_ENABLE": "TRUE",
        "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE": "TRUE",
        "WSL_DISTRO_NAME": "Ubuntu",
    }
    machine.devices |= {"/dev/kfd": None, "/dev/dri": None, "/dev/dxg": "crw-rw-rw- root root 10,125"}
    machine.recording["openable"]["/dev/dxg"] = True
    machine.files["/usr/lib/wsl/lib/libdxcore.so"] = tiny_elf("libdxcore.so", ("libc.so.6",))
    machine.files["/etc/ld.so.conf.d/ld.wsl.conf"] = "/usr/lib/wsl/lib\n"
    machine.files["/usr/lib/wsl/lib/libd3d12.so"] = tiny_elf("libd3d12.so", ("libc.so.6",))
    rocm_tree(machine, "6.4.2", "6.4.60402", hsa_needs=("libdxcore.so", "libc.so.6"))
    machine.commands[("rocminfo",)] = ROCMINFO_WSL
    machine.commands[("/opt/rocm/bin/rocminfo",)] = ROCMINFO_WSL
    torch_rocm(
        machine,
        "2.6.0",
        "rocm6.4.2.git76481f7c",
        hip="6.4.43484-123eb5128",
        triton=("pytorch-triton-rocm", "3.2.0+rocm6.4.2.git7e948ebf"),
        wanted="pytorch-triton-rocm==3.2.0+rocm6.4.2.git7e948ebf",
    )
    del machine.files[f"{machine.site}/torch/lib/libhsa-runtime64.so"]  # as AMD's steps for WSL ask
    machine.files[f"{machine.site}/triton/backends/amd/llvm/bin/ld.lld"] = tiny_elf(None, ("libc.so.6",))
    bundled_flash_attention(machine)
    return machine


def in_container(machine: Staged, runtime: str = "docker", shm: int = 16 * GIB) -> Staged:
    """The same machine seen from inside a container that was given everything: root, devices, shared memory."""
    if runtime == "podman":
        machine.files["/run/.containerenv"] = 'engine="podman-4.9.3"\nname="job"\nrootless=1\n'
        del machine.devices["/run/.containerenv"]
        machine.files["/proc/self/uid_map"] = "         0       1000          1\n         1     100000      65536\n"
    else:
        machine.devices["/.dockerenv"] = "-rwxr-xr-x root root 0"
    if runtime == "kubernetes":
        machine.environ["KUBERNETES_SERVICE_HOST"] = "10.96.0.1"
    machine.files["/proc/1/cgroup"] = "0::/\n"
    machine.files["/proc/self/cgroup"] = "0::/\n"
    machine.files["/proc/self/status"] = "Name:\tpython3\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n"
    machine.recording["user"] = {"uid": 0, "gid": 0, "groups": [0], "name": "root", "home": "/home/user"}
    machine.recording["disks"]["/dev/shm"] |= {"total_bytes": shm, "free_bytes": shm}
    return machine


def install_flash_attn(
    machine: Staged, version: str, *, extension: tuple[str, ...] | None = None, aiter: bool = False, python: str = "312"
) -> None:
    """Puts an upstream flash-attn in place of the bundled one: its Triton backend, or with a compiled `extension` that
    needs the libraries named. `aiter`: one of those that take their kernels from aiter."""
    machine.remove_distribution("flash-attn", "flash_attn/")
    rule = 'USE_TRITON_ROCM = os.getenv("FLASH_ATTENTION_TRITON_AMD_ENABLE", "FALSE") == "TRUE"\n'
    if aiter:
        rule += "# flash_attn_2_cuda not found, falling back to Triton\nfrom aiter.ops.triton import flash_attn_2\n"
    owns: dict[str, str | bytes] = {
        "flash_attn/__init__.py": f'__version__ = "{version}"\n',
        "flash_attn/flash_attn_interface.py": f"import os\n{rule}import flash_attn_2_cuda as flash_attn_gpu\n",
    }
    if extension is not None:
        owns[f"flash_attn_2_cuda.cpython-{python}-x86_64-linux-gnu.so"] = tiny_elf(None, (*extension, "libc.so.6"))
    machine.distribution("flash-attn", version, ("torch", "einops"), owns, tag="cp312-cp312-linux_x86_64")


def replace_torch(
    machine: Staged,
    version: str,
    *,
    build: str = "rocm",
    local: str | None = None,
    triton: tuple[str, str] | None = None,
    wanted: str | None = None,
) -> None:
    """Another torch in place of the healthy one, and where `triton` is given, another Triton."""
    machine.remove_distribution("torch", "torch/")
    if triton:
        for name in ("pytorch-triton-rocm", "triton-rocm"):
            machine.remove_distribution(name, "triton/")
    if build == "rocm":
        assert local is not None
        assert triton is not None
        requirement = f"{triton[0]}=={wanted}" if wanted else None
        hip = {
            "rocm6.3": "6.3.42131-fa1d09cbd",
            "rocm6.4": "6.4.43482-0f2d60242",
            "rocm6.2.4": "6.2.41134-65d174c3e",
            "rocm7.2": "7.2.26015-fc0010cf6a",
            "rocm7.14": "7.14.60850-1a2b3c4d5e",
        }[local]
        torch_rocm(machine, version, local, hip=hip, triton=triton, wanted=requirement)
        return
    cuda = "'12.8'" if build == "cuda" else "None"
    text = f"__version__ = '{version}{'+cu128' if build == 'cuda' else '+cpu'}'\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = None\n"
    machine.distribution("torch", version, ("triton==3.5.1",), {"torch/__init__.py": "", "torch/version.py": text})


def unbundle(staged: Staged, soname: str = "libamdhip64.so.6") -> None:
    """Turns the staged torch into one that takes ROCm from the system, as AMD's "lw" wheels do."""
    lib = f"{staged.site}/torch/lib"
    staged.remove_below(*(f"{lib}/{name}" for name in ("libamd", "libhsa", "librocblas", "libhipblaslt", "libMIOpen")))
    for name, needed in {
        "libc10_hip.so": ("libc10.so", soname, "libc.so.6"),
        "libtorch_hip.so": ("libtorch_cpu.so", "libc10_hip.so", soname, "librocblas.so.4", "libMIOpen.so.1"),
    }.items():
        staged.files[f"{lib}/{name}"] = tiny_elf(name, needed, runpath="$ORIGIN")
