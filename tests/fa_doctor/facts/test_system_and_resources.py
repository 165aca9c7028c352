"""The operating system and the places that are written to, staged and on this machine."""

from __future__ import annotations

import platform
from pathlib import Path

import psutil
import pytest
from staging import stage

from fa_doctor.diagnosis.gather import gather
from fa_doctor.facts import gpus, resources, system, variables
from fa_doctor.facts.container import Container
from fa_doctor.facts.python import Python
from fa_doctor.facts.system import System
from fa_doctor.host import LiveHost, RecordedHost, open_recording
from fa_doctor.level import Level


def test_this_machine_as_the_standard_library_sees_it() -> None:
    found = system.gather(LiveHost())
    assert found.kernel == platform.release()
    assert found.memory_bytes == psutil.virtual_memory().total
    name, version = platform.libc_ver()
    if name == "glibc":
        assert found.glibc == version


@pytest.mark.parametrize(
    ("release", "manager"),
    [
        ("ID=ubuntu\nID_LIKE=debian\n", "apt-get"),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", "apt-get"),
        ("ID=rocky\nID_LIKE=\"rhel centos fedora\"\n", "dnf"),
        ("ID=opensuse-tumbleweed\nID_LIKE=\"opensuse suse\"\n", "zypper"),
        ("ID=cachyos\nID_LIKE=arch\n", "pacman"),
        ("ID=alpine\n", "apk"),
        ("ID=nixos\n", None),
        ("\x00\xff", None),
    ],
)  # fmt: skip
def test_package_managers(release: str, manager: str | None, tmp_path: Path) -> None:
    assert system.gather(stage(tmp_path, {"/etc/os-release": release})).package_manager == manager


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [("5.15.167.4-microsoft-standard-WSL2", True), ("6.8.0-60-generic", False), ("6.12.54-linuxkit", False)],
)
def test_wsl(kernel: str, expected: bool, tmp_path: Path) -> None:
    assert system.gather(stage(tmp_path, {"/proc/sys/kernel/osrelease": f"{kernel}\n"})).wsl is expected


def test_nothing_recorded_is_not_known(tmp_path: Path) -> None:
    host = RecordedHost(tmp_path)
    assert system.gather(host) == System()
    assert variables.gather(host) is None
    assert resources.gather(host, System(), Container(None), Python(None, None)).places == {}


@pytest.mark.parametrize(
    "name", ["mi100-hpc-node", "mi350-container-sysinfo", "mi250x-hpe-ex235a", "strixhalo-8060s-apu"]
)
def test_system_of_recorded_machines(name: str, shared: Path) -> None:
    import json

    expected = json.loads((shared / "machines" / name / "machine.json").read_text())["expected"]
    host = open_recording(str(shared / "machines" / name))
    found = system.gather(host, gpus.gather(host).versions)
    assert found.kernel == expected.get("kernel", found.kernel)
    assert found.pretty_name == expected.get("os", found.pretty_name)


def test_a_container_that_the_recording_implies(shared: Path) -> None:
    host = open_recording(str(shared / "machines" / "container-without-dev-kfd"))
    assert gather(host, level=Level.QUICK).container.inside is True


def test_only_known_variables_are_taken(tmp_path: Path) -> None:
    host = stage(tmp_path, environ={"AWS_SECRET_ACCESS_KEY": "x", "HF_TOKEN": "y", "TRITON_CACHE_DIR": "/a"})
    assert variables.gather(host) == {"TRITON_CACHE_DIR": "/a"}


@pytest.mark.parametrize(
    ("environ", "role", "path", "chosen_by"),
    [
        ({"HOME": "/root"}, "triton", "/root/.triton/cache", "the home folder"),
        ({"HOME": "/root", "TRITON_HOME": "/fast"}, "triton", "/fast/.triton/cache", "TRITON_HOME"),
        ({"TRITON_HOME": "/fast", "TRITON_CACHE_DIR": "/c/"}, "triton", "/c", "TRITON_CACHE_DIR"),
        ({"TMPDIR": "/scratch"}, "temporary", "/scratch", "TMPDIR"),
        ({"USER": "me", "TMPDIR": "/scratch"}, "inductor", "/scratch/torchinductor_me", "the temporary folder"),
        ({"MIOPEN_USER_DB_PATH": "/db"}, "miopen-db", "/db", "MIOPEN_USER_DB_PATH"),
        ({"HF_HOME": "/hf"}, "huggingface", "/hf", "HF_HOME"),
    ],
)
def test_where_programs_write(environ: dict[str, str], role: str, path: str, chosen_by: str, tmp_path: Path) -> None:
    place = resources.gather(stage(tmp_path, environ=environ), System(), Container(None), Python(None, None)).places[
        role
    ]
    assert (place.path, place.chosen_by) == (path, chosen_by)


def test_triton_itself_names_the_same_cache(tmp_path: Path) -> None:
    triton_knobs = pytest.importorskip("triton.knobs")
    place = resources.gather(LiveHost(), System(), Container(None), Python(None, None)).places["triton"]
    assert place.path == triton_knobs.cache.dir


def test_the_smaller_of_machine_and_limit_counts(tmp_path: Path) -> None:
    whole = System(memory_bytes=64 << 30, memory_available_bytes=60 << 30)
    found = resources.gather(stage(tmp_path), whole, Container(True, memory_limit_bytes=8 << 30), Python(None, None))
    assert (found.memory_bytes, found.memory_available_bytes) == (8 << 30, 8 << 30)


def test_a_machine_without_proc_and_sys(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    found = gather(LiveHost(str(tmp_path)), level=Level.QUICK)
    assert found.faults == ()
    assert found.system.kernel is None
    assert found.container.inside is False or found.container.inside is None
    assert found.python.executable is None


def test_unreadable_and_looping_files(tmp_path: Path) -> None:
    for folder in ("proc/self", "proc/1", "proc/sys/kernel", "etc", "sys/fs/cgroup", "run"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/os-release").symlink_to("os-release")
    (tmp_path / "proc/meminfo").mkdir()
    (tmp_path / "proc/self/mounts").write_bytes(b"\xff\x00 \\999 " * 1000)
    (tmp_path / "proc/self/status").write_bytes(b"")
    (tmp_path / "proc/1/cgroup").write_bytes(b"\x80" * 5_000_000)
    (tmp_path / "run/.containerenv").write_bytes(b"engine=\xff\nrootless=x\n")
    found = gather(LiveHost(str(tmp_path), environ={"HOME": "/root"}), level=Level.QUICK)
    assert found.faults == ()
    assert found.container.runtime == "podman"
