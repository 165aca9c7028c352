"""The results as tables: TFLOP/s by shape and provider, and the gain over unfused attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fa_doctor.bench.grid import PROVIDERS, Point

__all__ = ["CRASHED", "Table", "failure", "figure", "gain_table", "setting", "shape_name", "table"]

CRASHED = "the process ended"  # how the error of a point begins at which the child died

Table = tuple[list[str], list[list[str]]]


def shape_name(point: Point) -> str:
    """`d128 causal n2048 b8 forward`, as a row of a table."""
    mask = "causal" if point["causal"] else "full"
    return f"d{point['head_dim']} {mask} n{point['length']} b{point['batch']} {point['pass']}"


def figure(tflops: float) -> str:
    """TFLOP/s as a word: one decimal, of what is less than 1 two digits that count."""
    return f"{tflops:.1f}" if tflops >= 1 else f"{tflops:.2g}"


def setting(points: Sequence[Point]) -> str:
    """`bfloat16, 16384 tokens in a batch, heads x head dim 2048`: what all points have in common."""
    told = [", ".join(sorted({str(point["dtype"]) for point in points}))]
    tokens = {point["batch"] * point["length"] for point in points}
    hidden = {point["heads"] * point["head_dim"] for point in points}
    if len(tokens) == 1:
        told.append(f"{tokens.pop()} tokens in a batch")
    if len(hidden) == 1:
        told.append(f"heads x head dim {hidden.pop()}")
    return ", ".join(told)


def _by_shape(points: list[Point]) -> dict[str, dict[str, Point]]:
    shapes: dict[str, dict[str, Point]] = {}
    for point in points:
        shapes.setdefault(shape_name(point), {})[point["provider"]] = point
    return shapes


def _present(points: list[Point]) -> list[str]:
    names = {point["provider"] for point in points}
    return [name for name in PROVIDERS if name in names]


def table(document: dict[str, Any]) -> Table:
    """TFLOP/s of every shape and provider; where there is none, why."""
    points = document["points"]
    providers = _present(points)
    rows = []
    for shape, found in _by_shape(points).items():
        cells = [_cell(found.get(provider)) for provider in providers]
        rows.append([shape, *cells])
    return ["TFLOP/s", *providers], rows


def _cell(point: Point | None) -> str:
    if point is None:
        return "-"
    return figure(point["tflops"]) if "tflops" in point else failure(point)


def failure(point: Point) -> str:
    """Why a point has no figure, in a word or two."""
    error = str(point.get("error", ""))
    if "out of memory" in error:
        return "no memory"
    return "crashed" if error.startswith(CRASHED) else "refused"


def gain_table(document: dict[str, Any]) -> Table:
    """Unfused and bundled attention of each shape: TFLOP/s, the gain in percent, and the memory of both in MiB.

    A shape of which only one could be measured has no gain, and says why.
    """
    rows = []
    for shape, found in _by_shape(document["points"]).items():
        unfused, bundled = found.get("unfused"), found.get("bundled")
        if unfused is None or bundled is None or ("tflops" not in unfused and "tflops" not in bundled):
            continue
        both = "tflops" in unfused and "tflops" in bundled
        gain = f"{100 * (bundled['tflops'] / unfused['tflops'] - 1):+.0f}%" if both else "-"
        rows.append([shape, _cell(unfused), _cell(bundled), gain, _memory(unfused), _memory(bundled)])
    return ["TFLOP/s", "unfused", "bundled", "gain", "unfused MiB", "bundled MiB"], rows


def _memory(point: Point) -> str:
    return f"{point['peak_bytes'] / 2**20:.0f}" if point.get("peak_bytes") is not None else "-"
