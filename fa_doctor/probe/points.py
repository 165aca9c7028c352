"""The points of the speed probe, and what is made of their times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fa_doctor.facts.probes import Probe

__all__ = ["ROWS", "SPEED_STEPS", "Row", "SpeedRow", "rows_of", "speed_points", "speed_table"]

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
    """The rows of a speed probe, in the order of ROWS, as far as it came; empty if it measured nothing."""
    measured = probe.details("measure attention").get("notes", ())
    rows: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for point in measured if isinstance(measured, list) else ():
        if isinstance(point, dict) and {"row", "pass", "provider"} <= point.keys():
            rows.setdefault((str(point["row"]), str(point["pass"])), {})[str(point["provider"])] = point
    return [SpeedRow(name, kind, found) for (name, kind), found in rows.items()]


def speed_table(probe: Probe) -> tuple[list[str], list[list[str]]] | None:
    """The rows as a table: TFLOP/s of each, the gain over unfused, the share of the matrix product; None without rows."""
    rows = rows_of(probe)
    if not rows:
        return None
    ceiling = probe.details("measure a matrix product").get("tflops", {}).get(_SHAPE["dtype"])
    table = []
    for row in rows:
        reached = row.tflops("bundled")
        gain = row.ratio("bundled", "unfused")
        table.append(
            [
                f"{row.name}, {row.kind}",
                *(_figure(row, provider) for provider in _PROVIDERS),
                f"{100 * (gain - 1):+.0f}%" if gain else "-",
                f"{100 * reached / ceiling:.0f}%" if reached and ceiling else "-",
                f"{row.spread:.2f}",
            ]
        )
    head = f"TFLOP/s (16 heads of 64, causal, {_SHAPE['dtype']})"
    return [head, *_PROVIDERS, "over unfused", "of a matrix product", "90%/10%"], table


def _figure(row: SpeedRow, provider: str) -> str:
    reached = row.tflops(provider)
    if reached is not None:
        return f"{reached:.1f}"
    error = str(row.by_provider.get(provider, {}).get("error", ""))
    return "no memory" if "OutOfMemory" in error else "failed" if error else "-"
