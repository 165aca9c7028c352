"""One picture to show around: unfused attention, PyTorch's own and the bundled kernels, speed and memory, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fa_doctor.bench.grid import Point
from fa_doctor.bench.picture import COLOURS, machine_line, pyplot, save
from fa_doctor.bench.summary import failure, setting

__all__ = ["draw_card"]

_SHOWN = {"unfused": "unfused attention", "sdpa": "PyTorch SDPA", "bundled": "fa-doctor's kernels"}


def draw_card(document: dict[str, Any], folder: Path) -> Path | None:
    """Draws share.png and share.svg, 1440 x 810; returns the SVG, or None where the bundled kernels were not measured.

    Of what was measured it shows the largest head dimension, causal if that is there.
    """
    measured = [point for point in document["points"] if point["provider"] == "bundled" and "tflops" in point]
    if not measured:
        return None
    dim, causal = max((point["head_dim"], point["causal"]) for point in measured)
    points = [
        p for p in document["points"] if (p["head_dim"], p["causal"]) == (dim, causal) and p["provider"] in _SHOWN
    ]
    passes = [kind for kind in ("forward", "backward", "both") if any(point["pass"] == kind for point in points)]
    figure, axes = pyplot().subplots(1, len(passes) + 1, figsize=(12, 6.75), squeeze=False, layout="constrained")
    figure.get_layout_engine().set(rect=(0.02, 0.05, 0.96, 0.79), wspace=0.06)
    for axis, kind in zip(axes[0], passes, strict=False):
        _speeds(axis, [point for point in points if point["pass"] == kind], kind)
    _memory(axes[0][-1], [point for point in points if point["pass"] == passes[-1]], passes[-1])
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("sequence length")
    figure.text(0.03, 0.93, f"Attention on {document['machine'].get('name', '?')}", fontsize=21, fontweight="bold")
    subtitle = f"head dimension {dim}, {'causal' if causal else 'not causal'}, {setting(points)}"
    figure.text(0.03, 0.885, subtitle, fontsize=12, color="#555555")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", bbox_to_anchor=(0.98, 0.985), frameon=False, fontsize=12)
    foot = f"medians; {machine_line(document['machine'])}; measured by `fa-doctor bench`"
    figure.text(0.03, 0.02, foot, fontsize=9, color="#555555")
    return save(figure, folder / "share")


def _bars(axis: Any, points: Sequence[Point], key: str, scale: float) -> dict[tuple[str, int], tuple[float, float]]:
    """Bars side by side for each length; {(provider, length): (x, height)} of those that are there."""
    lengths = sorted({point["length"] for point in points})
    there = [name for name in _SHOWN if any(point["provider"] == name for point in points)]
    width = 0.8 / len(there)
    tops: dict[tuple[str, int], tuple[float, float]] = {}
    for number, provider in enumerate(there):
        offset = (number - (len(there) - 1) / 2) * width
        mine = {point["length"]: point for point in points if point["provider"] == provider}
        bars = [
            (place + offset, float(mine[length][key]) * scale, length)
            for place, length in enumerate(lengths)
            if mine.get(length, {}).get(key) is not None
        ]
        x, heights = [bar[0] for bar in bars], [bar[1] for bar in bars]
        axis.bar(x, heights, width, color=COLOURS[provider], label=_SHOWN[provider])
        tops |= {(provider, length): (place, height) for place, height, length in bars}
        for place, length in enumerate(lengths):
            if "error" in mine.get(length, {}):
                words = failure(mine[length])
                where = (place + offset, 0.02)
                axis.text(
                    *where, words, rotation=90, ha="center", va="bottom", fontsize=8, color="#777777",
                    transform=axis.get_xaxis_transform(),
                )  # fmt: skip
    axis.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    return tops


def _speeds(axis: Any, points: Sequence[Point], kind: str) -> None:
    tops = _bars(axis, points, "tflops", 1.0)
    for (provider, length), (x, height) in tops.items():
        if provider == "bundled" and ("unfused", length) in tops:
            gain = height / tops["unfused", length][1]
            axis.annotate(
                f"{gain:.1f}x",
                (x, height),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                fontweight="bold",
            )
    axis.set_title(f"{kind}, TFLOP/s (x: times as fast as unfused)", fontsize=11, loc="left")
    axis.margins(y=0.1)


def _memory(axis: Any, points: Sequence[Point], kind: str) -> None:
    if _bars(axis, points, "peak_bytes", 2.0**-20):
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.minorticks_off()
    axis.set_ylim(bottom=0, top=3 * max(axis.dataLim.ymax, 1))
    axis.set_title(f"{kind}, memory in MiB (log scale)", fontsize=11, loc="left")
