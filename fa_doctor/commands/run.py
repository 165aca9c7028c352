"""`fa-doctor run -- CMD`: container entrypoint. Looks at the machine, sets the environment, becomes the command."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click

from fa_doctor.commands.options import SECONDS, seconds
from fa_doctor.entrypoint.handover import become, end_on_signals
from fa_doctor.errors import EXIT_FAILED, EXIT_UNDECIDED, FaDoctorError, UsageProblem
from fa_doctor.level import Level

__all__ = ["command"]

CONFIGURATION = "/etc/fa-doctor/run.toml"
_POLL_S = 0.5


def _from_file(context: click.Context, _: click.Parameter, path: str | None) -> str | None:
    """Takes defaults for the other options from the [run] table of a TOML file; options and variables go before it."""
    from fa_doctor.entrypoint.settings import load_settings

    context.default_map = {**(context.default_map or {}), **load_settings(path, CONFIGURATION)}
    return path


@click.command("run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option(
    "--config",
    metavar="FILE",
    envvar="FA_DOCTOR_CONFIG",
    is_eager=True,
    expose_value=False,
    callback=_from_file,
    help=f"A TOML file with a [run] table of these options (default: {CONFIGURATION}, if it is there).",
)
@click.option(
    "--level",
    envvar="FA_DOCTOR_LEVEL",
    type=click.Choice([level.name.lower() for level in Level]),
    default="quick",
    show_default=True,
    help="How deep to look before the command starts.",
)
@click.option(
    "--on-fail",
    envvar="FA_DOCTOR_ON_FAIL",
    type=click.Choice(["stop", "warn"]),
    default="stop",
    show_default=True,
    help="stop: do not start the command when a check fails; warn: report and start it all the same.",
)
@click.option(
    "--wait",
    envvar="FA_DOCTOR_WAIT",
    type=seconds(0),
    default=0.0,
    metavar="S",
    help="Wait up to S seconds for a healthy machine: devices can appear late.",
)
@click.option("--timeout", envvar="FA_DOCTOR_TIMEOUT", type=SECONDS, metavar="S", help="For one look.")
@click.option("--python", envvar="FA_DOCTOR_PYTHON", metavar="EXE", help="The Python to examine.")
@click.option(
    "--ignore",
    "unwanted",
    envvar="FA_DOCTOR_IGNORE",
    multiple=True,
    metavar="ID",
    help="Leave these checks out; in the variable, several are set apart by blanks.",
)
@click.option(
    "--keep/--no-keep",
    envvar="FA_DOCTOR_KEEP",
    default=True,
    show_default=True,
    help="Use a kept verdict while nothing it rests on has changed.",
)
@click.option("-v", "--verbose", envvar="FA_DOCTOR_VERBOSE", is_flag=True, help="Report on stderr even if all is well.")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD [ARGS]...")
def command(
    level: str,
    on_fail: str,
    wait: float,
    timeout: float | None,
    python: str | None,
    unwanted: tuple[str, ...],
    keep: bool,
    verbose: bool,
    argv: tuple[str, ...],
) -> int:
    """Checks the machine, sets its variables, and becomes CMD: for container entrypoints.

    Signals, standard input and the exit status are CMD's own. Nothing is printed unless something is wrong; then the
    findings and their fixes go to stderr. Every option can also be given as a variable (FA_DOCTOR_ON_FAIL=warn).

    Exit status: CMD's; 127 if it is not found, 126 if it cannot be run; with --on-fail stop 1 if a check failed and
    3 if no verdict could be reached.
    """
    end_on_signals()
    depth = Level[level.upper()]
    try:
        outcome = _outcome(depth, wait, timeout or float(depth.value) + 4, python, unwanted, keep, verbose)
    except Exception as error:
        # Whatever is wrong with the doctor, with --on-fail warn the patient's command must start.
        if on_fail == "stop" or isinstance(error, UsageProblem):
            raise
        text = str(error) if isinstance(error, FaDoctorError) else f"internal error: {type(error).__name__}: {error}"
        sys.stderr.write(f"fa-doctor: {text}; starting {argv[0]} all the same\n")
        return become(argv, os.environ)
    if outcome["status"] in ("fail", "unknown") and on_fail == "stop":
        sys.stderr.write(
            f"fa-doctor: {argv[0]} was not started (--on-fail warn, or FA_DOCTOR_ON_FAIL=warn, starts it)\n"
        )
        return EXIT_FAILED if outcome["status"] == "fail" else EXIT_UNDECIDED
    return become(argv, {**os.environ, **outcome["variables"]})


def _outcome(
    level: Level,
    wait_s: float,
    timeout_s: float,
    python: str | None,
    unwanted: tuple[str, ...],
    keep: bool,
    verbose: bool,
) -> dict[str, Any]:
    """{"status", "variables"} of this machine: kept, or found now and reported on stderr where it is not well."""
    from fa_doctor.entrypoint.kept_verdict import KeptVerdict, state_folder
    from fa_doctor.host import LiveHost

    live = LiveHost()
    verdict = KeptVerdict(state_folder(), {"level": level.name, "python": python, "ignore": unwanted})
    if keep:
        outcome, reason = verdict.load(live)
        if outcome is not None:
            if verbose:
                sys.stderr.write("fa-doctor: nothing changed since the last healthy verdict\n")
            return outcome
        if verbose:
            sys.stderr.write(f"fa-doctor: looking at the machine: {reason}\n")

    from fa_doctor.entrypoint.settle import settle
    from fa_doctor.report import document

    started = time.monotonic()
    while True:
        looked = time.monotonic()
        settled = settle(os.environ, level, timeout_s, python, unwanted)
        report = document.build(settled.machine, settled.findings, level, time.monotonic() - looked)
        healthy = report["summary"]["status"] in ("pass", "warn")
        left = started + wait_s - time.monotonic()
        if healthy or left <= 0:
            break
        time.sleep(min(_POLL_S, left))
    if not healthy or verbose:
        from fa_doctor.report import text

        reconfigure = getattr(sys.stderr, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
        text.write(report, sys.stderr, verbose=verbose)
    outcome = {
        "status": report["summary"]["status"],
        "variables": {name: variable.value for name, variable in settled.variables.items()},
    }
    if healthy and keep:
        verdict.save(settled.asked, live, outcome)
    return outcome
