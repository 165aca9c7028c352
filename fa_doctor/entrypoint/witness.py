"""What a verdict rests on: every question that was asked of the machine, and its answer in short.

A kept verdict may be used as long as the machine gives the same answers. So the same questions are asked again, but
cheaply: a regular file counts as unchanged if inode, size and times are the same; what the kernel makes up on each
read (/proc, /sys) is read and compared; of a command, the program file is compared, since running it again would cost
what the kept verdict saves. Added to these is what no file of the above shows: the boot, the container, the driver's
generation of its topology, and the device nodes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

from fa_doctor import __version__
from fa_doctor.host import Host, LiveHost, Problem, Stat

__all__ = ["changed", "take"]

# Asked always, whether a check reads them or not.
_ALWAYS = (
    "/proc/sys/kernel/random/boot_id",
    "/proc/sys/kernel/hostname",
    "/proc/cmdline",
    "/proc/version",
    "/sys/module/amdgpu/version",
    "/sys/module/amdgpu/srcversion",
    "/sys/class/kfd/kfd/topology/generation_id",
    "/etc/ld.so.cache",
)
_ALWAYS_LISTED = ("/dev", "/dev/dri", "/sys/class/drm")
_ALWAYS_STATED = ("/dev/kfd", "/dev/dxg")
# Answers that differ on each read of a healthy machine, and on which no verdict rests beyond their order of magnitude:
# processes and loads. What they show (a process stuck in the driver) is bounded by the age that a verdict may reach.
_RESTLESS = re.compile(r"/proc/(\d+|self|thread-self|loadavg|uptime|stat|interrupts|diskstats|net)(/|$)|/proc$")
# Numbers that move all the time in a file whose other lines matter: only their size is compared.
_COARSE = re.compile(
    r"/sys/fs/cgroup/.*/memory\.(current|usage_in_bytes)$|/sys/.*/(gpu_busy_percent|mem_busy_percent|mem_info_\w+_used|pp_dpm_\w+"
    r"|current_link_speed|temp\d+_input|power\d+_(average|input)|freq\d+_input|fan\d+_input|in\d+_input"
    r"|power_state|runtime_status)$"
)


def take(asked: Mapping[str, set[str]], host: Host) -> dict[str, Any]:
    """The witness of everything that was asked (see RecordingHost.questions), as `host` answers it; JSON-able."""
    questions = {kind: set(names) for kind, names in asked.items()}
    for path in _ALWAYS:
        questions["reads"].add(path)
    for path in _ALWAYS_LISTED:
        questions["listings"].add(path)
    for path in _ALWAYS_STATED:
        questions["stats"].add(path)
    return {
        "version": __version__,
        "user": _user(host),
        "container": _container_identity(host),
        **{
            kind: {name: _answer(host, kind, name) for name in sorted(names) if not _RESTLESS.match(name)}
            for kind, names in questions.items()
        },
    }


def changed(witness: Mapping[str, Any], host: Host) -> str | None:
    """The first thing that is no longer as it was, or None if the verdict still rests on the same ground."""
    if witness.get("version") != __version__:
        return "the version of fa-doctor"
    if witness.get("user") != _user(host):
        return "the user"
    if witness.get("container") != _container_identity(host):
        return "the container"
    for kind, answers in witness.items():
        if kind in ("version", "user", "container"):
            continue
        for name, answer in answers.items():
            if _answer(host, kind, name) != answer:
                return str(name)
    return None


def _answer(host: Host, kind: str, name: str) -> Any:
    match kind:
        case "reads":
            return _content(host, name)
        case "listings":
            listing = host.list(name)
            return listing.problem.value if listing.problem else _digest("\0".join(listing.names))
        case "stats":
            return _stat(host.stat(name))
        case "real_paths":
            return host.real_path(name)
        case "openable":
            return host.can_open(name)
        case "writable":
            return host.can_write_folder(name)
        case "disks":
            disk = host.disk(name)
            if disk is None:
                return None
            return [disk.filesystem, disk.mount_point, disk.read_only, disk.free_bytes.bit_length()]
        case "elf":
            return _identity(name)
        case "which":
            return host.which(name)
        case "programs":
            program = host.which(name)
            return None if program is None else [program, _identity(os.path.realpath(program))]
        case "variables":
            value = (host.environ or {}).get(name)
            return None if value is None else _digest(value)  # hashed: a variable may hold a secret
    raise AssertionError(kind)


def _content(host: Host, path: str) -> Any:
    if not path.startswith(("/proc/", "/sys/")):
        return _identity(path)
    found = host.read(path)
    if found.text is None:
        return (found.problem or Problem.FAILED).value
    text = found.text
    if path == "/proc/meminfo":
        # Of its fifty numbers one is the machine's, and one matters by its size.
        wanted = re.findall(r"^MemTotal:.*", text, re.MULTILINE)
        available = re.search(r"^MemAvailable:\s*(\d+)", text, re.MULTILINE)
        return [*wanted, int(available[1]).bit_length() if available else None]
    if _COARSE.search(path):
        text = re.sub(r"\d+", lambda number: str(int(number[0]).bit_length()), text[:65536])
    return _digest(text)


def _identity(path: str) -> Any:
    """Inode, size and times of a regular file (links followed), or why there is none."""
    try:
        found = os.stat(path)
    except OSError as error:
        return error.errno
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _stat(found: Stat) -> Any:
    if found.problem is not None:
        return found.problem.value
    return [found.kind.value if found.kind else None, found.mode, found.uid, found.gid, list(found.device or ())]


def _user(host: Host) -> Any:
    user = host.user
    return None if user is None else [user.uid, user.gid, list(user.groups)]


def _container_identity(host: Host) -> str:
    """What tells one container from another: the source and options of its root mount, and its cgroup.

    The root's line of mountinfo holds, for overlayfs, the upper folder that each container has for itself; the fields
    before the mount point are numbers that each start deals anew.
    """
    lines = (host.read("/proc/self/mountinfo").text or "").splitlines() if isinstance(host, LiveHost) else []
    roots = [" ".join(line.split()[4:]) for line in lines if len(line.split()) > 4 and line.split()[4] == "/"]
    return _digest("\n".join(roots))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
