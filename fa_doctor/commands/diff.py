"""`fa-doctor diff A B`: a good machine and a bad one, and what differs."""

from __future__ import annotations

import dataclasses
import json
import sys

import click

from fa_doctor.commands.options import write_output
from fa_doctor.commands.reports import report_at

__all__ = ["command"]


@click.command("diff")
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(left: str, right: str, format_: str) -> int:
    """Shows what differs between two reports or recorded machines, most telling first.

    A and B are files written by `fa-doctor check --format json`, or folders (or tars) of recorded machines. Exit
    status: 0 nothing differs, 1 something does, 2 one of them cannot be read.
    """
    from fa_doctor.report.difference import differences

    found = differences(report_at(left), report_at(right))
    if format_ == "json":
        rows = [dataclasses.asdict(difference) for difference in found]
        write_output(json.dumps({"schema": "fa-doctor/diff/1", "differences": rows}, indent=1) + "\n", None)
    elif not found:
        write_output("Nothing differs.\n", None)
    else:
        from fa_doctor.report.paragraphs import console_for

        console = console_for(sys.stdout)
        for difference in found:
            console.print(difference.what, style="bold")
            console.print(f"  A  {difference.left}", style="cyan")
            console.print(f"  B  {difference.right}", style="yellow")
    return 1 if found else 0
