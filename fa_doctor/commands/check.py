"""`fa-doctor check`: facts and checks of a machine, as a report."""

from __future__ import annotations

import sys
import time
from datetime import date
from pathlib import Path

import click

from fa_doctor.commands.options import SECONDS, machine_options, open_host, write_output
from fa_doctor.errors import UsageProblem
from fa_doctor.level import Level
from fa_doctor.report.formats import FORMATS

__all__ = ["command"]

IGNORE_FILE = "fa-doctor-ignore.toml"


@click.command("check")
@click.option(
    "--level",
    type=click.Choice([level.name.lower() for level in Level]),
    default="standard",
    show_default=True,
    help="quick: files only, 1 s; standard: also imports torch and runs the kernels, 60 s; full: also speed, 10 min.",
)
@machine_options
@click.option("--select", "wanted", multiple=True, metavar="ID", help="Only these checks: an id, a prefix, or a name.")
@click.option("--ignore", "unwanted", multiple=True, metavar="ID", help="Leave these checks out.")
@click.option(
    "--ignore-file",
    metavar="FILE",
    help=f"Findings that do not count, with reason and end date (default: {IGNORE_FILE}, if it is there).",
)
@click.option("--strict", is_flag=True, help="Warnings fail too.")
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="May be given several times.")
@click.option("--output", "outputs", multiple=True, metavar="FILE", help="Where the format before it goes.")
@click.option("--timeout", type=SECONDS, metavar="S", help="Seconds in all (default: the level's).")
@click.option("-v", "--verbose", is_flag=True, help="Show what passed, all evidence, and each check's duration.")
def command(
    level: str,
    machine: str | None,
    root: str | None,
    python: str | None,
    wanted: tuple[str, ...],
    unwanted: tuple[str, ...],
    ignore_file: str | None,
    strict: bool,
    formats: tuple[str, ...],
    outputs: tuple[str, ...],
    timeout: float | None,
    verbose: bool,
) -> int:
    """Finds what keeps FlashAttention from working on this machine, and how to mend it.

    Exit status: 0 healthy, 1 a check failed, 2 wrong usage, 3 no verdict could be reached.
    """
    started = time.monotonic()
    from fa_doctor.diagnosis.check import all_checks
    from fa_doctor.diagnosis.examine import examine
    from fa_doctor.diagnosis.selection import apply_ignores, load_ignores, select
    from fa_doctor.report import document as document_module
    from fa_doctor.report import formats as formats_module

    destinations = _destinations(formats, outputs)
    depth = Level[level.upper()]
    checks = select(all_checks(), wanted, unwanted)
    host = open_host(machine, root)
    ignores = []
    if ignore_file or (Path(IGNORE_FILE).is_file() and not machine):
        ignores = load_ignores(Path(ignore_file or IGNORE_FILE))
    # A --timeout counts from the start. The promise of a level is for the examination: a disk that is slow to bring
    # this program into memory must not cost the verdict.
    allowed = timeout - (time.monotonic() - started) if timeout is not None else float(depth.value)
    found, findings = examine(host, checks, depth, allowed, python)
    findings = apply_ignores(findings, ignores, date.today())
    document = document_module.build(found, findings, depth, time.monotonic() - started, strict=strict)
    for name, path in destinations:
        if name == "text" and path is None:
            from fa_doctor.report import text

            _survive_encoding()
            text.write(document, sys.stdout, verbose=verbose)
        else:
            write_output(formats_module.render(document, name, verbose=verbose), path)
    code = formats_module.exit_code(document)
    if formats == ("npd",):
        from fa_doctor.report import npd

        code = npd.exit_code(document)
    return code


def _destinations(formats: tuple[str, ...], outputs: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """Pairs the first --format with the first --output, and so on; the last format may go to standard output."""
    if not formats:
        formats = ("text",)
    if len(outputs) > len(formats):
        raise UsageProblem("there are more --output than --format")
    if len(formats) - len(outputs) > 1:
        raise UsageProblem("of several --format only one may go without an --output")
    if len(set(outputs)) != len(outputs):
        raise UsageProblem("two formats cannot go to the same --output")
    return [(name, outputs[place] if place < len(outputs) else None) for place, name in enumerate(formats)]


def _survive_encoding() -> None:
    """A terminal or a pipe in plain ASCII (LC_ALL=C) gets "?" for what it cannot show, not an error."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
