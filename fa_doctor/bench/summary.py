"""The results as tables: TFLOP/s by shape and provider, and the gain over unfused attention."""

from __future__ import annotations

from typing import Any

from fa_doctor.bench.grid import PROVIDERS, Point

__all__ = ["Table", "gain_table", "shape_name", "table"]

Table = tuple[list[str], list[list[str]]]


def shape_name(point: Point) -> str:
    """`d128 causal n2048 b8 forward`, as a row of a table."""
    mask = "causal" if point["causal"] else "full"
    return f"d{point['head_dim']} {mask} n{point['length']} b{point['batch']} {point['pass']}"


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
    if "tflops" in point:
        return f"{point['tflops']:.1f}"
    error = str(point.get("error", "?"))
    return "no memory" if "out of memory" in error else "refused"


def gain_table(document: dict[str, Any]) -> Table:
    """Unfused and bundled attention of each shape: TFLOP/s, the gain in percent, and the memory of both in MiB."""
    rows = []
    for shape, found in _by_shape(document["points"]).items():
        unfused, bundled = found.get("unfused"), found.get("bundled")
        if not unfused or not bundled or "tflops" not in unfused or "tflops" not in bundled:
            continue
        gain = 100 * (bundled["tflops"] / unfused["tflops"] - 1)
        memory = [f"{point['peak_bytes'] / 2**20:.0f}" for point in (unfused, bundled)]
        rows.append([shape, f"{unfused['tflops']:.1f}", f"{bundled['tflops']:.1f}", f"{gain:+.0f}%", *memory])
    return ["", "unfused", "bundled", "gain", "unfused MiB", "bundled MiB"], rows
