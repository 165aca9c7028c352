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

# Lines that lie on each other are still told apart by their marks.
_MARKS = dict(zip(_COLOURS, "osD^v<PX", strict=True))
_PASSES = ("forward", "backward")


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
        ("memory", "MiB beyond inputs and outputs", lambda point: point["peak_bytes"] / 2**20),
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
    panels = sorted(
        {(point["head_dim"], point["causal"], point["pass"]) for point in points},
        key=lambda panel: (panel[0], panel[1], _PASSES.index(panel[2])),
    )
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
                    marker=_MARKS[provider],
                    markersize=6 if strong else 5,
                    markerfacecolor=_COLOURS[provider] if strong else "white",
                    linewidth=2.4 if strong else 1.4,
                    color=_COLOURS[provider],
                    label=provider,
                    zorder=3 if strong else 2,
                    clip_on=False,
                )
                if strong and name == "gain":
                    for x, y in line:
                        axis.annotate(f"{y:.1f}", (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=8)
        axis.set_xscale("log", base=2)
        lengths = sorted({p["length"] for p in chosen})
        axis.set_xticks(lengths, [str(length) for length in lengths])
        axis.set_xlabel("length")
        axis.set_ylabel(label)
        axis.minorticks_off()
        if name == "memory":
            axis.set_yscale("symlog", linthresh=1)
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axis.set_ylim(top=3 * max(axis.get_ylim()[1], 1))
        axis.set_ylim(bottom=0)
        axis.set_title(f"head dim {dim}, {'causal' if causal else 'not causal'}, {kind}", fontsize=10)
        axis.grid(alpha=0.3)
    shown = {name: line for axis in axes.flat for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    labels = [name for name in PROVIDERS if name in shown]
    figure.legend([shown[name] for name in labels], labels, loc="upper center", ncol=len(labels) or 1, frameon=False)
    figure.text(
        0.5,
        0.005,
        f"{machine.get('name', '?')}, torch {machine.get('torch')}, Triton {machine.get('triton')}",
        ha="center",
        fontsize=8,
    )
    figure.tight_layout(rect=(0, 0.03, 1, 1 - 0.35 / (3.8 * rows)))
    return _save(pyplot, figure, folder / name)


def draw_training(document: dict[str, Any], folder: Path) -> Path:
    """A training run with each attention: the loss curves on top of each other, speed, peak memory, longest sequence."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, 4, figsize=(15, 4.2), width_ratios=(2.2, 1, 1, 1))
    runs = document["runs"]
    names = [name for name in PROVIDERS if name in runs]
    curves = [name for name in names if runs[name].get("losses")]
    for number, name in enumerate(curves):
        # Where they agree the lines are one: the first is drawn widest, and each that follows inside of it.
        width, style = (7 - 2.4 * number, "-") if number + 1 < len(curves) else (1.4, "--")
        axes[0].plot(runs[name]["losses"], style, label=name, color=_COLOURS[name], linewidth=width)
    axes[0].set_xlabel("step")
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False)
    axes[0].grid(alpha=0.3)
    bars: list[tuple[str, str, float, str]] = [
        ("samples_per_s", "samples/s", 1.0, "{:.0f}"),
        ("peak_bytes", "peak memory, GiB", 2.0**-30, "{:.2f}"),
        ("longest", "longest sequence (batch 1)", 1.0, "{:,.0f}"),
    ]
    for axis, (key, label, scale, form) in zip(axes[1:], bars, strict=True):
        have = [name for name in names if runs[name].get(key)]
        values = [runs[name][key] * scale for name in have]
        drawn = axis.bar(have, values, color=[_COLOURS[name] for name in have])
        at_least = ["\u2265 " if key == "longest" and runs[name].get("longest_at_limit") else "" for name in have]
        told = [mark + form.format(value) for mark, value in zip(at_least, values, strict=True)]
        axis.bar_label(drawn, told, fontsize=9)
        axis.set_title(label, fontsize=10)
        axis.margins(y=0.12)
    setting, machine = document.get("setting", {}), document.get("machine", {})
    model = (
        f"{setting.get('layers', '?')} layers of {setting.get('heads', '?')} heads of {setting.get('head_dim', '?')}"
    )
    shape = f"length {setting.get('length', '?')}, batch {setting.get('batch', '?')}, {setting.get('dtype', '?')}"
    where = f"{machine.get('name', '?')}, torch {machine.get('torch', '?')}"
    figure.text(0.5, 0.01, f"{where}; {model}, {shape}", ha="center", fontsize=8)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return _save(pyplot, figure, folder / "training")


def _save(pyplot: Any, figure: Any, stem: Path) -> Path:
    for suffix in (".png", ".svg"):
        figure.savefig(stem.with_suffix(suffix), dpi=120)
    pyplot.close(figure)
    return stem.with_suffix(".svg")
