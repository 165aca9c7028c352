"""Where things are written and what room there is: caches, temporary files, the target's packages, memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fa_doctor.evidence import Evidence
from fa_doctor.facts.container import Container
from fa_doctor.facts.python import Python
from fa_doctor.facts.system import System
from fa_doctor.host import Host

__all__ = ["Mount", "Place", "Resources", "gather", "mount_of", "parse_mounts"]

NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs", "9p", "afs", "fuse.glusterfs"}
)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/mounts: where, which type, which options."""

    point: str
    filesystem: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that something writes to. `chosen_by` names the variable or rule that leads there.

    `writable`, `exists`: None if not known. `network`: on a file system of another machine. `no_exec`: libraries
    there cannot be mapped for execution.
    """

    role: str  # "triton", "inductor", "aiter", "miopen-db", "miopen-cache", "temporary", "huggingface", "packages"
    path: str
    chosen_by: str
    exists: bool | None = None
    writable: bool | None = None
    filesystem: str | None = None
    mount_point: str | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    read_only: bool | None = None
    no_exec: bool | None = None
    network: bool | None = None

    @property
    def evidence(self) -> Evidence:
        """The place in one line."""
        said = [f"chosen by {self.chosen_by}"]
        if self.filesystem:
            said.append(f"{self.filesystem} mounted at {self.mount_point}")
        if self.no_exec:
            said.append("noexec")
        if self.read_only:
            said.append("read-only")
        if self.writable is not None:
            said.append("writable" if self.writable else "not writable")
        if self.free_bytes is not None:
            said.append(f"{self.free_bytes / 2**30:.1f} GiB free")
        return Evidence(self.path, ", ".join(said))


@dataclass(frozen=True, slots=True)
class Resources:
    """Places by role, and the memory that this process may use (the smaller of machine and limit), in bytes."""

    places: Mapping[str, Place] = field(default_factory=dict)
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None
    shm_bytes: int | None = None
    cpus: float | None = None


def gather(host: Host, system: System, container: Container, python: Python) -> Resources:
    """Finds each place by the rule of the program that writes there, and asks the host about it."""
    mounts = parse_mounts(host.read("/proc/self/mounts").text or "")
    places = {
        role: _place(host, mounts, role, path, chosen)
        for role, path, chosen in _where(host, python)
        if path is not None
    }
    limit = container.memory_limit_bytes
    memory = min((value for value in (system.memory_bytes, limit) if value is not None), default=None)
    available = min((value for value in (system.memory_available_bytes, limit) if value is not None), default=None)
    return Resources(
        places=places,
        memory_bytes=memory,
        memory_available_bytes=available,
        shm_bytes=container.shm_bytes,
        cpus=container.cpu_limit if container.cpu_limit is not None else _processors(host),
    )


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """The lines of /proc/mounts; blanks in a path stand there as \\040."""
    mounts = []
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) >= 4:
            point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[1])
            mounts.append(Mount(point, words[2], tuple(words[3].split(","))))
    return tuple(mounts)


def mount_of(mounts: tuple[Mount, ...], path: str) -> Mount | None:
    """The mount that holds a path: the longest mount point above it, and of equal ones the last."""
    best: Mount | None = None
    for mount in mounts:
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _where(host: Host, python: Python) -> list[tuple[str, str | None, str]]:
    """Role, path, and which rule leads there; the path is None where the rule needs something unknown."""
    environ = host.environ
    if environ is None:
        return []
    user = host.user
    home = environ.get("HOME") or (user.home if user else None)
    name = environ.get("USER") or (user.name if user else None)
    temporary = next(
        ((environ[key], key) for key in ("TMPDIR", "TEMP", "TMP") if environ.get(key)), ("/tmp", "the default")
    )

    def first(*choices: tuple[str, str], default: str | None) -> tuple[str | None, str]:
        for key, below in choices:
            if environ.get(key):
                return environ[key].rstrip("/") + below or "/", key
        return default, "the home folder" if default else "the home folder, which is not known"

    def in_home(below: str) -> str | None:
        return f"{home.rstrip('/')}/{below}" if home else None

    inductor = environ.get("TORCHINDUCTOR_CACHE_DIR")
    found: list[tuple[str, str | None, str]] = [
        (
            "triton",
            *first(("TRITON_CACHE_DIR", ""), ("TRITON_HOME", "/.triton/cache"), default=in_home(".triton/cache")),
        ),
        ("temporary", *temporary),
        (
            "inductor",
            inductor or (f"{temporary[0].rstrip('/')}/torchinductor_{name}" if name else None),
            "TORCHINDUCTOR_CACHE_DIR" if inductor else "the temporary folder",
        ),
        ("aiter", *first(("AITER_JIT_DIR", ""), default=in_home(".aiter"))),
        ("miopen-db", *first(("MIOPEN_USER_DB_PATH", ""), default=in_home(".config/miopen"))),
        ("miopen-cache", *first(("MIOPEN_CUSTOM_CACHE_DIR", ""), default=in_home(".cache/miopen"))),
        (
            "huggingface",
            *first(("HF_HOME", ""), ("XDG_CACHE_HOME", "/huggingface"), default=in_home(".cache/huggingface")),
        ),
    ]
    if python.site_packages:
        found.append(("packages", python.site_packages[0], "the target Python"))
    return found


def _place(host: Host, mounts: tuple[Mount, ...], role: str, path: str, chosen_by: str) -> Place:
    disk = host.disk(path)
    mount = mount_of(mounts, disk.mount_point or path) if disk else None
    filesystem = disk.filesystem if disk else None
    return Place(
        role=role,
        path=path,
        chosen_by=chosen_by,
        exists=host.exists(path),
        writable=host.can_write_folder(path),
        filesystem=filesystem,
        mount_point=disk.mount_point if disk else None,
        total_bytes=disk.total_bytes if disk else None,
        free_bytes=disk.free_bytes if disk else None,
        read_only=disk.read_only if disk else None,
        no_exec="noexec" in mount.options if mount else None,
        network=filesystem in NETWORK_FILESYSTEMS if filesystem else None,
    )


def _processors(host: Host) -> float | None:
    """Online processors, from sysfs ("0-15,32-47")."""
    count = 0
    for part in (host.read_line("/sys/devices/system/cpu/online") or "").split(","):
        first, _, last = part.partition("-")
        if not re.fullmatch(r"\d{1,5}", first, re.ASCII) or (last and not re.fullmatch(r"\d{1,5}", last, re.ASCII)):
            return None
        count += int(last or first) - int(first) + 1
    return float(count) if count > 0 else None
