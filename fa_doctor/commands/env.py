"""`fa-doctor env`: the variables that this machine needs, in the form that a shell or a file takes."""

from __future__ import annotations

import os
import sys

import click

from fa_doctor.commands.options import SECONDS, write_output
from fa_doctor.entrypoint.shells import FORMS
from fa_doctor.level import Level

__all__ = ["command"]


@click.command("env")
@click.option(
    "--shell",
    "form",
    type=click.Choice((*FORMS, "docker-run", "podman-run")),
    default="bash",
    show_default=True,
    help="bash also fits dash, ash and zsh; docker: ENV lines; github: lines for $GITHUB_ENV.",
)
@click.option("--python", metavar="EXE", help="The Python to examine (default: the active environment's).")
@click.option("--timeout", type=SECONDS, default=10.0, metavar="S", show_default=True)
def command(form: str, python: str | None, timeout: float) -> int:
    """Prints the variables that this machine needs: eval "$(fa-doctor env)".

    Only those that the environment file of `fa-doctor install` holds or a finding proves to be missing, each with its
    reason; nothing if all is as it should be. docker-run and podman-run print the command line that gives a container
    the GPUs of this host.
    """
    if form in ("docker-run", "podman-run"):
        import time

        from fa_doctor.diagnosis.gather import gather
        from fa_doctor.entrypoint.container_command import container_command
        from fa_doctor.host import LiveHost

        machine = gather(LiveHost(), level=Level.QUICK, python=python, deadline=time.monotonic() + timeout)
        write_output(container_command(machine, form.removesuffix("-run")) + "\n", None)
        return 0
    from fa_doctor.entrypoint.settle import settle
    from fa_doctor.entrypoint.shells import render

    settled = settle(os.environ, Level.QUICK, timeout, python)
    if form == "json":
        # Surrogates stand for bytes that are not UTF-8; JSON escapes them, so that the value survives.
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    write_output(render(settled.variables, form), None)
    return 0
