"""What the pictures have in common: matplotlib, colours and marks of the providers, the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fa_doctor.errors import UsageProblem

__all__ = ["COLOURS", "MARKS", "machine_line", "pyplot", "save"]

# Okabe and Ito's palette, which is told apart also with impaired colour vision; the bundled kernels in the strongest.
COLOURS = {
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
MARKS = dict(zip(COLOURS, "osD^v<PX", strict=True))


def pyplot() -> Any:
    """matplotlib.pyplot, which draws into files only. Raises UsageProblem where there is no matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise UsageProblem("pictures need matplotlib: pip install 'fa-doctor[plots]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as found

    return found


def machine_line(machine: dict[str, Any]) -> str:
    """`MI300X, torch 2.9.1, Triton 3.5.1`: what of it is known."""
    parts = [f"{label} {machine[key]}" for key, label in (("torch", "torch"), ("triton", "Triton")) if machine.get(key)]
    return ", ".join([str(machine.get("name", "an unknown device")), *parts])


def save(figure: Any, stem: Path) -> Path:
    """Writes the PNG and the SVG, closes the figure, and returns the path of the SVG."""
    for suffix in (".png", ".svg"):
        figure.savefig(stem.with_suffix(suffix), dpi=120, facecolor="white")
    pyplot().close(figure)
    return stem.with_suffix(".svg")
