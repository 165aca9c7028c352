"""Pictures of the results: speed over length, gain over unfused, memory over length, share of the card's ceiling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fa_doctor.bench.grid import PROVIDERS, Point
from fa_doctor.errors import UsageProblem

__all__ = ["draw", "draw_training"]

# Okabe and Ito's palette, which is told apart also with impaired colour vision; the bundled kernels in the strongest.
_COLOURS = {
    "unfused": "#999999",
    "sdpa": "#56B4E9",
    "sdpa-flash": "#0072B2",
    "sdpa-efficient": "#CC79A7",
    "sdpa-cudnn": "#009E73",
    "flex": "#E69F00",
    "flash_attn": "#000000",
    "bundled": "#D55E00",
}


def draw(document: dict[str, Any], folder: Path) -> list[Path]:
    """Draws every picture as PNG and SVG into `folder`; returns the SVGs. Raises UsageProblem without matplotlib."""
    points = [point for point in document["points"] if "tflops" in point]
    ceiling = document["machine"].get("matrix_product_tflops")
    unfused = {_shape(point): point for point in points if point["provider"] == "unfused"}
    pictures: list[tuple[str, str, Callable[[Point], float | None]]] = [
        ("speed", "TFLOP/s", lambda point: point["tflops"]),
        (
            "gain",
            "times as fast as unfused",
            lambda point: point["tflops"] / unfused[_shape(point)]["tflops"] if _shape(point) in unfused else None,
        ),
        ("memory", "peak memory beyond inputs and outputs, MiB", lambda point: point["peak_bytes"] / 2**20),
        (
            "share",
            "share of a large matrix product, %",
            lambda point: 100 * point["tflops"] / ceiling if ceiling else None,
        ),
    ]
    return [_picture(points, folder, document["machine"], *picture) for picture in pictures]


def _shape(point: Point) -> tuple[Any, ...]:
    return tuple(point[name] for name in ("length", "head_dim", "causal", "pass", "batch", "dtype"))


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise UsageProblem("pictures need matplotlib: pip install 'fa-doctor[plots]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _picture(
    points: list[Point],
    folder: Path,
    machine: dict[str, Any],
    name: str,
    label: str,
    value: Callable[[Point], float | None],
) -> Path:
    pyplot = _pyplot()
    panels = sorted({(point["head_dim"], point["causal"], point["pass"]) for point in points})
    columns = min(2, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure, axes = pyplot.subplots(rows, columns, figsize=(6.4 * columns, 3.8 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (dim, causal, kind) in zip(axes.flat, panels, strict=False):
        chosen = [p for p in points if (p["head_dim"], p["causal"], p["pass"]) == (dim, causal, kind)]
        for provider in PROVIDERS:
            line = sorted((p["length"], v) for p in chosen if p["provider"] == provider and (v := value(p)) is not None)
            if line:
                strong = provider == "bundled"
                axis.plot(
                    [x for x, _ in line],
                    [y for _, y in line],
                    marker="o",
                    markersize=4,
                    linewidth=2.4 if strong else 1.4,
                    color=_COLOURS[provider],
                    label=provider,
                    zorder=3 if strong else 2,
                )
        axis.set_xscale("log", base=2)
        lengths = sorted({p["length"] for p in chosen})
        axis.set_xticks(lengths, [str(length) for length in lengths])
        axis.set_xlabel("length")
        axis.set_ylabel(label)
        if name == "memory":
            axis.set_yscale("symlog")
        axis.set_ylim(bottom=0)
        axis.set_title(f"head dim {dim}, {'causal' if causal else 'not causal'}, {kind}", fontsize=10)
        axis.grid(alpha=0.3)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncol=len(labels) or 1, frameon=False)
    figure.text(
        0.5,
        0.005,
        f"{machine.get('name', '?')}, torch {machine.get('torch')}, Triton {machine.get('triton')}",
        ha="center",
        fontsize=8,
    )
    figure.tight_layout(rect=(0, 0.02, 1, 0.95))
    return _save(pyplot, figure, folder / name)


def draw_training(document: dict[str, Any], folder: Path) -> Path:
    """The loss curves of a training run with each attention on top of each other, and samples a second beside."""
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.2))
    for name, run in document["runs"].items():
        if run.get("losses"):
            left.plot(run["losses"], label=name, color=_COLOURS[name], linewidth=1.6, alpha=0.8)
    left.set_xlabel("step")
    left.set_ylabel("loss")
    left.legend(frameon=False)
    left.grid(alpha=0.3)
    names = [name for name, run in document["runs"].items() if run.get("samples_per_s")]
    bars = right.bar(
        names, [document["runs"][name]["samples_per_s"] for name in names], color=[_COLOURS[n] for n in names]
    )
    right.bar_label(bars, [f"{document['runs'][name]['samples_per_s']:.0f}" for name in names])
    right.set_ylabel("samples/s")
    figure.tight_layout()
    return _save(pyplot, figure, folder / "training")


def _save(pyplot: Any, figure: Any, stem: Path) -> Path:
    for suffix in (".png", ".svg"):
        figure.savefig(stem.with_suffix(suffix), dpi=120)
    pyplot.close(figure)
    return stem.with_suffix(".svg")
