"""Two sets of results side by side: what got slower, what faster, and what differs by no more than the spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fa_doctor.bench.grid import Point, key_of

__all__ = ["Change", "compare"]

_LEAST = 0.03  # a difference of medians below this share is not worth a word


@dataclass(frozen=True, slots=True)
class Change:
    """One point in both results. `ratio` is the second median time over the first: above 1 is slower."""

    point: Point
    before: Point
    after: Point
    ratio: float

    @property
    def verdict(self) -> str:
        """ "slower" or "faster" only where the middle 80% of the times do not overlap; else "same"."""
        if abs(self.ratio - 1) < _LEAST:
            return "same"
        if self.ratio > 1:
            return "slower" if self.after["low"] > self.before["high"] else "same"
        return "faster" if self.after["high"] < self.before["low"] else "same"


def compare(first: dict[str, Any], second: dict[str, Any]) -> tuple[list[Change], list[Point]]:
    """The points that both results have, largest loss first, and those of the first that the second lacks or failed."""
    others = {key_of(point): point for point in second["points"]}
    changes, missing = [], []
    for point in first["points"]:
        if "ms" not in point:
            continue
        other = others.get(key_of(point))
        if other is None or "ms" not in other:
            missing.append(point)
        else:
            changes.append(Change(point, point, other, other["ms"] / point["ms"]))
    return sorted(changes, key=lambda change: -change.ratio), missing
