"""How much memory there is to work with: of the machine, and of the control group that a container lives in."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_bytes"]

MEMINFO = Path("/proc/meminfo")
# The limit and the use of the group that this process sees as the root of its tree: cgroup v2, then v1.
GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def available_bytes(meminfo: Path = MEMINFO, groups: tuple[tuple[Path, Path], ...] = GROUPS) -> int | None:
    """Bytes that can be taken without swapping, by the tightest limit; None where nothing can be read."""
    found = [_of_machine(meminfo)]
    for limit, use in groups:
        most, taken = _number(limit), _number(use)
        if most is not None and taken is not None:
            found.append(max(0, most - taken))
    known = [amount for amount in found if amount is not None]
    return min(known) if known else None


def _of_machine(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" says that there is no limit
        return None
