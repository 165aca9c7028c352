"""For each cause that a container, the caches, the memory or the variables of a machine can show: a machine with exactly that.

As in test_causes_python_world: a healthy machine with one thing broken; all checks run, nothing else may be wrong.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from functools import partial
from pathlib import Path

import healthy
import pytest
from cause_cases import Case, judge, name_of
from healthy import in_container, replace_torch, rx7900xtx, wsl
from machine_parts import GIB, RENDER, mounted_disk
from staged_machine import Staged, examine
from tiny_elf import tiny_elf

from fa_doctor.diagnosis.model import Status

mi300x = partial(healthy.mi300x, 1)  # one card is enough here, and staged in half the time


def no_devices_in_the_container() -> Staged:
    machine = in_container(mi300x())
    machine.devices = {path: line for path, line in machine.devices.items() if not path.startswith("/dev/dri")}
    machine.devices |= {"/dev/kfd": None, "/dev/dri": None}
    return machine


def no_devices_in_the_pod() -> Staged:
    machine = in_container(mi300x(), "kubernetes")
    machine.devices = {path: line for path, line in machine.devices.items() if not path.startswith("/dev/dri")}
    machine.devices |= {"/dev/kfd": None, "/dev/dri": None}
    return machine


def docker_desktop() -> Staged:
    machine = in_container(rx7900xtx())
    machine.remove_below("/sys/class/kfd", "/sys/class/drm", "/sys/module/amdgpu", "/proc/modules")
    machine.devices = {"/.dockerenv": "-rwxr-xr-x root root 0", "/dev/kfd": None, "/dev/dri": None}
    for path in ("/proc/sys/kernel/osrelease", "/proc/version"):
        machine.files[path] = str(machine.files[path]).replace("6.14.0-29-generic", "6.12.54-linuxkit")
    return machine


def group_not_passed_on() -> Staged:
    machine = in_container(rx7900xtx())
    machine.recording["user"] = {"uid": 1000, "gid": 1000, "groups": [1000], "name": None, "home": "/home/user"}
    machine.recording["openable"] = {"/dev/kfd": False, "/dev/dri/renderD128": False, "/dev/dri/card1": False}
    return machine


def rootless_podman() -> Staged:
    machine = group_not_passed_on()
    del machine.devices["/.dockerenv"]
    machine = in_container(machine, "podman")
    # What the user namespace does not map shows as nobody's.
    unmapped = {
        path: (line or "").replace(f"root {RENDER}", "65534 65534")
        for path, line in machine.devices.items()
        if path.startswith("/dev/")
    }
    machine.devices |= unmapped
    return machine


def little_shared_memory() -> Staged:
    return in_container(healthy.mi300x(2), shm=64 << 20)


def home_not_writable() -> Staged:
    machine = mi300x()
    for path in machine.recording["writable"]:
        if path.startswith("/home/user/."):
            machine.recording["writable"][path] = False
    return machine


def cache_on_noexec() -> Staged:
    machine = mi300x()
    machine.environ["TRITON_CACHE_DIR"] = "/scratch/triton"
    machine.recording["writable"]["/scratch/triton"] = True
    machine.recording["disks"]["/scratch/triton"] = mounted_disk("/scratch", "xfs")
    machine.files["/proc/self/mounts"] = f"{machine.files['/proc/self/mounts']}/dev/sdc1 /scratch xfs rw,noexec 0 0\n"
    return machine


def cache_on_nfs() -> Staged:
    machine = mi300x()
    for path, disk in machine.recording["disks"].items():
        if path.startswith("/home"):
            disk |= {"filesystem": "nfs4", "mount_point": "/home"}
    return machine


def full_disk() -> Staged:
    machine = mi300x()
    for path, disk in machine.recording["disks"].items():
        if path.startswith("/home"):
            disk["free_bytes"] = 3 << 20
    return machine


def too_many_jobs() -> Staged:
    machine = rx7900xtx()
    machine.environ["MAX_JOBS"] = "48"
    return machine


def little_memory() -> Staged:
    machine = in_container(rx7900xtx())
    machine.files["/sys/fs/cgroup/memory.max"] = f"{2 * GIB}\n"
    return machine


def debug_switches() -> Staged:
    machine = mi300x()
    machine.environ["TRITON_INTERPRET"] = "1"
    return machine


def overridden_arch() -> Staged:
    machine = mi300x()
    machine.environ["TRITON_OVERRIDE_ARCH"] = "gfx1100"
    return machine


def old_libstdcxx() -> Staged:
    machine = mi300x()
    machine.recording["real_paths"]["/usr/lib/x86_64-linux-gnu/libstdc++.so.6"] = (
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.30"
    )
    library = tiny_elf(None, ("libstdc++.so.6",), versions={"libstdc++.so.6": ("GLIBCXX_3.4.32",)})
    machine.distribution("torchvision", "0.24.1+rocm6.4", ("torch==2.9.1",), {"torchvision/_C.so": library})
    return machine


def old_glibc() -> Staged:
    machine = mi300x()
    machine.commands[("getconf", "GNU_LIBC_VERSION")] = "glibc 2.27\n"
    return machine


def wsl_with_librocdxg(detection: str | None) -> Callable[[], Staged]:
    """ROCm 7.2's way: the runtime inside torch goes through librocdxg, if it is told to."""

    def build() -> Staged:
        machine = wsl()
        replace_torch(machine, "2.13.0", local="rocm7.2", triton=("triton-rocm", "3.7.1"))
        lib = posixpath.dirname(next(path for path in machine.files if "/libamdhip64.so" in path and "/opt/" in path))
        machine.files[f"{lib}/librocdxg.so"] = tiny_elf("librocdxg.so", ("libc.so.6",))
        if detection is not None:
            machine.environ["HSA_ENABLE_DXG_DETECTION"] = detection
        return machine

    return build


def wsl_with_the_runtime_of_the_wheel() -> Staged:
    machine = wsl()
    machine.files[f"{machine.site}/torch/lib/libhsa-runtime64.so"] = tiny_elf("libhsa-runtime64.so", ("libc.so.6",))
    return machine


FAIL, WARN = Status.FAIL, Status.WARN
CASES = [
    Case(
        "container without devices",
        no_devices_in_the_container,
        {"CON001": "container-devices-missing"},
        fix="--device=/dev/kfd",
    ),
    Case("pod without devices", no_devices_in_the_pod, {"CON001": "container-devices-missing"}, fix="amd.com/gpu: 1"),
    Case("Docker Desktop", docker_desktop, {"CON001": "container-devices-missing"}, fix="docker context use default"),
    Case("group not passed on", group_not_passed_on, {"CON002": "device-permission"}, fix=f"--group-add {RENDER}"),
    Case("rootless podman", rootless_podman, {"CON002": "device-permission"}, fix="--group-add keep-groups"),
    Case("little shared memory", little_shared_memory, {"CON003": "rccl-multi-gpu"}, WARN, "--shm-size 16G"),
    Case(
        "home not writable",
        home_not_writable,
        {"RES001": "triton-cache-unwritable"},
        fix="export TRITON_CACHE_DIR=/tmp/",
    ),
    Case(
        "cache on noexec", cache_on_noexec, {"RES001": "triton-cache-unwritable"}, fix="export TRITON_CACHE_DIR=/tmp/"
    ),
    Case("cache on NFS", cache_on_nfs, {"RES001": "triton-cache-unwritable"}, WARN, "export TRITON_CACHE_DIR=/tmp/"),
    Case("full disk", full_disk, {"RES002": "disk-full"}, fix="du -xh"),
    Case("too many jobs", too_many_jobs, {"RES003": "build-out-of-memory"}, WARN, "export MAX_JOBS=11"),
    Case("little memory", little_memory, {"RES005": "build-out-of-memory"}, WARN, "--memory"),
    Case("debugging switches", debug_switches, {"VAR001": None}, WARN, "unset TRITON_INTERPRET"),
    Case("overridden arch", overridden_arch, {"VAR003": "gpu-arch-unsupported"}, fix="unset TRITON_OVERRIDE_ARCH"),
    Case("old libstdc++", old_libstdcxx, {"LIB301": "glibc-or-libstdcxx-too-old"}),
    Case("old glibc", old_glibc, {"LIB301": "glibc-or-libstdcxx-too-old"}),
    Case(
        "WSL without its variable",
        wsl_with_librocdxg(None),
        {"DRV301": "wsl-specific"},
        fix="HSA_ENABLE_DXG_DETECTION=1",
    ),
    Case("WSL, the wheel's HSA", wsl_with_the_runtime_of_the_wheel, {"DRV301": "wsl-specific"}, fix="aside-for-wsl"),
]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_exactly_the_cause_is_found(case: Case, tmp_path: Path) -> None:
    judge(case, tmp_path)


def test_librocdxg_and_its_variable_are_what_a_wheel_of_rocm_7_needs(tmp_path: Path) -> None:
    _, findings = examine(wsl_with_librocdxg("1")(), tmp_path)
    (found,) = (finding for finding in findings if finding.id == "DRV301")
    assert found.status is Status.PASS, found.verdict.title
