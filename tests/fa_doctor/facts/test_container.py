"""Containers by the marks that engines leave, and the limits of control groups of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from staging import stage

from fa_doctor.facts import container
from fa_doctor.facts.cgroups import limits, own_groups, parse_cpu_max, parse_memory_limit
from fa_doctor.facts.container import Container, inferred
from fa_doctor.facts.driver import DeviceNode, Driver
from fa_doctor.host import LiveHost

GIB = 1 << 30
FILE = "-rwxr-xr-x root root 0"


@pytest.mark.parametrize(
    ("files", "devices", "environ", "runtime", "rootless"),
    [
        ({}, f"present\t/.dockerenv\t{FILE}", {}, "docker", None),
        ({"/run/.containerenv": 'engine="podman-5.0"\nrootless=1\n'}, "", {"container": "podman"}, "podman", True),
        ({"/run/.containerenv": "rootless=0\n"}, "", {}, "podman", False),
        ({"/run/.containerenv": ""}, "", {}, "podman", None),
        ({}, f"present\t/.dockerenv\t{FILE}", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes", None),
        ({"/proc/1/cgroup": "0::/kubepods.slice/kubepods-pod12.slice/cri-containerd-ab.scope\n"}, "", {}, "kubernetes", None),
        ({"/proc/1/cgroup": "12:memory:/docker/abcdef\n"}, "", {}, "docker", None),
        ({"/.singularity.d/startscript": ""}, "", {"APPTAINER_CONTAINER": "/x.sif"}, "apptainer", None),
        ({"/run/systemd/container": "systemd-nspawn\n"}, "", {}, "systemd-nspawn", None),
        ({}, "", {"container": "lxc"}, "lxc", None),
        ({}, "", {"container": "oci"}, "other", None),
    ],
)  # fmt: skip
def test_marks(
    files: dict[str, str | bytes],
    devices: str,
    environ: dict[str, str],
    runtime: str,
    rootless: bool | None,
    tmp_path: Path,
) -> None:
    found = container.gather(stage(tmp_path, files, devices, environ))
    assert (found.inside, found.runtime, found.rootless) == (True, runtime, rootless)
    assert found.evidence


@pytest.mark.parametrize("cgroup", ["0::/init.scope\n", "1:name=systemd:/system.slice/docker.service\n", "0::/system.slice/containerd.service\n"])  # fmt: skip
def test_a_plain_host_that_runs_an_engine_is_no_container(cgroup: str, tmp_path: Path) -> None:
    found = container.gather(stage(tmp_path, {"/proc/1/cgroup": cgroup}))
    assert (found.inside, found.runtime) == (False, None)


def test_nothing_recorded_is_not_known(tmp_path: Path) -> None:
    assert container.gather(stage(tmp_path, complete=False, environ=None)).inside is None


def test_what_the_process_was_given(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "/proc/self/status": "Name:\tx\nSeccomp:\t2\nCapEff:\t00000000a80425fb\n",
        "/proc/self/uid_map": "         0       1000          1\n",
        "/proc/sys/kernel/osrelease": "6.12.54-linuxkit\n",
    }
    disks = {"/dev/shm": {"path": "/dev/shm", "total_bytes": 64 << 20, "free_bytes": 1, "filesystem": "tmpfs", "mount_point": "/dev/shm", "read_only": False}}  # fmt: skip
    found = container.gather(stage(tmp_path, files, f"present\t/.dockerenv\t{FILE}", disks=disks))
    assert (found.seccomp, found.capabilities, found.shm_bytes) == ("filter", 0xA80425FB, 64 << 20)
    assert (found.user_namespace, found.rootless, found.docker_desktop) == (True, True, True)


def test_limits_of_version_2_are_the_tightest_on_the_way_up(tmp_path: Path) -> None:
    root = "/sys/fs/cgroup"
    files: dict[str, str | bytes] = {
        f"{root}/cgroup.controllers": "cpu memory\n",
        "/proc/self/cgroup": "0::/system.slice/slurmd/job_7/step_0\n",
        f"{root}/system.slice/slurmd/job_7/memory.max": f"{8 * GIB}\n",
        f"{root}/system.slice/slurmd/job_7/step_0/memory.max": "max\n",
        f"{root}/system.slice/memory.max": f"{64 * GIB}\n",
        f"{root}/system.slice/slurmd/job_7/step_0/cpu.max": "250000 100000\n",
    }
    found = limits(stage(tmp_path, files))
    assert (found.version, found.memory_bytes, found.cpus) == (2, 8 * GIB, 2.5)
    assert found.evidence[0].source == f"{root}/system.slice/slurmd/job_7/memory.max"


def test_limits_of_version_1(tmp_path: Path) -> None:
    root = "/sys/fs/cgroup"
    files: dict[str, str | bytes] = {
        "/proc/self/cgroup": "5:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n",
        f"{root}/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
        f"{root}/cpu/cpu.cfs_quota_us": "150000\n",
        f"{root}/cpu/cpu.cfs_period_us": "100000\n",
    }
    found = limits(stage(tmp_path, files))
    assert (found.version, found.memory_bytes, found.cpus) == (1, 4 * GIB, 1.5)


def test_no_limit_is_none() -> None:
    assert parse_memory_limit("max\n") is None
    assert parse_memory_limit("9223372036854771712\n") is None
    assert parse_cpu_max("max 100000") is None
    assert parse_cpu_max("-1", "100000") is None
    assert parse_cpu_max("100 0") is None
    assert own_groups("0::/a\n3:cpu,cpuacct:/b\nnonsense\n") == {"": "/a", "cpu": "/b", "cpuacct": "/b"}


def test_a_loaded_driver_without_its_node_is_a_container() -> None:
    absent, present = DeviceNode("/dev/kfd", False), DeviceNode("/dev/kfd", True)
    assert inferred(Container(None), Driver(True, kfd=absent), None).inside is True
    assert inferred(Container(None), Driver(True, kfd=absent), True).inside is None
    assert inferred(Container(None), Driver(True, kfd=present), None).inside is None
    assert inferred(Container(None), Driver(None, kfd=absent), None).inside is None
    assert inferred(Container(False), Driver(True, kfd=absent), None).inside is False


def test_this_machine_answers() -> None:
    assert container.gather(LiveHost()).inside in (True, False)
