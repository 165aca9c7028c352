"""`fa-doctor explain`: from an error text to causes and fixes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

from fa_doctor.errors import UsageProblem

__all__ = ["command"]


@click.command(name="explain")
@click.argument("log", default="-", metavar="[FILE|-]")
@click.option("--context", "context_file", metavar="FILE", help="Known facts of the machine, or a report, as JSON.")
@click.option("--machine/--no-machine", default=True, help="Look at this machine too (default), or at the log only.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--output", metavar="FILE", help="Write there instead of standard output.")
def command(log: str, context_file: str | None, machine: bool, form: str, output: str | None) -> None:
    """Names the cause of an error text and the fix for this machine.

    FILE is any log: a traceback, a build log, dmesg, a pasted issue; of any size, packed with gzip or not. Without
    FILE, or with -, it is read from standard input. The facts of a context are gpu, gfx, rocm, torch, triton,
    flash_attn, python, os, container, wsl and env, all optional; a report of `fa-doctor check --format json` is one too.

    Exit codes: 0 whatever was found, 2 for a file that cannot be read, 3 for a fault of fa-doctor.
    """
    from fa_doctor.diagnosis.explain import explain
    from fa_doctor.diagnosis.failures import knowledge
    from fa_doctor.diagnosis.logtext import blocks_of
    from fa_doctor.diagnosis.machine_context import build_context
    from fa_doctor.report.diagnosis import WIDTH, as_json, as_text

    context = build_context(read_context(context_file) if context_file else None, look=machine)
    stream = open_log(log)
    try:
        explanation = explain(blocks_of(stream), context)
    except OSError as error:
        raise UsageProblem(f"cannot read {log}: {error.strerror or error}") from None
    finally:
        if stream is not sys.stdin.buffer:
            stream.close()
    known = knowledge()
    if form == "json":
        text = as_json(explanation, known) + "\n"
    else:
        text = as_text(explanation, known, WIDTH if output else min(screen_width(), WIDTH))
    if output:
        try:
            Path(output).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageProblem(f"cannot write {output}: {error.strerror or error}") from None
    else:
        write(text)


def open_log(log: str) -> BinaryIO:
    if log == "-" and sys.stdin is None:
        raise UsageProblem("there is no standard input: name a file")
    if log == "-":
        if sys.stdin.isatty():
            click.echo("Paste the error text, then press Ctrl-D:", err=True)
        return sys.stdin.buffer
    try:
        return open(log, "rb")
    except OSError as error:
        raise UsageProblem(f"cannot read {log}: {error.strerror or error}") from None


def read_context(path: str) -> dict[str, Any]:
    """The facts of a context file or report. Raises UsageProblem for what is neither."""
    try:
        loaded = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageProblem(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageProblem(f"{path} is not JSON: {error}") from None
    if not isinstance(loaded, dict):
        raise UsageProblem(f"{path} must hold a JSON object with facts or a report")
    return loaded


def screen_width() -> int:
    """The columns of the terminal, or what COLUMNS says; wide where there is neither."""
    return shutil.get_terminal_size((1000, 24)).columns


def write(text: str) -> None:
    """Writes to standard output, whatever characters it can show."""
    encoding = sys.stdout.encoding or "ascii"
    click.echo(text.encode(encoding, "replace").decode(encoding), nl=False)
