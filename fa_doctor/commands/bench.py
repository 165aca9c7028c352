"""`fa-doctor bench`: attention over a grid of shapes, beside what else this machine has."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from fa_doctor.bench.grid import PROVIDERS
from fa_doctor.commands.options import seconds
from fa_doctor.errors import UsageProblem

__all__ = ["command"]

_ON_CPU = ("unfused", "sdpa", "sdpa-flash", "flex")  # what PyTorch has for CPUs


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers above 0, set apart by commas."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = [word for word in str(value).split(",") if word.strip()]
        if not words or not all(word.strip().isdecimal() and int(word) > 0 for word in words):
            self.fail(f"{value!r} is not a list of whole numbers such as 512,1024", param, ctx)
        return tuple(int(word) for word in words)


@click.command("bench")
@click.option("--lengths", type=_Numbers(), default="512,1024,2048,4096,8192", show_default=True)
@click.option("--head-dims", type=_Numbers(), default="64,128", show_default=True)
@click.option("--causal", type=click.Choice(["yes", "no", "both"]), default="both", show_default=True)
@click.option("--pass", "kind", type=click.Choice(["forward", "backward", "all"]), default="all", show_default=True)
@click.option("--provider", "providers", multiple=True, type=click.Choice(PROVIDERS), help="Only these (default: all).")
@click.option("--tokens", type=click.IntRange(min=1), default=16384, show_default=True, help="Tokens in a batch.")
@click.option("--hidden", type=click.IntRange(min=1), default=2048, show_default=True, help="Heads times head dim.")
@click.option("--dtype", type=click.Choice(["float16", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--seconds", "per_point", type=seconds(0.02), default=0.4, show_default=True, help="Timing of one point.")
@click.option("--output", "folder", metavar="DIR", default="fa-doctor-bench", show_default=True)
@click.option("--plots/--no-plots", default=True, show_default=True, help="Draw pictures (needs matplotlib).")
@click.option("--train", is_flag=True, help="Train a small GPT with unfused, SDPA and bundled attention instead.")
@click.option("--steps", type=click.IntRange(min=8), default=200, show_default=True, help="Training steps.")
@click.option("--train-length", type=click.IntRange(min=16), default=1024, show_default=True)
@click.option("--train-layers", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--train-heads", type=click.IntRange(min=1), default=16, show_default=True, help="Heads of 64.")
@click.option("--train-batch", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--compare", nargs=2, metavar="A B", help="Say what got slower between two results, and measure nothing.")
@click.option(
    "--device",
    type=click.Choice(["gpu", "cpu"]),
    default="gpu",
    show_default=True,
    help="cpu: PyTorch's own attention only; the kernels need a GPU.",
)
@click.option("--python", metavar="EXE", help="The Python to measure with (default: the active environment's).")
def command(
    lengths: tuple[int, ...],
    head_dims: tuple[int, ...],
    causal: str,
    kind: str,
    providers: tuple[str, ...],
    tokens: int,
    hidden: int,
    dtype: str,
    per_point: float,
    folder: str,
    plots: bool,
    train: bool,
    steps: int,
    train_length: int,
    train_layers: int,
    train_heads: int,
    train_batch: int,
    compare: tuple[str, str] | None,
    device: str,
    python: str | None,
) -> int:
    """Times attention over a grid of shapes beside what else this machine has; draws it.

    Results are written as they come: a sweep that was stopped goes on where it stopped. Exit status: 0 measured, 1
    something got slower (--compare), 2 wrong usage, 3 nothing could be measured.
    """
    if compare is not None:
        return _compare(*compare)
    executable = _target(python, device)
    torch_device = "cuda" if device == "gpu" else "cpu"
    if train:
        setting = {"length": train_length, "batch": train_batch, "steps": steps, "dtype": dtype}
        setting |= {"layers": train_layers, "heads": train_heads, "device": torch_device}
        return _train(executable, Path(folder), setting, plots)

    from fa_doctor.bench.grid import grid, key_of
    from fa_doctor.bench.store import Store
    from fa_doctor.bench.summary import gain_table, table
    from fa_doctor.bench.sweep import run_sweep
    from fa_doctor.host import LiveHost

    passes = ("forward", "backward") if kind == "all" else (kind,)
    masks = {"yes": (True,), "no": (False,), "both": (False, True)}[causal]
    wanted = providers or _providers(executable, device)
    points = grid(lengths, head_dims, masks, passes, wanted, tokens=tokens, hidden=hidden, dtype=dtype)
    if max(head_dims) > 256:
        raise UsageProblem("--head-dims: attention kernels go up to 256")
    store = Store(Path(folder))
    progress = _Progress(len(points), sum(key_of(point) in store.points for point in points))
    try:
        run_sweep(LiveHost(), executable, points, store, progress.step, per_point, torch_device)
    except KeyboardInterrupt:
        progress.close()
        store.write_summaries()
        sys.stderr.write(f"fa-doctor: stopped; the same command goes on with {folder}\n")
        return 130
    progress.close()
    store.write_summaries()
    document = store.document()
    _print_table(*table(document))
    _print_table(*gain_table(document))
    _draw(document, Path(folder), plots)
    return 0


def _target(python: str | None, device: str) -> str:
    from fa_doctor.diagnosis.gather import gather
    from fa_doctor.host import LiveHost
    from fa_doctor.level import Level
    from fa_doctor.probe.gather import python_with_torch

    machine = gather(LiveHost(), level=Level.QUICK, python=python, deadline=time.monotonic() + 20)
    executable = python_with_torch(machine.python, machine.torch, "measure")
    if device == "gpu" and machine.torch is not None and machine.torch.build == "cpu":
        raise UsageProblem(f"{executable} has a CPU build of torch: there is no GPU to measure on (or --device cpu)")
    return executable


def _providers(executable: str, device: str) -> tuple[str, ...]:
    """Those that can be had at all."""
    if device == "cpu":
        return _ON_CPU
    return tuple(name for name in PROVIDERS if name != "flash_attn" or _has_flash_attn(executable))


def _has_flash_attn(python: str) -> bool:
    from fa_doctor.host import LiveHost

    script = "import importlib.util as u, sys; sys.exit(u.find_spec('flash_attn') is None)"
    return LiveHost().run([python, "-c", script], timeout_s=20).returncode == 0


class _Progress:
    """A line on a terminal with the time that is left; a line a point where stderr is not a terminal."""

    def __init__(self, total: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=console)
            self._bar.start()
            self._task = self._bar.add_task("measuring", total=total, completed=done)
        elif done:
            sys.stderr.write(f"{done} of {total} points are there already\n")

    def step(self, point: dict[str, Any]) -> None:
        from fa_doctor.bench.summary import figure, shape_name

        told = f"{figure(point['tflops'])} TFLOP/s" if "tflops" in point else str(point.get("error"))
        line = f"{shape_name(point)} {point['provider']}: {told}"
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=line[:60])
        else:
            sys.stderr.write(line + "\n")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    from fa_doctor.report.table import print_table

    if rows:
        print_table(sys.stdout, header, rows)
        sys.stdout.write("\n")


def _draw(document: dict[str, Any], folder: Path, plots: bool) -> None:
    from fa_doctor.bench.page import write_page

    pictures: list[Path] = []
    if plots:
        from fa_doctor.bench.card import draw_card
        from fa_doctor.bench.plots import draw

        try:
            pictures = [path for path in (draw_card(document, folder), *draw(document, folder)) if path is not None]
        except UsageProblem as error:
            sys.stderr.write(f"fa-doctor: {error}\n")
    write_page(document, pictures, folder / "index.html")
    sys.stdout.write(f"All results: {folder / 'index.html'}\n")


def _train(python: str, folder: Path, setting: dict[str, Any], plots: bool) -> int:
    from fa_doctor.bench.page import write_page
    from fa_doctor.bench.training import train, training_table
    from fa_doctor.host import LiveHost

    request = {**setting, "head_dim": 64, "seed": 1, "longest": True}

    providers = ("unfused", "sdpa") if setting["device"] == "cpu" else ("unfused", "sdpa", "bundled")

    def told(name: str, run: dict[str, Any]) -> None:
        speed = run.get("samples_per_s")
        sys.stderr.write(f"{name}: {f'{speed:.1f} samples/s' if speed else run.get('error', 'no figure')}\n")

    document = train(LiveHost(), python, providers, request, 1800.0, told)
    _print_table(*training_table(document))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "training.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageProblem(f"{folder} cannot be written: {error.strerror or error}") from error
    if any("losses" in run for run in document["runs"].values()):
        pictures = []
        if plots:
            from fa_doctor.bench.training_plot import draw_training

            try:
                pictures = [draw_training(document, folder)]
            except UsageProblem as error:
                sys.stderr.write(f"fa-doctor: {error}\n")
        write_page(document, pictures, folder / "training.html")
        sys.stdout.write(f"All results: {folder / 'training.html'}\n")
    return 0 if any("losses" in run for run in document["runs"].values()) else 3


def _compare(first: str, second: str) -> int:
    from fa_doctor.bench.compare import compare
    from fa_doctor.bench.picture import machine_line
    from fa_doctor.bench.store import load_results
    from fa_doctor.bench.summary import shape_name

    before, after = load_results(first), load_results(second)
    changes, missing = compare(before, after)
    machines = [machine_line(result["machine"]) for result in (before, after)]
    if machines[0] != machines[1]:
        sys.stdout.write(f"A: {machines[0]}\nB: {machines[1]}\n\n")
    rows = [
        [
            f"{shape_name(change.point)} {change.point['provider']}",
            f"{change.before['ms']:.3f} ({change.before['low']:.3f}..{change.before['high']:.3f})",
            f"{change.after['ms']:.3f} ({change.after['low']:.3f}..{change.after['high']:.3f})",
            f"{change.ratio:.2f}",
            change.verdict,
        ]
        for change in changes
        if change.verdict != "same"
    ]
    if rows:
        _print_table(["", "A: ms (10%..90%)", "B: ms (10%..90%)", "B/A", ""], rows)
    for point in missing:
        sys.stdout.write(f"{shape_name(point)} {point['provider']}: in A, but not in B\n")
    same = sum(change.verdict == "same" for change in changes)
    sys.stdout.write(f"{len(rows)} of {len(changes)} points differ by more than their spread, {same} do not.\n")
    return 1 if any(change.verdict == "slower" for change in changes) else 0
