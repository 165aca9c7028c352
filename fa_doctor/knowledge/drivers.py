"""Which versions of the amdgpu kernel driver go with which ROCm."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from fa_doctor.knowledge.tables import load, sources_of

__all__ = ["DriverRelease", "Regression", "driver_release", "regressions", "releases_beyond"]


@dataclass(frozen=True, slots=True)
class DriverRelease:
    """One version of AMD's driver package; `tested` are minor releases of ROCm, empty where no table names them."""

    module: str
    package: str
    tested: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Regression:
    """GPU, kernel driver and torch build that are reported not to work together."""

    gfx: tuple[str, ...]
    origin: str
    kernel: re.Pattern[str]
    torch_local: re.Pattern[str]
    fact: str
    confidence: str
    sources: tuple[str, ...]


@lru_cache(maxsize=1)
def regressions() -> tuple[Regression, ...]:
    """Every known regression."""
    table = load("drivers")
    return tuple(
        Regression(
            gfx=tuple(row["gfx"]),
            origin=row["origin"],
            kernel=re.compile(row["kernel"]),
            torch_local=re.compile(row["torch_local"]),
            fact=row["fact"],
            confidence=row["confidence"],
            sources=sources_of(table, row["sources"]),
        )
        for row in table["regression"]
    )


def driver_release(version: str) -> DriverRelease | None:
    """The row of a module version ("6.12.12", or as DKMS names it "6.12.12-2164967.24.04"); None if it is not known."""
    table = load("drivers")
    for row in table["driver"]:
        if version == row["module"] or version.startswith(row["module"] + "-"):
            return DriverRelease(
                row["module"], row["package"], tuple(row.get("tested", ())), sources_of(table, row["sources"])
            )
    return None


def releases_beyond(tested: tuple[str, ...], release: str) -> int | None:
    """How many minor releases a ROCm is newer (positive) or older (negative) than the range; 0 if it is in it.

    `release` is a version of ROCm ("6.4.2"). None if it cannot be placed.
    """
    order: list[str] = load("drivers")["order"]
    match = re.match(r"(\d{1,3})\.(\d{1,3})", release)
    known = [order.index(minor) for minor in tested if minor in order]
    if not match or not known:
        return None
    numbers = int(match[1]), int(match[2])
    placed = [tuple(int(part) for part in minor.split(".")) for minor in order]
    at = next((place for place, minor in enumerate(placed) if minor == numbers), None)
    if at is None:
        if numbers < placed[-1]:
            return None
        at = len(order)  # newer than all of them
    return at - max(known) if at > max(known) else min(0, at - min(known))
