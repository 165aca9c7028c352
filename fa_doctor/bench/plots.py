"""Pictures of the results over the length: speed, gain over unfused, memory, share of a large matrix product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa_doctor.bench.grid import PROVIDERS, Point
from fa_doctor.bench.picture import COLOURS, MARKS, machine_line, pyplot, save
from fa_doctor.bench.summary import setting
from fa_doctor.knowledge.products import product_from_name

__all__ = ["draw"]

_PASSES = ("forward", "backward", "both")


@dataclass(frozen=True, slots=True)
class _Picture:
    """One picture: a panel for each head dimension, mask and pass; `value` is None where a point has none to show."""

    name: str
    title: str
    label: str
    value: Callable[[Point], float | None]
    note: str = ""


def draw(document: dict[str, Any], folder: Path) -> list[Path]:
    """Draws every picture as PNG and SVG into `folder`; returns the SVGs. Raises UsageProblem without matplotlib."""
    return [_draw(picture, document, folder) for picture in _pictures(document)]


def _pictures(document: dict[str, Any]) -> list[_Picture]:
    ceiling = document["machine"].get("matrix_product_tflops")
    unfused = {_shape(p): p for p in document["points"] if p["provider"] == "unfused" and "tflops" in p}

    def gain(point: Point) -> float | None:
        other = unfused.get(_shape(point))
        return point["tflops"] / other["tflops"] if other else None

    found = [_Picture("speed", "Speed of attention", "TFLOP/s", lambda point: point["tflops"])]
    if unfused:
        found.append(_Picture("gain", "Gain over unfused attention", "times as fast as unfused", gain))
    if any(point.get("peak_bytes") is not None for point in document["points"]):
        label = "MiB beyond inputs and outputs"
        found.append(_Picture("memory", "Memory of attention", label, _mebibytes, "side by side where they are equal"))
    if ceiling:
        found.append(
            _Picture(
                "ceiling",
                "Attention beside a large matrix product",
                "% of a matrix product's TFLOP/s",
                lambda point: 100 * point["tflops"] / ceiling,
                _ceiling_note(document["machine"], ceiling),
            )
        )
    return found


def _ceiling_note(machine: dict[str, Any], ceiling: float) -> str:
    product = product_from_name(str(machine.get("name", "")))
    told = f"a product of two 8192 x 8192 matrices reached {ceiling:.0f} TFLOP/s"
    if product is None or product.fp16_tflops is None:
        return told
    return f"{told}, {100 * ceiling / product.fp16_tflops:.0f}% of the card's peak of {product.fp16_tflops:.0f}"


def _mebibytes(point: Point) -> float | None:
    return None if point.get("peak_bytes") is None else float(point["peak_bytes"]) / 2**20


def _shape(point: Point) -> tuple[Any, ...]:
    return tuple(point[name] for name in ("length", "head_dim", "causal", "pass", "batch", "dtype"))


def _draw(picture: _Picture, document: dict[str, Any], folder: Path) -> Path:
    points = document["points"]
    panels = sorted(
        {(point["head_dim"], point["causal"], point["pass"]) for point in points},
        key=lambda panel: (panel[0], panel[1], _PASSES.index(panel[2])),
    )
    columns = min(2, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    height = 1.7 + 3.5 * rows  # inches, of which 1.2 are the title's and the legend's
    figure, axes = pyplot().subplots(
        rows, columns, figsize=(6.4 * columns, height), squeeze=False, sharey="row", layout="constrained"
    )
    figure.get_layout_engine().set(rect=(0, 0.3 / height, 1, 1 - 1.3 / height))
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    missing = False
    for axis, (dim, causal, kind) in zip(axes.flat, panels, strict=False):
        chosen = [p for p in points if (p["head_dim"], p["causal"], p["pass"]) == (dim, causal, kind)]
        missing |= _panel(axis, picture, chosen)
        axis.set_title(f"head dim {dim}, {'causal' if causal else 'not causal'}, {kind}", fontsize=10)
    for line in axes:
        line[0].set_ylabel(picture.label)
    drawn = {name: line for axis in axes.flat for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    handles = [drawn[name] for name in PROVIDERS if name in drawn]
    if missing:
        handles += axes.flat[0].plot([], [], "x", color="#444444", label="no memory, refused, or crashed")
    place = (0.5, 1 - 0.4 / height)
    figure.legend(
        handles=handles, loc="upper center", bbox_to_anchor=place, ncol=min(5, len(handles)) or 1, frameon=False
    )
    name = document["machine"].get("name", "?")
    figure.text(0.5, 1 - 0.15 / height, f"{picture.title} on {name}", ha="center", va="top", fontsize=14, weight="bold")
    told = "; ".join(filter(None, (setting(points), machine_line(document["machine"]), picture.note)))
    figure.text(0.5, 0.1 / height, told, ha="center", fontsize=8, color="#555555")
    return save(figure, folder / picture.name)


def _panel(axis: Any, picture: _Picture, chosen: Sequence[Point]) -> bool:
    """One panel; True if a point has no value in it and is marked at its foot."""
    lengths = sorted({point["length"] for point in chosen})
    there = [name for name in PROVIDERS if any(point["provider"] == name for point in chosen)]
    missing = False
    for number, provider in enumerate(there):
        mine = sorted((point["length"], point) for point in chosen if point["provider"] == provider)
        values = [(length, picture.value(point) if "tflops" in point else None) for length, point in mine]
        # Lines of equal height would lie on each other, and marks at the foot too.
        aside = 2 ** (0.05 * (number - (len(there) - 1) / 2))
        failed = [length * aside for length, point in mine if "tflops" not in point]
        if failed:
            missing = True
            axis.plot(
                failed,
                [0.03] * len(failed),
                "x",
                color=COLOURS[provider],
                transform=axis.get_xaxis_transform(),
                zorder=4,
            )
        shift = aside if picture.name == "memory" else 1.0
        line = [(length * shift, value) for length, value in values if value is not None]
        if not line:
            continue
        strong = provider == "bundled"
        axis.plot(
            [x for x, _ in line],
            [y for _, y in line],
            marker=MARKS[provider],
            markersize=6 if strong else 5,
            markerfacecolor=COLOURS[provider] if strong else "white",
            linewidth=2.4 if strong else 1.4,
            color=COLOURS[provider],
            label=provider,
            zorder=3 if strong else 2,
            clip_on=False,
        )
        if strong and picture.name == "gain":
            for x, y in line:
                axis.annotate(f"{y:.1f}", (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [str(length) for length in lengths])
    axis.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)
    axis.set_xlabel("sequence length", fontsize=9)
    axis.minorticks_off()
    if picture.name == "memory":
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.set_ylim(top=max(axis.get_ylim()[1], 3 * max(axis.dataLim.ymax, 1)))
    elif picture.name == "gain":
        axis.axhline(1, color="#999999", linewidth=0.8, zorder=1)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    return missing
