"""Signs that the kernel driver or a GPU is stuck: lines of the kernel log, processes that wait in the kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fa_doctor.host import Host
from fa_doctor.knowledge.kernel_log import meaning_of

__all__ = ["LogTrouble", "StuckProcess", "find_trouble", "read_kernel_log", "state_of_stat", "stuck_processes"]

_LINES_KEPT = 40
_LOG_COMMANDS = (
    ("dmesg",),
    ("journalctl", "-k", "-b", "--no-pager", "-n", "4000"),  # for members of adm or systemd-journal
    ("tail", "-c", "1000000", "/var/log/kern.log"),
)
_IN_DRIVER = re.compile(r"amdgpu|kfd|drm_|ttm_|dma_fence|svm_range|hmm_|amdttm|kcl_")
_DRIVER_THREADS = re.compile(r"amdgpu|kfd|gfx_0|comp_1|sdma")


@dataclass(frozen=True, slots=True)
class LogTrouble:
    """A line of the kernel log, and what it means; `kind` as in knowledge/kernel_log.toml."""

    line: str
    kind: str
    meaning: str
    source: str


@dataclass(frozen=True, slots=True)
class StuckProcess:
    """A process in state D (it waits in the kernel and cannot be killed) that has to do with the GPU."""

    pid: int
    name: str
    waits_in: str | None  # the kernel function, where this user may see it


def find_trouble(text: str, source: str) -> tuple[LogTrouble, ...]:
    """The telling lines of a kernel log, the newest kept."""
    found: list[LogTrouble] = []
    for line in text.splitlines():
        known = meaning_of(line)
        if known is not None:
            found.append(LogTrouble(line.strip()[:400], known.kind, known.meaning, source))
    return tuple(found[-_LINES_KEPT:])


def read_kernel_log(host: Host) -> tuple[LogTrouble, ...] | None:
    """The telling lines, from the first of dmesg, journalctl and kern.log that this user may read; None if none may."""
    recorded = [name for name in host.recorded_names() if name.startswith("dmesg") and "-other" not in name]
    for name in recorded:
        text = host.recorded(name).text
        if text is not None:
            return find_trouble(text, name)
    for argv in _LOG_COMMANDS:
        output = host.run(argv, timeout_s=2.0)
        if output.problem is None and output.returncode in (0, None) and output.stdout.strip():
            return find_trouble(output.stdout, " ".join(argv))
    return None


def state_of_stat(text: str) -> tuple[str, str] | None:
    """Name and state letter of /proc/PID/stat; the name stands in brackets and may hold blanks and brackets itself."""
    start, end = text.find("("), text.rfind(")")
    state = text[end + 1 :].split(maxsplit=1)[:1]
    return (text[start + 1 : end], state[0]) if 0 <= start < end and state else None


def stuck_processes(host: Host) -> tuple[StuckProcess, ...]:
    """Processes in state D that use the GPU or wait in its driver. Waiting for a disk is state D too, and no trouble:
    so only those count whose wait is in the driver, or that KFD knows and whose wait cannot be seen."""
    listing = host.list("/proc")
    if listing.problem is not None:
        return ()
    users = set(host.list("/sys/class/kfd/kfd/proc").names)
    found: list[StuckProcess] = []
    for pid in listing.names:
        if not (pid.isascii() and pid.isdigit()):
            continue
        state = state_of_stat(host.read(f"/proc/{pid}/stat", limit=1024).text or "")
        if state is None or state[1] != "D":
            continue
        waits_in = host.read_line(f"/proc/{pid}/wchan")
        waits_in = None if waits_in in (None, "", "0") else waits_in
        in_driver = bool(waits_in and _IN_DRIVER.search(waits_in))
        if in_driver or (waits_in is None and (pid in users or _DRIVER_THREADS.search(state[0]))):
            found.append(StuckProcess(int(pid), state[0][:64], waits_in))
    return tuple(found[:_LINES_KEPT])
