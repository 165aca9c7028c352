"""The points of the speed probe, and what is made of their times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fa_doctor.probe.result import Probe

__all__ = ["ROWS", "SPEED_STEPS", "Row", "SpeedRow", "rows_of", "speed_points"]

SPEED_STEPS = ("import torch", "find the device", "measure a matrix product", "measure attention")
_PROVIDERS = ("unfused", "sdpa", "bundled")
_SHAPE = {"heads": 16, "head_dim": 64, "causal": True, "dtype": "float16"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: the lengths and the batch at which fa-doctor's first measurements were taken."""

    name: str
    length: int
    batch: int


ROWS = (
    Row("length 512", 512, 8),
    Row("length 1024", 1024, 8),
    Row("length 2048", 2048, 8),
    Row("batch 32", 1024, 32),
)


def speed_points() -> list[dict[str, Any]]:
    """Every row with every provider, forward and backward."""
    return [
        {"row": row.name, "length": row.length, "batch": row.batch, "provider": provider, "pass": kind, **_SHAPE}
        for row in ROWS
        for kind in ("forward", "backward")
        for provider in _PROVIDERS
    ]


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """What one row measured in one pass: provider -> {"ms", "low", "high", "tflops", ...} or {"error"}."""

    name: str
    kind: str
    by_provider: dict[str, dict[str, Any]]

    def tflops(self, provider: str) -> float | None:
        value = self.by_provider.get(provider, {}).get("tflops")
        return float(value) if isinstance(value, int | float) and value > 0 else None

    def ratio(self, provider: str, over: str) -> float | None:
        """How many times as fast one provider is as another."""
        mine, other = self.tflops(provider), self.tflops(over)
        return mine / other if mine and other else None

    @property
    def spread(self) -> float:
        """The largest ratio of the 90th to the 10th percentile of the row's times: 1 is a quiet machine."""
        ratios = [float(found["high"]) / float(found["low"]) for found in self.by_provider.values() if found.get("low")]
        return max(ratios, default=1.0)


def rows_of(probe: Probe) -> list[SpeedRow]:
    """The rows of a speed probe, in the order of ROWS; empty if it measured nothing."""
    measured = probe.details("measure attention").get("measured", ())
    rows: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for point in measured if isinstance(measured, list) else ():
        if isinstance(point, dict) and {"row", "pass", "provider"} <= point.keys():
            rows.setdefault((str(point["row"]), str(point["pass"])), {})[str(point["provider"])] = point
    return [SpeedRow(name, kind, found) for (name, kind), found in rows.items()]
