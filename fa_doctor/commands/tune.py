"""`fa-doctor tune`: searches the fastest kernel configurations on this GPU, for the shapes the user names, and keeps them."""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import click

from fa_doctor.commands.options import seconds
from fa_doctor.errors import EXIT_FAILED, Undecided, UsageProblem
from fa_doctor.kernel_process import KernelProcess, ProcessDied, target_python, why_it_ended

__all__ = ["command"]

SCHEMA = "fa-doctor/tune/1"
_DEADLINE_S = 300.0  # a candidate is compiled and timed in seconds; the slowest compilations take about a minute


@click.command("tune")
@click.option("--seqlen", "lengths", type=click.IntRange(1), multiple=True, help="Queries and keys; repeatable [2048].")
@click.option("--keys", type=click.IntRange(1), help="Keys, where they are not as many as the queries.")
@click.option("--head-dim", "head_dims", type=click.IntRange(1, 256), multiple=True, help="Repeatable [128].")
@click.option("--heads", type=click.IntRange(1), default=16, show_default=True, help="Query heads.")
@click.option("--kv-heads", type=click.IntRange(1), help="Key heads [as many as query heads].")
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Sequences.")
@click.option(
    "--dtype", "dtypes", type=click.Choice(["bf16", "fp16", "fp32"]), multiple=True, help="Repeatable [bf16]."
)
@click.option("--causal/--no-causal", "causal", default=None, help="Only one of them [both].")
@click.option("--forward-only", is_flag=True, help="Leave the backward pass out.")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", help="Output format.")
@click.option("--python", "python", metavar="EXE", help="The Python whose kernels are tuned.")
@click.option("--timeout", "timeout_s", type=seconds(1), default=_DEADLINE_S, help="Seconds a candidate may take.")
def command(
    lengths: tuple[int, ...],
    keys: int | None,
    head_dims: tuple[int, ...],
    heads: int,
    kv_heads: int | None,
    batch: int,
    dtypes: tuple[str, ...],
    causal: bool | None,
    forward_only: bool,
    style: str,
    python: str | None,
    timeout_s: float,
) -> int:
    """Searches kernel configurations once and keeps them.

    The kernels use what is found from then on, in every process. Tries each candidate on the GPU for every combination of the shapes named. Shapes whose lengths and number of heads
    round up to the same powers of two share what is found. Exit code 1 when nothing was found for a shape, 3 without a GPU.
    """
    kv_heads = kv_heads or heads
    if heads % kv_heads:
        raise UsageProblem(f"{heads} query heads cannot share {kv_heads} key heads: the one must divide the other")
    shapes = [
        {
            "batch": batch,
            "heads": heads,
            "kv_heads": kv_heads,
            "seqlen_q": length,
            "seqlen_k": keys or length,
            "head_dim": head_dim,
            "dtype": dtype,
            "causal": is_causal,
            "backward": not forward_only,
        }
        for length, head_dim, dtype, is_causal in itertools.product(
            lengths or (2048,), head_dims or (128,), dtypes or ("bf16",), (False, True) if causal is None else (causal,)
        )
    ]
    report = _run(target_python(python), shapes, timeout_s, quiet=style == "json")
    if style == "json":
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(_text(report))
    return EXIT_FAILED if any(row["error"] or not row["found"] for row in report["shapes"]) else 0


def _run(python: str, shapes: list[dict[str, Any]], timeout_s: float, quiet: bool) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [{**shape, "found": {}, "error": None} for shape in shapes]
    plan: dict[str, Any] = {}
    current = 0
    with KernelProcess(python, "tune", {"shapes": shapes}) as process:
        try:
            for message in process.messages(timeout_s):
                event = message["event"]
                if event == "no_gpu":
                    raise Undecided(f"{python}: {message['message']}")
                if event == "plan":
                    plan = message
                elif event == "begin":
                    current = message["number"]
                elif event == "failed":
                    rows[current]["error"] = message["message"]
                elif event == "candidate":
                    _note(rows[current], message)
                    if not quiet:
                        _say_progress(current, len(shapes), message)
        except ProcessDied as death:
            why = why_it_ended(python, death, process.new_errors())
            if not plan:
                raise Undecided(why) from None
            for row in rows[current:]:
                row["error"] = why
    names = ("device", "target", "triton", "store")
    return {"schema": SCHEMA, **{name: plan.get(name) for name in names}, "shapes": rows}


def _note(row: dict[str, Any], message: dict[str, Any]) -> None:
    """Keeps the fastest candidate of each kernel, and the time of the shipped configuration, which is tried first."""
    found = row["found"].get(message["kind"])
    if not isinstance(message["outcome"], float):
        return
    if found is None:
        row["found"][message["kind"]] = found = {"milliseconds": float("inf"), "shipped_milliseconds": None}
    if message["number"] == 0:
        found["shipped_milliseconds"] = message["outcome"]
    if message["outcome"] < found["milliseconds"]:
        found.update(milliseconds=message["outcome"], config=message["config"])


def _say_progress(number: int, count: int, message: dict[str, Any]) -> None:
    outcome = message["outcome"]
    said = f"{outcome:.3f} ms" if isinstance(outcome, float) else outcome
    config = message["config"]
    sys.stderr.write(
        f"shape {number + 1}/{count} {message['kind']} {message['number'] + 1}/{message['count']}: "
        f"{config['block_m']}x{config['block_n']}, {config['num_warps']} warps: {said}\n"
    )
    sys.stderr.flush()


def _text(report: dict[str, Any]) -> str:
    lines = [f"{report['device']} ({report['target']}), Triton {report['triton']}; kept in {report['store']}"]
    for row in report["shapes"]:
        name = (
            f"batch {row['batch']}, heads {row['heads']}/{row['kv_heads']}, {row['seqlen_q']} x {row['seqlen_k']}, "
            f"head dim {row['head_dim']}, {row['dtype']}, {'causal' if row['causal'] else 'not causal'}"
        )
        lines.append(f"{name}: {row['error']}" if row["error"] else name)
        for kind, found in row["found"].items():
            config = found["config"]
            before = found["shipped_milliseconds"]
            gain = f" ({before / found['milliseconds']:.2f}x the shipped one's speed)" if before else ""
            lines.append(
                f"  {kind:<8} {config['block_m']}x{config['block_n']}, {config['num_warps']} warps, "
                f"{config['num_stages']} stages: {found['milliseconds']:.3f} ms{gain}"
            )
    return "\n".join(lines)
