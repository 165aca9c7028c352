"""`fa-doctor kernels compile`: compiles the bundled kernels for any GPU target, with no GPU present, and shows their cost."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import click

from fa_doctor.commands.options import seconds
from fa_doctor.errors import EXIT_FAILED, Undecided, UsageProblem
from fa_doctor.kernel_process import KernelProcess, ProcessDied, target_python, why_it_ended

__all__ = ["command"]

SCHEMA = "fa-doctor/kernels/1"
# Starting Python with torch takes seconds on a cold disk; the largest backward kernels take about a minute to compile.
_DEADLINE_S = 300.0


@click.group("kernels")
def command() -> None:
    """Works with the bundled attention kernels."""


@command.command("compile")
@click.option("--arch", required=True, metavar="GFX", help="GPU target: gfx942, gfx1100, ... (or sm_90).")
@click.option("--head-dim", "head_dims", type=click.IntRange(1, 256), multiple=True, help="Head dimension; repeatable.")
@click.option("--dtype", "dtypes", type=click.Choice(["bf16", "fp16", "fp32"]), multiple=True, help="Repeatable.")
@click.option(
    "--pass", "passes", type=click.Choice(["forward", "backward", "decode"]), multiple=True, help="Repeatable."
)
@click.option(
    "--feature",
    "features",
    multiple=True,
    help="causal, window, softcap, alibi, dropout, varlen, paged, large, or none; all given make one variant.",
)
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", help="Output format.")
@click.option("--python", "python", metavar="EXE", help="The Python whose torch and Triton compile.")
@click.option("--timeout", "timeout_s", type=seconds(1), default=_DEADLINE_S, help="Seconds a variant may take.")
def compile_command(
    arch: str,
    head_dims: tuple[int, ...],
    dtypes: tuple[str, ...],
    passes: tuple[str, ...],
    features: tuple[str, ...],
    style: str,
    python: str | None,
    timeout_s: float,
) -> int:
    """Compiles the bundled kernels ahead of time, with no GPU present.

    Fills Triton's cache (TRITON_CACHE_DIR): a later run with the same Triton on that GPU compiles nothing. Without options
    it compiles what models in use call. Exit code 1 when a variant could not be compiled.
    """
    if not re.fullmatch(r"gfx[0-9a-f]{3,4}|sm_[0-9]{2,3}", arch):
        raise UsageProblem(f"{arch!r} is no GPU target; expected gfx942, gfx1100, ... (`fa-doctor gpus` lists them)")
    request: dict[str, Any] = {
        "arch": arch,
        "head_dims": head_dims,
        "dtypes": dtypes,
        "passes": passes,
        "features": None if not features else [name for name in features if name != "none"],
        "shims": True,
    }
    report = _run(target_python(python), request, timeout_s)
    if style == "json":
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(_text(report))
    return EXIT_FAILED if any(row["error"] for row in report["kernels"]) else 0


def _run(python: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Has every variant compiled; a process that dies is replaced by one that goes on behind the variant it died in."""
    rows: dict[int, list[dict[str, Any]]] = {}
    plan: dict[str, Any] = {}
    notes: list[str] = []
    progress = sys.stderr
    first = 0
    while True:
        current = -1
        with KernelProcess(python, "compile", {**request, "first": first}) as process:
            try:
                for message in process.messages(timeout_s):
                    event = message["event"]
                    if event == "refused":
                        raise UsageProblem(message["message"])
                    if event == "plan":
                        plan = message
                    elif event == "begin":
                        current = message["number"]
                        process.new_errors()
                        if progress.isatty():
                            progress.write(f"\r{current + 1}/{len(plan['variants'])} ")
                            progress.flush()
                    elif event == "rows":
                        said = _first_error(process.new_errors())
                        rows[current] = [_with_reason(row, said) for row in message["rows"]]
                    elif message.get("shim_problem"):
                        notes.append(f"launchers were not built ahead: {message['shim_problem']}")
                break
            except ProcessDied as death:
                text = process.new_errors()
                if current < 0 or not plan:
                    raise Undecided(why_it_ended(python, death, text)) from None
                reason = _first_error(text)
                rows[current] = [_dead_row(request["arch"], plan["variants"][current], f"the compiler {death}", reason)]
                first = current + 1
                if first >= len(plan["variants"]):
                    break
    if progress.isatty():
        progress.write("\r\033[K")
    return {
        "schema": SCHEMA,
        "arch": request["arch"],
        "triton": plan.get("triton"),
        "cache": plan.get("cache"),
        "kernels": [row for number in sorted(rows) for row in rows[number]],
        "notes": notes,
    }


def _first_error(text: str) -> str | None:
    """What the compiler's C++ parts wrote before Python raised: the exception itself says only that a pass failed."""
    found = re.search(r"LLVM ERROR: .*", text) or re.search(r"(?<=error: ).*", text)
    return found[0].strip() if found else None


def _with_reason(row: dict[str, Any], said: str | None) -> dict[str, Any]:
    if row["error"] and said and said not in row["error"]:
        row["error"] = f"{said} ({row['error']})"
    return row


def _dead_row(arch: str, variant: dict[str, Any], death: str, said: str | None) -> dict[str, Any]:
    fields = (
        "kernel config vgprs agprs sgprs vgpr_spills sgpr_spills scratch_bytes lds_bytes occupancy mfma wmma "
        "code_bytes inner_loops files"
    )
    return {
        "arch": arch,
        "pass": variant["kind"],
        "head_dim": variant["head_dim"],
        "dtype": variant["dtype"],
        "features": variant["features"],
        **dict.fromkeys(fields.split()),
        "error": f"{said} ({death})" if said else death,
    }


def _text(report: dict[str, Any]) -> str:
    """One line a kernel."""
    lines = [
        f"{report['arch']}, Triton {report['triton']}, cache {report['cache']}",
        f"{'pass':<9}{'dim':>4} {'dtype':<5} {'features':<24} {'kernel':<22} {'tile':>8} {'VGPR':>5} {'AGPR':>5} "
        f"{'SGPR':>5} {'spill':>5} {'scratch':>7} {'LDS':>6} {'waves':>5} {'matrix':>6} {'code':>6}",
    ]
    for row in report["kernels"]:
        name = f"{row['pass']:<9}{row['head_dim']:>4} {row['dtype']:<5} {','.join(row['features']) or '-':<24} "
        if row["kernel"] is None or row["vgprs"] is None:
            lines.append(f"{name}{row['kernel'] or ''} {row['error'] or 'compiled'}".rstrip())
            continue
        config = row["config"]
        tile = f"{config.get('block_m', '')}x{config.get('block_n', '')}"
        lines.append(
            f"{name}{row['kernel']:<22} {tile:>8} {row['vgprs']:>5} {row['agprs']:>5} {row['sgprs']:>5} "
            f"{row['vgpr_spills']:>5} {row['scratch_bytes']:>7} {row['lds_bytes']:>6} {row['occupancy']!s:>5} "
            f"{row['mfma'] + row['wmma']:>6} {row['code_bytes']:>6}" + (f"  {row['error']}" if row["error"] else "")
        )
    failed = sum(bool(row["error"]) for row in report["kernels"])
    lines.append(f"{len(report['kernels']) - failed} kernels compiled, {failed} failed")
    return "\n".join(lines + report["notes"])
