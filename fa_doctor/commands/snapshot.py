"""`fa-doctor snapshot DIR`: records this machine, secrets removed, for a bug report or a test."""

from __future__ import annotations

from pathlib import Path

import click

from fa_doctor.commands.options import SECONDS, machine_options, open_host, write_output
from fa_doctor.level import Level

__all__ = ["command"]


@click.command("snapshot")
@click.argument("folder", metavar="DIR")
@click.option(
    "--level",
    type=click.Choice([level.name.lower() for level in Level]),
    default="standard",
    show_default=True,
    help="Record what a check of this level reads.",
)
@machine_options
@click.option("--timeout", type=SECONDS, default=60.0, metavar="S", show_default=True)
def command(folder: str, level: str, machine: str | None, root: str | None, python: str | None, timeout: float) -> int:
    """Records what check reads of this machine into a new folder; secrets are removed.

    `fa-doctor check --machine DIR` then gives the same findings as here.
    """
    from fa_doctor.diagnosis.check import all_checks
    from fa_doctor.diagnosis.examine import examine
    from fa_doctor.host.recorder import RecordingHost
    from fa_doctor.redaction import Redactor

    host = RecordingHost(open_host(machine, root))
    examine(host, all_checks(), Level[level.upper()], timeout, python)
    host.write(Path(folder), Redactor.of_this_process().clean)
    write_output(
        f"Recorded {host.description} in {folder}.\n"
        "Tokens, keys, credentials, home folders, user and host names were removed; have a look before you send it:\n"
        f"  tar czf {Path(folder).name or 'machine'}.tar.gz {folder}\n"
        f"  fa-doctor check --machine {folder}\n",
        None,
    )
    return 0
