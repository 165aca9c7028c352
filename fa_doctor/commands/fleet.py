"""`fa-doctor fleet`: the reports of many machines as one."""

from __future__ import annotations

import json
import sys

import click

from fa_doctor.commands.options import write_output
from fa_doctor.commands.reports import named_sources, report_at
from fa_doctor.errors import UsageProblem
from fa_doctor.report.document import Document

__all__ = ["command"]


@click.command("fleet")
@click.argument("paths", nargs=-1, required=True, metavar="REPORT|DIR...")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--output", metavar="FILE", help="Where it goes (default: standard output).")
def command(paths: tuple[str, ...], format_: str, output: str | None) -> int:
    """Reads many machines' reports as one: what fails and where, and which machine is not like the others.

    Each REPORT is a file of `fa-doctor check --format json --output $(hostname).json`, or a recorded machine; a DIR
    stands for all in it. A machine is named after its file. One that cannot be read is listed, and the rest is shown.

    Exit status: 0 all are healthy, 1 one fails, 2 wrong usage, 3 a report is unreadable or undecided.
    """
    from fa_doctor.report import fleet as fleet_module

    reports: dict[str, Document] = {}
    unreadable: dict[str, str] = {}
    for name, source in named_sources(paths).items():
        report, problem = _read(source)
        if report is None:
            unreadable[name] = problem
        else:
            reports[name] = report
    fleet = fleet_module.summarise(reports, unreadable)
    if format_ == "json":
        write_output(json.dumps(fleet, indent=1, ensure_ascii=False) + "\n", output)
    elif output is None:
        fleet_module.write(fleet, sys.stdout)
    else:
        from io import StringIO

        text = StringIO()
        fleet_module.write(fleet, text)
        write_output(text.getvalue(), output)
    return fleet_module.exit_code(fleet)


def _read(source: str) -> tuple[Document | None, str]:
    try:
        return report_at(source), ""
    except UsageProblem as problem:
        return None, str(problem)
