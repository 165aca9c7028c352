"""What lines of the kernel log say of a GPU in trouble."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from fa_doctor.knowledge.tables import load, sources_of

__all__ = ["LogLine", "log_lines", "meaning_of"]


@dataclass(frozen=True, slots=True)
class LogLine:
    """A kind of line. `kind`: "hang", "reset", "hardware", "start" or "fault"; see kernel_log.toml."""

    pattern: re.Pattern[str]
    kind: str
    meaning: str
    sources: tuple[str, ...]


@lru_cache(maxsize=1)
def log_lines() -> tuple[LogLine, ...]:
    """Every kind, the more telling first."""
    table = load("kernel_log")
    return tuple(
        LogLine(re.compile(row["pattern"]), row["kind"], row["meaning"], sources_of(table, row["sources"]))
        for row in table["line"]
    )


def meaning_of(line: str) -> LogLine | None:
    """The first kind that a line is of; None if it says nothing of a GPU in trouble."""
    if not any(word in line for word in ("amdgpu", "kfd", "drm", "AER", "PCIe", "MES", "firmware")):
        return None
    return next((known for known in log_lines() if known.pattern.search(line[:1000])), None)
