"""A picture of training with each attention: the loss curves on top of each other, speed, memory, the longest sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fa_doctor.bench.grid import PROVIDERS
from fa_doctor.bench.picture import COLOURS, machine_line, pyplot, save

__all__ = ["draw_training"]

_BARS: tuple[tuple[str, str, float, str], ...] = (
    ("samples_per_s", "samples/s", 1.0, "{:.3g}"),
    ("peak_bytes", "peak memory, GiB", 2.0**-30, "{:.2f}"),
    ("longest", "longest sequence (batch 1)", 1.0, "{:,.0f}"),
)


def draw_training(document: dict[str, Any], folder: Path) -> Path:
    """Draws training.png and training.svg into `folder`; returns the SVG. What no run measured has no panel."""
    runs = document["runs"]
    names = [name for name in PROVIDERS if name in runs]
    bars = [bar for bar in _BARS if any(runs[name].get(bar[0]) is not None for name in names)]
    widths = (2.2, *(1 for _ in bars))
    figure, axes = pyplot().subplots(
        1, len(widths), figsize=(6 + 3 * len(bars), 4.6), width_ratios=widths, squeeze=False, layout="constrained"
    )
    _losses(axes[0][0], runs, [name for name in names if runs[name].get("losses")])
    for axis, (key, label, scale, form) in zip(axes[0][1:], bars, strict=True):
        for place, name in enumerate(names):
            run = runs[name]
            if run.get(key) is None:
                failed = "failed" if "error" in run else "not measured"
                axis.text(
                    place, 0.02, failed, rotation=90, ha="center", va="bottom", fontsize=8, color="#777777",
                    transform=axis.get_xaxis_transform(),
                )  # fmt: skip
                continue
            value = float(run[key]) * scale
            at_least = "\u2265 " if key == "longest" and run.get("longest_at_limit") else ""
            axis.bar_label(axis.bar(place, value, color=COLOURS[name]), [at_least + form.format(value)], fontsize=9)
        axis.set_xticks(range(len(names)), names)
        axis.set_xlim(-0.6, len(names) - 0.4)
        axis.set_title(label, fontsize=10)
        axis.margins(y=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Training a small GPT on {document['machine'].get('name', '?')}", fontsize=14, fontweight="bold")
    figure.supxlabel(f"{_model(document)}; {machine_line(document['machine'])}", fontsize=8, color="#555555")
    return save(figure, folder / "training")


def _losses(axis: Any, runs: dict[str, dict[str, Any]], names: list[str]) -> None:
    for number, name in enumerate(names):
        # Where they agree the lines are one: the first is drawn widest, and each that follows inside of it.
        width, style = (7 - 2.4 * number, "-") if number + 1 < len(names) else (1.4, "--")
        axis.plot(runs[name]["losses"], style, label=name, color=COLOURS[name], linewidth=width)
    axis.set_title("loss, laid on each other", fontsize=10)
    axis.set_xlabel("step")
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)


def _model(document: dict[str, Any]) -> str:
    asked = document["setting"]
    return (
        f"{asked['layers']} layers of {asked['heads']} heads of {asked['head_dim']}, length {asked['length']}, "
        f"batch {asked['batch']}, {asked['dtype']}"
    )
