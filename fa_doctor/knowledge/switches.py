"""Environment variables that are switches for finding faults: each makes something slow or different while it is on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fa_doctor.knowledge.tables import load, sources_of

__all__ = ["Switch", "switches"]


@dataclass(frozen=True, slots=True)
class Switch:
    """`on` are the values that turn it on, in lower case; `effect` what it then does, in words."""

    name: str
    effect: str
    on: tuple[str, ...]
    sources: tuple[str, ...]

    def is_on(self, value: str) -> bool:
        """Whether this value turns it on."""
        return value.strip().lower() in self.on


@lru_cache(maxsize=1)
def switches() -> tuple[Switch, ...]:
    """Every known switch."""
    table = load("switches")
    return tuple(
        Switch(row["name"], row["effect"], tuple(row["on"]), sources_of(table, row["sources"]))
        for row in table["switch"]
    )
