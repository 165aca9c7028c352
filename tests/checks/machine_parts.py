"""What staged machines are made of: a Linux, KFD nodes, a driver, a ROCm, a torch, the attention kernels.

Sizes, ids and names are those that such machines have; nothing here was measured on one.
"""

from __future__ import annotations

from staged_machine import Staged
from staging import USER
from tiny_elf import tiny_elf

from fa_doctor.facts.python import QUESTION

VIDEO, RENDER = 44, 109  # the group ids of Ubuntu
GIB = 1 << 30


def linux(kernel: str, memory_gib: int, processors: str) -> Staged:
    """Ubuntu 24.04 for a user with a virtual environment of Python 3.12 that is active, a C compiler and headers."""
    machine = Staged()
    venv = machine.venv
    machine.files |= {
        "/etc/os-release": 'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04.3 LTS"\n',
        "/etc/group": f"root:x:0:\nvideo:x:{VIDEO}:user\nrender:x:{RENDER}:user\nuser:x:1000:\n",
        "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::/home/user:/bin/bash\n",
        "/etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
        "/etc/ld.so.conf.d/x86_64-linux-gnu.conf": "/lib/x86_64-linux-gnu\n/usr/lib/x86_64-linux-gnu\n",
        "/proc/sys/kernel/osrelease": f"{kernel}\n",
        "/proc/version": f"Linux version {kernel} (builder@host) (gcc 13.3.0) #1 SMP\n",
        "/proc/cmdline": "BOOT_IMAGE=/boot/vmlinuz root=/dev/sda1 ro quiet iommu=pt\n",
        "/proc/meminfo": f"MemTotal: {memory_gib << 20} kB\nMemFree: {memory_gib << 19} kB\nMemAvailable: {(memory_gib << 20) * 9 // 10} kB\n",
        "/proc/self/status": "Name:\tpython3\nUid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\nSeccomp:\t0\n",
        "/proc/self/uid_map": "         0          0 4294967295\n",
        "/proc/self/cgroup": "0::/user.slice/user-1000.slice/session-1.scope\n",
        "/proc/1/cgroup": "0::/init.scope\n",
        "/proc/self/mounts": "/dev/sda1 / ext4 rw,relatime 0 0\ntmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0\n/dev/sdb1 /home ext4 rw,relatime 0 0\ntmpfs /tmp tmpfs rw,nosuid,nodev 0 0\n",
        "/proc/mounts": "/dev/sda1 / ext4 rw,relatime 0 0\n/dev/sdb1 /home ext4 rw,relatime 0 0\n",
        "/proc/sys/kernel/numa_balancing": "0\n",
        "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
        "/sys/fs/cgroup/user.slice/memory.max": "max\n",
        "/sys/devices/system/cpu/online": f"{processors}\n",
        "/usr/lib/x86_64-linux-gnu/libc.so.6": tiny_elf("libc.so.6"),
        "/usr/lib/x86_64-linux-gnu/libm.so.6": tiny_elf("libm.so.6", ("libc.so.6",)),
        "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1": tiny_elf("libgcc_s.so.1", ("libc.so.6",)),
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6": tiny_elf("libstdc++.so.6", ("libc.so.6",)),
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.33": tiny_elf("libstdc++.so.6", ("libc.so.6",)),
        "/usr/bin/gcc": "an executable",
        "/usr/bin/ld": "an executable",
        "/usr/include/python3.12/Python.h": "/* Python.h */\n",
        "/usr/include/stdio.h": "/* stdio.h */\n",
        "/usr/lib/python3.12/os.py": "",
        "/usr/bin/python3.12": "an executable",
        f"{venv}/pyvenv.cfg": "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.12.3\n",
        f"{venv}/bin/python": "an executable",
        f"{venv}/bin/python3": "an executable",
    }
    for name, version in (("pip", "25.3"), ("setuptools", "80.9.0"), ("numpy", "2.3.5"), ("einops", "0.8.1")):
        machine.distribution(name, version, owns={f"{name}/__init__.py": ""})
    machine.devices |= {"/.dockerenv": None, "/run/.containerenv": None}
    machine.environ |= {
        "PATH": f"{venv}/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/home/user",
        "USER": "user",
        "LANG": "C.UTF-8",
        "VIRTUAL_ENV": venv,
    }
    answer = {
        "version": "3.12.3",
        "abiflags": "",
        "implementation": "cpython",
        "base_prefix": "/usr",
        "include": "/usr/include/python3.12",
        "stdlib": "/usr/lib/python3.12",
        "site_packages": ["/usr/local/lib/python3.12/dist-packages", "/usr/lib/python3/dist-packages"],
        "user_site": "/home/user/.local/lib/python3.12/site-packages",
    }
    machine.commands |= {
        (f"{venv}/bin/python", "-I", "-S", "-c", QUESTION): f"fa-doctor:{answer!r}\n",
        ("getconf", "GNU_LIBC_VERSION"): "glibc 2.39\n",
    }
    places = (
        "/home/user/.triton/cache",
        "/tmp",
        "/tmp/torchinductor_user",
        "/home/user/.aiter",
        "/home/user/.config/miopen",
        "/home/user/.cache/miopen",
        "/home/user/.cache/huggingface",
        machine.site,
    )
    disk = {"total_bytes": 900 * GIB, "free_bytes": 400 * GIB, "read_only": False}
    machine.recording |= {
        "user": USER,
        "writable": dict.fromkeys(places, True),
        "openable": {},
        "which": {
            "gcc": "/usr/bin/gcc",
            "cc": None,
            "clang": None,
            "ld": "/usr/bin/ld",
            "python3": f"{venv}/bin/python3",
            "getconf": "/usr/bin/getconf",
            "uv": None,
        },
        "real_paths": {
            "/usr/lib/x86_64-linux-gnu/libstdc++.so.6": "/usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.33",
            f"{venv}/bin/python": "/usr/bin/python3.12",
            f"{venv}/bin/python3": "/usr/bin/python3.12",
        },
        "disks": {
            "/dev/shm": {
                "path": "/dev/shm",
                "total_bytes": memory_gib * GIB // 2,
                "free_bytes": memory_gib * GIB // 2,
                "filesystem": "tmpfs",
                "mount_point": "/dev/shm",
                "read_only": False,
            },
            **{
                path: {
                    **disk,
                    "path": path,
                    "filesystem": "tmpfs" if path.startswith("/tmp") else "ext4",
                    "mount_point": "/tmp" if path.startswith("/tmp") else "/home",
                }
                for path in places
            },
        },
    }
    return machine


def kfd_cpu_node(machine: Staged, node: int, cores: int) -> None:
    folder = f"/sys/class/kfd/kfd/topology/nodes/{node}"
    machine.files[f"{folder}/gpu_id"] = "0\n"
    machine.files[f"{folder}/name"] = "\n"
    machine.files[f"{folder}/properties"] = (
        f"cpu_cores_count {cores}\nsimd_count 0\nmem_banks_count 1\ngfx_target_version 0\nvendor_id 0\ndevice_id 0\n"
    )


def kfd_gpu(
    machine: Staged,
    *,
    node: int,
    card: int,
    minor: int,
    bus: int,
    name: str,
    gfx_target_version: int,
    device_id: int,
    compute_units: int,
    simd_per_cu: int,
    wavefront: int,
    lds_kib: int,
    vram: int,
    unique_id: int,
    revision: int = 0,
    xcc: int = 1,
    partition: tuple[str, str] | None = None,
) -> None:
    """A GPU as KFD's topology, DRM's sysfs and the device nodes show it."""
    folder = f"/sys/class/kfd/kfd/topology/nodes/{node}"
    properties = {
        "cpu_cores_count": 0,
        "simd_count": compute_units * simd_per_cu,
        "mem_banks_count": 1,
        "caches_count": 1,
        "io_links_count": 1,
        "p2p_links_count": 0,
        "max_waves_per_simd": 16 if wavefront == 32 else 8,
        "lds_size_in_kb": lds_kib,
        "wave_front_size": wavefront,
        "array_count": 12 if wavefront == 32 else 32,
        "simd_per_cu": simd_per_cu,
        "gfx_target_version": gfx_target_version,
        "vendor_id": 0x1002,
        "device_id": device_id,
        "location_id": bus << 8,
        "domain": 0,
        "drm_render_minor": minor,
        "hive_id": 0,
        "unique_id": unique_id,
        "num_xcc": xcc,
        "local_mem_size": 0,
    }
    machine.files[f"{folder}/gpu_id"] = f"{20000 + node}\n"
    machine.files[f"{folder}/name"] = f"{name}\n"
    machine.files[f"{folder}/properties"] = "".join(f"{key} {value}\n" for key, value in properties.items())
    machine.files[f"{folder}/mem_banks/0/properties"] = (
        f"heap_type 1\nsize_in_bytes {vram}\nflags 0\nwidth 384\nmem_clk_max 1300\n"
    )
    pci = f"0000:{bus:02x}:00.0"
    device = {
        "vendor": "0x1002",
        "device": f"0x{device_id:04x}",
        "revision": f"0x{revision:02x}",
        "class": "0x030000" if wavefront == 32 else "0x120000",
        "uevent": f"DRIVER=amdgpu\nPCI_CLASS=30000\nPCI_ID=1002:{device_id:04X}\nPCI_SLOT_NAME={pci}",
        "mem_info_vram_total": str(vram),
        "mem_info_vram_used": str(300 << 20),
        "mem_info_gtt_total": str(32 * GIB),
        "mem_info_gtt_used": str(20 << 20),
        "unique_id": f"{unique_id:016x}",
        "current_link_speed": "16.0 GT/s PCIe" if wavefront == 32 else "32.0 GT/s PCIe",
        "current_link_width": "16",
        "max_link_speed": "16.0 GT/s PCIe" if wavefront == 32 else "32.0 GT/s PCIe",
        "max_link_width": "16",
        "power_dpm_force_performance_level": "auto",
        "numa_node": "0",
    }
    if partition:
        device["current_compute_partition"], device["current_memory_partition"] = partition
        device["available_compute_partition"] = "SPX, DPX, QPX, CPX"
    for base in (f"/sys/class/drm/card{card}/device", f"/sys/class/drm/renderD{minor}/device"):
        for key, value in device.items():
            machine.files[f"{base}/{key}"] = f"{value}\n"
    machine.devices[f"/dev/dri/card{card}"] = f"crw-rw---- root {VIDEO} 226,{card}"
    machine.devices[f"/dev/dri/renderD{minor}"] = f"crw-rw---- root {RENDER} 226,{minor}"
    machine.recording["openable"] |= {f"/dev/dri/card{card}": True, f"/dev/dri/renderD{minor}": True}


def amdgpu(machine: Staged, dkms_version: str | None = None) -> None:
    """The loaded kernel driver: that of the kernel, or AMD's package where a version is given."""
    machine.files["/sys/module/amdgpu/initstate"] = "live\n"
    machine.files["/sys/module/amdgpu/refcnt"] = "12\n"
    machine.files["/proc/modules"] = "amdgpu 20000000 12 - Live 0x0000000000000000\n"
    if dkms_version:
        machine.files["/sys/module/amdgpu/version"] = f"{dkms_version}\n"
    machine.files["/sys/class/kfd/kfd/dev"] = "237:0\n"
    machine.devices["/dev/kfd"] = f"crw-rw---- root {RENDER} 237,0"
    machine.recording["openable"]["/dev/kfd"] = True


def rocm_tree(machine: Staged, version: str, hip_version: str, hsa_needs: tuple[str, ...] = ("libc.so.6",)) -> None:
    """ROCm under /opt/rocm, registered with the dynamic linker."""
    major = version.split(".", 1)[0]
    libraries = {
        f"libamdhip64.so.{major}": ("libhsa-runtime64.so.1", "libamd_comgr.so.3", "libstdc++.so.6", "libc.so.6"),
        "libhsa-runtime64.so.1": hsa_needs,
        "libamd_comgr.so.3": ("libstdc++.so.6", "libc.so.6"),
        "librocblas.so.4": (f"libamdhip64.so.{major}", "libc.so.6"),
        "libhipblaslt.so.0": (f"libamdhip64.so.{major}", "libc.so.6"),
        "libMIOpen.so.1": (f"libamdhip64.so.{major}", "librocblas.so.4", "libc.so.6"),
        "librccl.so.1": (f"libamdhip64.so.{major}", "libc.so.6"),
    }
    folder = f"/opt/rocm-{version}"
    machine.links["/opt/rocm"] = folder
    for name, needed in libraries.items():
        machine.files[f"{folder}/lib/{name}"] = tiny_elf(name, needed, runpath="$ORIGIN")
        machine.links[f"{folder}/lib/{name.partition('.so')[0]}.so"] = name
    machine.files[f"{folder}/.info/version"] = f"{version}-1\n"
    numbers = (*version.split("."), "0")[:3]
    machine.files[f"{folder}/include/rocm-core/rocm_version.h"] = "".join(
        f"#define ROCM_VERSION_{name} {number}\n"
        for name, number in zip(("MAJOR", "MINOR", "PATCH"), numbers, strict=True)
    )
    machine.files[f"{folder}/include/hip/hip_runtime.h"] = "/* hip_runtime.h */\n"
    machine.files[f"{folder}/include/hip/hip_version.h"] = "/* hip_version.h */\n"
    machine.files[f"{folder}/llvm/bin/ld.lld"] = tiny_elf(None, ("libc.so.6",))
    for tool in ("rocminfo", "hipcc", "hipconfig", "rocm-smi", "amd-smi"):
        machine.files[f"{folder}/bin/{tool}"] = "an executable"
    machine.files["/etc/ld.so.conf.d/rocm.conf"] = "/opt/rocm/lib\n"
    machine.commands[("hipconfig", "--path")] = "/opt/rocm"
    machine.commands[("hipconfig", "--version")] = hip_version
    machine.environ["PATH"] += ":/opt/rocm/bin"
    machine.recording["which"] |= {
        tool: f"/opt/rocm/bin/{tool}" for tool in ("rocminfo", "hipcc", "hipconfig", "rocm-smi", "amd-smi")
    }


def torch_rocm(
    machine: Staged, version: str, local: str, *, hip: str, triton: tuple[str, str], wanted: str | None = None
) -> None:
    """A ROCm torch that carries its libraries in torch/lib, as wheels up to rocm7.2 do, and the Triton it requires."""
    site = machine.site
    full = f"{version}+{local}"
    triton_name, triton_version = triton
    release = triton_version.split("+")[0]
    wanted = wanted or f'{triton_name}=={triton_version}; platform_system == "Linux"'
    text = (
        f"from typing import Optional\n\n__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip']\n"
        f"__version__ = '{full}'\ndebug = False\ncuda: Optional[str] = None\n"
        f"git_version = '{'0' * 40}'\nhip: Optional[str] = '{hip}'\n"
    )
    machine.distribution(
        "torch",
        full,
        ("filelock", "typing-extensions>=4.10.0", "sympy", "networkx", "jinja2", "fsspec", wanted),
        {"torch/__init__.py": "", "torch/version.py": text},
        tag="cp312-cp312-manylinux_2_28_x86_64",
    )
    libraries = {
        "libamdhip64.so": ("libhsa-runtime64.so", "libamd_comgr.so", "libstdc++.so.6", "libc.so.6"),
        "libhsa-runtime64.so": ("libc.so.6",),
        "libamd_comgr.so": ("libstdc++.so.6", "libc.so.6"),
        "librocblas.so": ("libamdhip64.so", "libc.so.6"),
        "libhipblaslt.so": ("libamdhip64.so", "libc.so.6"),
        "libMIOpen.so": ("libamdhip64.so", "librocblas.so", "libc.so.6"),
        "libc10.so": ("libstdc++.so.6", "libc.so.6"),
        "libc10_hip.so": ("libc10.so", "libamdhip64.so", "libc.so.6"),
        "libtorch_cpu.so": ("libc10.so", "libc.so.6"),
        "libtorch_hip.so": ("libtorch_cpu.so", "libc10_hip.so", "libamdhip64.so", "librocblas.so", "libMIOpen.so"),
        "libtorch.so": ("libtorch_cpu.so", "libtorch_hip.so"),
    }
    for gfx in ("gfx90a", "gfx942", "gfx1030", "gfx1100", "gfx1201"):
        machine.files[f"{site}/torch/lib/rocblas/library/TensileLibrary_lazy_{gfx}.dat"] = "kernels"
    if "git" in local:  # AMD's own wheels for WSL resolve the HSA runtime by its versioned name
        libraries["libamdhip64.so"] = ("libhsa-runtime64.so.1", "libamd_comgr.so", "libstdc++.so.6", "libc.so.6")
    for name, needed in libraries.items():
        machine.files[f"{site}/torch/lib/{name}"] = tiny_elf(name, needed, rpath="$ORIGIN")
    machine.files[f"{site}/torch/_C.cpython-312-x86_64-linux-gnu.so"] = tiny_elf(
        None, ("libtorch.so", "libc.so.6"), rpath="$ORIGIN/lib"
    )
    machine.distribution(
        triton_name,
        triton_version,
        owns={
            "triton/__init__.py": f'"""isort:skip_file"""\n__version__ = \'{release}\'\n',
            "triton/backends/__init__.py": "",
            "triton/backends/amd/driver.py": "",
            "triton/backends/amd/include/hip/hip_runtime.h": "/* hip_runtime.h */\n",
            "triton/backends/amd/lib/ocml.bc": b"BC\xc0\xde",
            "triton/backends/amd/lib/ockl.bc": b"BC\xc0\xde",
            "triton/_C/libtriton.so": tiny_elf("libtriton.so", ("libstdc++.so.6", "libc.so.6")),
        },
    )


def bundled_flash_attention(machine: Staged) -> None:
    """The flash_attn that `fa-doctor install` builds from its own kernels."""
    machine.distribution(
        "flash-attn",
        "2.8.3+fadoctor.0.1.0",
        ("torch", "triton"),
        {"flash_attn/__init__.py": '__version__ = "2.8.3+fadoctor.0.1.0"\n', "flash_attn/flash_attn_interface.py": ""},
        installer="fa-doctor",
    )


ROCMINFO_WSL = """\
==============

HSA System Attributes
==============

Runtime Version:         1.1
Machine Model:           LARGE
System Endianness:       LITTLE

===

HSA Agents
===

*******
Agent 1
*******
  Name:                    AMD Ryzen 9 7950X 16-Core Processor
  Marketing Name:          AMD Ryzen 9 7950X 16-Core Processor
  Vendor Name:             CPU
  Node:                    0
  Device Type:             CPU
  Compute Unit:            32
  ISA Info:
*******
Agent 2
*******
  Name:                    gfx1100
  Marketing Name:          AMD Radeon RX 7900 XTX
  Vendor Name:             AMD
  Feature:                 KERNEL_DISPATCH
  Node:                    1
  Device Type:             GPU
  Chip ID:                 29772(0x744c)
  Compute Unit:            96
  SIMDs per CU:            2
  Wavefront Size:          32(0x20)
  Pool Info:
    Pool 1
      Segment:                 GLOBAL; FLAGS: COARSE GRAINED
      Size:                    25014272(0x17dc800) KB
      Allocatable:             TRUE
  ISA Info:
    ISA 1
      Name:                    amdgcn-amd-amdhsa--gfx1100
      Machine Models:          HSA_MACHINE_MODEL_LARGE
*** Done ***
"""


def mounted_disk(mount_point: str, filesystem: str) -> dict[str, object]:
    return {
        "path": mount_point,
        "total_bytes": 900 * GIB,
        "free_bytes": 400 * GIB,
        "filesystem": filesystem,
        "mount_point": mount_point,
        "read_only": False,
    }
