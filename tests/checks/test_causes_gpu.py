"""For each cause that a GPU, its driver or the node's settings can show: a machine on which exactly it is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cause_cases import Case, commands, judge, name_of
from healthy import mi300x, rx7900xtx, wsl
from machine_parts import GIB, RENDER, kfd_gpu
from staged_machine import Staged, examine, trouble

from fa_doctor.diagnosis.model import Status

KERNEL = "6.14.0-29-generic"


def pci(machine: Staged, address: str, vendor: int, device: int, pci_class: int, driver: str | None = None) -> None:
    """A function on the PCI bus, with a driver or without."""
    folder = f"/sys/bus/pci/devices/{address}"
    base, sub, interface = pci_class >> 16, pci_class >> 8 & 0xFF, pci_class & 0xFF
    alias = f"pci:v{vendor:08X}d{device:08X}sv00000000sd00000000bc{base:02X}sc{sub:02X}i{interface:02X}"
    machine.files[f"{folder}/modalias"] = f"{alias}\n"
    machine.files[f"{folder}/uevent"] = (f"DRIVER={driver}\n" if driver else "") + f"PCI_SLOT_NAME={address}\n"


def without_gpu(machine: Staged) -> Staged:
    """The machine without its AMD GPU: no driver, no nodes, nothing in sysfs."""
    machine.remove_below("/sys/class/kfd", "/sys/class/drm", "/sys/module/amdgpu", "/proc/modules")
    machine.devices = {path: line for path, line in machine.devices.items() if "/dev/dri" not in path}
    machine.devices |= {"/dev/kfd": None, "/dev/dri": None}
    machine.recording["openable"] = {}
    return machine


def not_loaded() -> Staged:
    machine = without_gpu(rx7900xtx())
    pci(machine, "0000:2d:00.0", 0x1002, 0x744C, 0x030000)
    machine.files[f"/lib/modules/{KERNEL}/kernel/drivers/gpu/drm/amd/amdgpu/amdgpu.ko.zst"] = "a module"
    return machine


def blacklisted() -> Staged:
    machine = not_loaded()
    machine.files["/etc/modprobe.d/blacklist-gpu.conf"] = "# for the old card\nblacklist amdgpu\n"
    return machine


def nomodeset() -> Staged:
    machine = not_loaded()
    machine.files["/proc/cmdline"] = "BOOT_IMAGE=/boot/vmlinuz root=/dev/sda1 ro quiet nomodeset\n"
    return machine


def dkms_not_built() -> Staged:
    machine = not_loaded()
    machine.files["/var/lib/dkms/amdgpu/6.12.12-2187269.24.04/6.8.0-60-generic/x86_64/log/make.log"] = ""
    return machine


def no_extra_modules() -> Staged:
    machine = not_loaded()
    machine.remove_below(f"/lib/modules/{KERNEL}")
    machine.files[f"/lib/modules/{KERNEL}/modules.dep"] = ""
    return machine


def not_loaded_on_the_host_of_a_container() -> Staged:
    machine = not_loaded()
    machine.devices["/.dockerenv"] = "-rwxr-xr-x root root 0"
    return machine


def virtual_machine_without_gpu() -> Staged:
    machine = without_gpu(rx7900xtx())
    pci(machine, "0000:00:0f.0", 0x15AD, 0x0405, 0x030000, "vmwgfx")
    return machine


def nvidia_only() -> Staged:
    machine = without_gpu(rx7900xtx())
    pci(machine, "0000:09:00.0", 0x10DE, 0x2704, 0x030000, "nvidia")
    return machine


def handed_to_a_virtual_machine() -> Staged:
    machine = without_gpu(rx7900xtx())
    pci(machine, "0000:2d:00.0", 0x1002, 0x744C, 0x030000, "vfio-pci")
    return machine


def radeon_driver() -> Staged:
    machine = without_gpu(rx7900xtx())
    pci(machine, "0000:01:00.0", 0x1002, 0x6818, 0x030000, "radeon")
    return machine


def no_compute_node() -> Staged:
    """amdgpu drives the card, and the compute driver skipped it."""
    machine = rx7900xtx()
    machine.remove_below("/sys/class/kfd/kfd/topology/nodes/1")
    pci(machine, "0000:2d:00.0", 0x1002, 0x744C, 0x030000, "amdgpu")
    machine.commands[("dmesg",)] = "[    5.1] kfd kfd: amdgpu: skipped device 1002:744c, PCI rejects atomics 730<0\n"
    return machine


def no_compute_interface() -> Staged:
    machine = rx7900xtx()
    machine.devices["/dev/kfd"] = None
    machine.recording["openable"].pop("/dev/kfd")
    return machine


def not_in_the_groups() -> Staged:
    machine = rx7900xtx()
    machine.recording["user"] = {"uid": 1000, "gid": 1000, "groups": [1000], "name": "user", "home": "/home/user"}
    machine.files["/etc/group"] = f"root:x:0:\nvideo:x:44:\nrender:x:{RENDER}:\nuser:x:1000:\n"
    machine.recording["openable"] = dict.fromkeys(machine.recording["openable"], False)
    return machine


def not_logged_in_again() -> Staged:
    machine = not_in_the_groups()
    machine.files["/etc/group"] = f"root:x:0:\nvideo:x:44:user\nrender:x:{RENDER}:user\nuser:x:1000:\n"
    return machine


def nodes_of_root() -> Staged:
    machine = not_in_the_groups()
    machine.devices["/dev/kfd"] = "crw------- root root 237,0"
    return machine


def mode_alone_tells() -> Staged:
    machine = not_in_the_groups()
    machine.recording["openable"] = {}
    return machine


def old_driver_package() -> Staged:
    machine = rx7900xtx()
    machine.files["/sys/module/amdgpu/version"] = "6.7.0\n"
    return machine


def slightly_old_driver_package() -> Staged:
    machine = mi300x()
    machine.files["/sys/module/amdgpu/version"] = "6.3.6\n"
    return machine


def package_not_built_for_the_kernel() -> Staged:
    machine = rx7900xtx()
    machine.files["/var/lib/dkms/amdgpu/6.12.12-2187269.24.04/6.8.0-60-generic/x86_64/log/make.log"] = ""
    return machine


def override(
    value: str, build: Callable[[], Staged] = mi300x, name: str = "HSA_OVERRIDE_GFX_VERSION"
) -> Callable[[], Staged]:
    def make() -> Staged:
        machine = build()
        machine.environ[name] = value
        return machine

    return make


def other_silicon(gfx_target_version: int, device_id: int) -> Staged:
    """The desktop with another card in the place of the RX 7900 XTX."""
    machine = rx7900xtx()
    path = "/sys/class/kfd/kfd/topology/nodes/1/properties"
    text = str(machine.files[path]).replace("gfx_target_version 110000", f"gfx_target_version {gfx_target_version}")
    machine.files[path] = text.replace(f"device_id {0x744C}", f"device_id {device_id}")
    return machine


def small_rdna2() -> Staged:
    """An RX 6700 XT, for which the wheel has no code, under an override of another generation."""
    machine = other_silicon(100301, 0x73DF)
    machine.environ["HSA_OVERRIDE_GFX_VERSION"] = "11.0.0"
    return machine


def left_over() -> Staged:
    """An RX 7800 XT, for which older wheels had no code and this one has."""
    machine = other_silicon(110001, 0x747E)
    machine.environ["HSA_OVERRIDE_GFX_VERSION"] = "11.0.0"
    return machine


def with_integrated(first: bool) -> Callable[[], Staged]:
    """The desktop with the GPU of its processor, before or behind the card."""

    def make() -> Staged:
        machine = rx7900xtx()
        if first:
            machine.remove_below("/sys/class/kfd/kfd/topology/nodes/1")
            card = {
                path.replace("/nodes/1/", "/nodes/2/"): text
                for path, text in rx7900xtx().files.items()
                if "/nodes/1/" in path
            }
            machine.files |= card
        kfd_gpu(
            machine,
            node=1 if first else 2,
            card=0,
            minor=129,
            bus=0x76,
            name="raphael",
            gfx_target_version=100306,
            device_id=0x164E,
            compute_units=2,
            simd_per_cu=2,
            wavefront=32,
            lds_kib=64,
            vram=GIB // 2,
            unique_id=0,
        )
        return machine

    return make


def card_hidden_beside_integrated() -> Staged:
    machine = with_integrated(first=False)()
    machine.environ["ROCR_VISIBLE_DEVICES"] = "1"
    return machine


def visible(build: Callable[[], Staged] = mi300x, **variables: str) -> Callable[[], Staged]:
    def make() -> Staged:
        machine = build()
        machine.environ |= variables
        return machine

    return make


def stuck_process() -> Staged:
    machine = mi300x()
    machine.files["/proc/4242/stat"] = "4242 (train (gpu) x) D 1 4242 4242 0 -1 4194304\n"
    machine.files["/proc/4242/wchan"] = "amdgpu_fence_wait_empty\n"
    return machine


def hang_in_the_log() -> Staged:
    machine = rx7900xtx()
    machine.commands[("dmesg",)] = (
        "[  100.1] usb 1-1: new device\n"
        "[ 2000.1] amdgpu 0000:2d:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=10, emitted seq=12\n"
        "[ 2000.2] amdgpu 0000:2d:00.0: amdgpu: GPU reset begin!\n"
        "[ 2003.9] amdgpu 0000:2d:00.0: amdgpu: GPU Recovery Failed: -62\n"
    )
    return machine


def reset_in_the_log() -> Staged:
    machine = hang_in_the_log()
    text = machine.commands[("dmesg",)]
    machine.commands[("dmesg",)] = text.replace("GPU Recovery Failed: -62", "GPU reset(2) succeeded!")
    return machine


def too_old() -> Staged:
    """An MI25 alone."""
    return other_silicon(90000, 0x6860)


def withheld() -> Staged:
    """A batch job whose device cgroup holds no GPU."""
    machine = mi300x(2)
    for node in (2, 3):
        machine.remove_below(f"/sys/class/kfd/kfd/topology/nodes/{node}")
        machine.files[f"/sys/class/kfd/kfd/topology/nodes/{node}/name"] = ""
    machine.recording["reads"] = {f"/sys/class/kfd/kfd/topology/nodes/{node}/properties": "denied" for node in (2, 3)}
    return machine


def wsl_without_dxg() -> Staged:
    machine = wsl()
    machine.devices["/dev/dxg"] = None
    machine.recording["openable"].pop("/dev/dxg")
    return machine


def wsl_without_adapter() -> Staged:
    machine = wsl()
    said = "WSL environment detected.\n[topology_sysfs_get_system_props] No WDDM adapters found.\nhsa_init Failed\n"
    machine.commands[("rocminfo",)] = machine.commands[("/opt/rocm/bin/rocminfo",)] = said
    return machine


def one_fell_off() -> Staged:
    machine = mi300x()
    machine.remove_below("/sys/class/kfd/kfd/topology/nodes/9")
    return machine


def change(path: str, text: str, build: Callable[[], Staged] = mi300x) -> Callable[[], Staged]:
    """A machine with one file of sysfs or /proc as given."""

    def make() -> Staged:
        machine = build()
        machine.files[path] = text
        return machine

    return make


def capped() -> Staged:
    machine = mi300x()
    folder = "/sys/class/drm/card3/device/hwmon/hwmon7"
    machine.files |= {f"{folder}/power1_cap": "400000000\n", f"{folder}/power1_cap_default": "750000000\n"}
    return machine


def balancing() -> Staged:
    machine = mi300x()
    machine.files |= {"/proc/sys/kernel/numa_balancing": "1\n", "/sys/devices/system/node/has_memory": "0-1\n"}
    return machine


def deep_idle() -> Staged:
    machine = mi300x()
    for number, (name, latency) in enumerate((("POLL", 0), ("C1", 1), ("C2", 800))):
        folder = f"/sys/devices/system/cpu/cpu0/cpuidle/state{number}"
        machine.files |= {
            f"{folder}/name": f"{name}\n",
            f"{folder}/latency": f"{latency}\n",
            f"{folder}/disable": "0\n",
        }
    return machine


def split(count: int) -> Callable[[], Staged]:
    """One MI300X in CPX mode, of whose eight devices `count` are there."""

    def make() -> Staged:
        machine = mi300x(1)
        machine.remove_below("/sys/class/kfd/kfd/topology/nodes/2")
        for number in range(count):
            kfd_gpu(
                machine,
                node=2 + number,
                card=1,
                minor=128 + number,
                bus=0x05,
                name="ip discovery",
                gfx_target_version=90402,
                device_id=0x74A1,
                compute_units=38,
                simd_per_cu=4,
                wavefront=64,
                lds_kib=64,
                vram=24 * GIB,
                unique_id=0x6A9C2B1D00000001,
                xcc=1,
                partition=("CPX", "NPS1"),
            )
            path = f"/sys/class/kfd/kfd/topology/nodes/{2 + number}/properties"
            machine.files[path] = str(machine.files[path]).replace(
                f"location_id {0x500}", f"location_id {0x500 + number}"
            )
        return machine

    return make


FAIL, WARN = Status.FAIL, Status.WARN
CARD = "/sys/class/drm/card1/device"
CASES = [
    Case("driver not loaded", not_loaded, {"DRV001": "driver-missing"}, fix="sudo modprobe amdgpu"),
    Case("driver blacklisted", blacklisted, {"DRV001": "driver-missing"}, fix="/etc/modprobe.d/blacklist-gpu.conf"),
    Case("nomodeset", nomodeset, {"DRV001": "driver-missing"}, fix="update-grub"),
    Case("DKMS not built", dkms_not_built, {"DRV001": "driver-missing"}, fix=f"dkms autoinstall -k {KERNEL}"),
    Case("no extra modules", no_extra_modules, {"DRV001": "driver-missing"}, fix=f"linux-modules-extra-{KERNEL}"),
    Case(
        "not loaded below a container",
        not_loaded_on_the_host_of_a_container,
        {"DRV001": "driver-missing"},
        fix="sudo modprobe",
    ),
    Case("virtual machine", virtual_machine_without_gpu, {"GPU001": "driver-missing"}, title="VMware"),
    Case("NVIDIA only", nvidia_only, {"GPU001": None}, title="NVIDIA"),
    Case("vfio-pci", handed_to_a_virtual_machine, {"GPU001": "driver-missing"}, title="vfio-pci"),
    Case("radeon driver", radeon_driver, {"GPU001": "gpu-arch-unsupported"}, title="Pitcairn"),
    Case("no compute node", no_compute_node, {"GPU001": "driver-version-mismatch"}, fix="dmesg"),
    Case("no compute interface", no_compute_interface, {"DRV002": "driver-missing"}, fix="HSA_AMD"),
    Case("not in the groups", not_in_the_groups, {"DRV003": "device-permission"}, fix="sudo usermod -aG render user"),
    Case("not logged in again", not_logged_in_again, {"DRV003": "device-permission"}, fix="newgrp render"),
    Case("nodes of root", nodes_of_root, {"DRV003": "device-permission"}, fix="70-kfd-render.rules"),
    Case("mode alone", mode_alone_tells, {"DRV003": "device-permission"}, fix="sudo usermod -aG render user"),
    Case("driver package too old", old_driver_package, {"DRV004": "driver-version-mismatch"}, fix="amdgpu-install"),
    Case("driver package a little old", slightly_old_driver_package, {"DRV004": "driver-version-mismatch"}, WARN),
    Case(
        "driver package not built",
        package_not_built_for_the_kernel,
        {"DRV004": "driver-version-mismatch"},
        WARN,
        "dkms",
    ),
    Case("override across families", override("10.3.0"), {"GPU004": "hsa-override-wrong"}, fix="unset HSA_OVERRIDE"),
    Case("override in hex", override("9.0.a"), {"GPU004": "hsa-override-wrong"}, title="decimal"),
    Case(
        "override left over",
        left_over,
        {"GPU004": "hsa-override-wrong"},
        WARN,
        "unset HSA_OVERRIDE",
    ),
    Case(
        "override of another generation",
        small_rdna2,
        {"GPU004": "hsa-override-wrong"},
        fix="HSA_OVERRIDE_GFX_VERSION=10.3.0",
    ),
    Case(
        "override of one node",
        override("10.3.0", name="HSA_OVERRIDE_GFX_VERSION_3"),
        {"GPU004": "hsa-override-wrong"},
        fix="unset HSA_OVERRIDE_GFX_VERSION_3",
    ),
    Case(
        "override of no node",
        override("9.4.2", name="HSA_OVERRIDE_GFX_VERSION_77"),
        {"GPU004": "hsa-override-wrong"},
        WARN,
    ),
    Case(
        "integrated GPU first",
        with_integrated(first=True),
        {"GPU005": "integrated-gpu-selected"},
        fix="ROCR_VISIBLE_DEVICES=1",
    ),
    Case(
        "integrated GPU second",
        with_integrated(first=False),
        {"GPU005": "integrated-gpu-selected"},
        WARN,
        "ROCR_VISIBLE_DEVICES=0",
    ),
    Case(
        "only the integrated GPU",
        card_hidden_beside_integrated,
        {"GPU005": "integrated-gpu-selected"},
        fix="ROCR_VISIBLE_DEVICES=0",
    ),
    Case(
        "both lists",
        visible(ROCR_VISIBLE_DEVICES="1", CUDA_VISIBLE_DEVICES="1"),
        {"GPU006": "visible-devices-misuse"},
        fix="unset CUDA_VISIBLE_DEVICES",
    ),
    Case(
        "minus one",
        visible(CUDA_VISIBLE_DEVICES="-1"),
        {"GPU006": "visible-devices-misuse"},
        fix="unset CUDA_VISIBLE_DEVICES",
    ),
    Case(
        "empty ROCR",
        visible(ROCR_VISIBLE_DEVICES=""),
        {"GPU006": "visible-devices-misuse"},
        fix="unset ROCR_VISIBLE_DEVICES",
    ),
    Case(
        "too many for torch",
        visible(ROCR_VISIBLE_DEVICES="0,1", HIP_VISIBLE_DEVICES="0,1,2"),
        {"GPU006": "visible-devices-misuse"},
        fix="unset HIP_VISIBLE_DEVICES",
    ),
    Case(
        "no such index",
        visible(HIP_VISIBLE_DEVICES="0,8,1"),
        {"GPU006": "visible-devices-misuse"},
        WARN,
        title="1 of 8",
    ),
    Case(
        "lists that differ",
        visible(HIP_VISIBLE_DEVICES="0,1", CUDA_VISIBLE_DEVICES="2"),
        {"GPU006": "visible-devices-misuse"},
        WARN,
    ),
    Case("empty CUDA", visible(CUDA_VISIBLE_DEVICES=""), {"GPU006": "visible-devices-misuse"}, WARN),
    Case("stuck process", stuck_process, {"GPU007": "gpu-hang-or-reset"}, fix="reboot"),
    Case("hang in the log", hang_in_the_log, {"GPU007": "gpu-hang-or-reset"}, fix="dmesg"),
    Case("reset in the log", reset_in_the_log, {"GPU007": "gpu-hang-or-reset"}, WARN, "dmesg"),
    Case("too old", too_old, {"GPU003": "gpu-arch-unsupported"}, title="gfx900"),
    Case("withheld", withheld, {"GPU001": "container-devices-missing"}, title="2 GPUs"),
    Case("WSL without dxg", wsl_without_dxg, {"DRV001": "wsl-specific"}, fix="wsl.exe --update"),
    Case("WSL without adapter", wsl_without_adapter, {"GPU001": "wsl-specific"}, fix="wsl.exe --shutdown"),
    Case("one of eight gone", one_fell_off, {"GPU002": "driver-version-mismatch"}, WARN, "dmesg"),
    Case("memory in use", change(f"{CARD}/mem_info_vram_used", str(180 * GIB)), {"GPU008": "vram-out-of-memory"}, WARN),
    Case(
        "clocks held low",
        change(f"{CARD}/power_dpm_force_performance_level", "low\n"),
        {"SPD001": None},
        WARN,
        "echo auto",
    ),
    Case("power cap", capped, {"SPD002": None}, WARN, "--power-cap 750"),
    Case("four lanes", change(f"{CARD}/current_link_width", "4\n", rx7900xtx), {"SPD003": None}, WARN),
    Case("split card", split(8), {"SPD004": None}, WARN, "--compute-partition SPX"),
    Case("a partition is missing", split(7), {"SPD004": None}, WARN),
    Case("memory mode", change(f"{CARD}/current_memory_partition", "NPS4\n"), {"SPD004": None}, WARN, "NPS1"),
    Case(
        "memory errors",
        change(f"{CARD}/ras/umc_err_count", "ue: 2\nce: 9\n"),
        {"SPD005": None},
        WARN,
        title="2 uncorrectable",
    ),
    Case("NUMA balancing", balancing, {"SPD006": None}, WARN, "sudo sysctl kernel.numa_balancing=0"),
    Case(
        "IOMMU",
        change("/sys/bus/pci/devices/0000:05:00.0/iommu_group/type", "DMA-FQ\n"),
        {"SPD007": "rccl-multi-gpu"},
        WARN,
    ),
    Case("deep idle", deep_idle, {"SPD008": None}, WARN, "cpupower idle-set -D 100"),
]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_exactly_the_cause_is_found(case: Case, tmp_path: Path) -> None:
    assert "install ROCm" not in judge(case, tmp_path)


def test_root_is_told_nothing_with_sudo(tmp_path: Path) -> None:
    machine = not_loaded()
    machine.recording["user"] = {"uid": 0, "gid": 0, "groups": [0], "name": "root", "home": "/root"}
    _, findings = examine(machine, tmp_path)
    assert "modprobe amdgpu" in commands(findings)
    assert "sudo" not in commands([found for found in findings if found.id == "DRV001"])


@pytest.mark.parametrize(
    ("value", "build"),
    [("11.0.0", rx7900xtx), ("9.4.2", mi300x)],
    ids=["RX 7900 XTX as itself", "MI300X as itself"],
)
def test_an_override_to_what_the_gpu_is_does_no_harm(value: str, build: Callable[[], Staged], tmp_path: Path) -> None:
    _, findings = examine(override(value, build)(), tmp_path)
    assert trouble(findings) == {}


def test_unique_ids_choose_devices_too(tmp_path: Path) -> None:
    machine = mi300x()
    machine.environ["HIP_VISIBLE_DEVICES"] = "GPU-6a9c2b1d00000003,GPU-6a9c2b1d00000001"
    found, findings = examine(machine, tmp_path)
    assert trouble(findings) == {}
    assert [gpu.index for gpu in found.gpus.known if gpu.visible] == [0, 2]


def test_a_container_with_one_of_eight_gpus_is_well(tmp_path: Path) -> None:
    """The host's other cards stand in its sysfs, and the kernel withholds their nodes: nothing is wrong with that."""
    machine = mi300x()
    machine.devices["/.dockerenv"] = "-rwxr-xr-x root root 0"
    for number in range(1, 8):
        node, minor = 2 + number, 128 + 8 * number
        machine.remove_below(f"/sys/class/kfd/kfd/topology/nodes/{node}/")
        machine.files[f"/sys/class/kfd/kfd/topology/nodes/{node}/io_links/0/properties"] = ""
        machine.recording.setdefault("reads", {})[f"/sys/class/kfd/kfd/topology/nodes/{node}/properties"] = "denied"
        del machine.devices[f"/dev/dri/renderD{minor}"]
    found, findings = examine(machine, tmp_path)
    assert len(found.gpus.known) == 1
    assert set(found.gpus.withheld) == set(range(3, 10))
    assert [one for one in findings if one.id[:3] in ("GPU", "DRV") and one.status in (FAIL, WARN)] == []


def test_a_hang_of_the_past_is_a_warning_where_rocminfo_answers_now(tmp_path: Path) -> None:
    machine = hang_in_the_log()
    machine.commands[("rocminfo",)] = "Agent 1\n  Name: gfx1100\n  Device Type: GPU\n  Node: 1\n"
    _, findings = examine(machine, tmp_path)
    assert trouble(findings) == {"GPU007": "gpu-hang-or-reset"}
    assert [found.status for found in findings if found.id == "GPU007"] == [WARN]
