"""`fa-doctor fix`: applies the automatic fixes of check, proves each, and can take them back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import click

from fa_doctor.commands.options import SECONDS, seconds
from fa_doctor.errors import FaDoctorError, UsageProblem
from fa_doctor.level import Level

__all__ = ["command"]

_SPARE_S = 20.0  # on top of what the level promises: a look that is cut short proves nothing


@click.command("fix")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--select", "selected", multiple=True, metavar="ID", help="The same as naming ID: an id, prefix or name.")
@click.option("--ignore", "unwanted", multiple=True, metavar="ID", help="Leave these checks out.")
@click.option("--dry-run", is_flag=True, help="Show what would be changed and stop.")
@click.option("--yes", "-y", is_flag=True, help="Apply the automatic fixes without asking.")
@click.option("--unsafe", is_flag=True, help="Also the unsafe fixes of the IDs that are named.")
@click.option("--undo", is_flag=True, help="Take the last fix back; again for the one before it.")
@click.option(
    "--level",
    type=click.Choice([level.name.lower() for level in Level]),
    default="quick",
    show_default=True,
    help="How deep to look before and after each fix; as for `check`.",
)
@click.option("--python", metavar="EXE", help="The Python to examine (default: the active environment's).")
@click.option("--timeout", type=SECONDS, metavar="S", help="Seconds for each look at the machine.")
@click.option("--wait", type=seconds(0), default=0.0, metavar="S", help="Wait for another one to end.")
@click.option("--pytorch-index", metavar="URL", envvar="FA_DOCTOR_PYTORCH_INDEX", help="A mirror of PyTorch's indexes.")
@click.option("--amd-index", metavar="URL", envvar="FA_DOCTOR_AMD_INDEX", help="A mirror of AMD's index.")
@click.option("--installer", type=click.Choice(["uv", "pip"]), help="What installs packages (default: uv).")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(ids: tuple[str, ...], selected: tuple[str, ...], **options: Any) -> int:
    """Applies the automatic fixes of `check`, proves each, and takes back what did not help.

    Each fix is shown with what it changes and how it is undone, and asked for. Only the target environment, the user's
    own files and the environment file are ever touched; what needs root or a decision is printed as commands.

    Exit status: 0 everything that could be fixed is, 1 a check still fails, 2 wrong usage, 3 no verdict, 130 interrupted.
    """
    words = (*ids, *selected)
    if options["unsafe"] and not words:
        raise UsageProblem("--unsafe is for fixes that you name: fa-doctor fix ID --unsafe")
    if options["undo"] and (words or options["dry_run"] or options["unsafe"]):
        raise UsageProblem("--undo takes the last fix back, whatever it was: it goes with no other choice")
    _survive_encoding()
    say = _say_to(sys.stderr if options["style"] == "json" else sys.stdout)
    was_missing = _put_back_missing(options, say)
    if options["undo"]:
        return 0 if was_missing else _undo(options, say)
    return _fix(words, options, say)


def _put_back_missing(options: dict[str, Any], say: Callable[[str], None]) -> bool:
    """Where a fix was cut off while the environment was moved away: moves it back. Nothing can be examined without it."""
    from fa_doctor.fixing.history import History
    from fa_doctor.fixing.places import missing_environment
    from fa_doctor.fixing.undo import take_back
    from fa_doctor.installer.locking import locked

    paths = missing_environment(options["python"], os.environ)
    entry = History(paths).cut_off() if paths else None
    if paths is None or entry is None:
        return False
    if options["dry_run"]:
        raise UsageProblem(f"{paths.environment} was moved away by a fix that was cut off: fa-doctor fix --undo")
    with locked(paths, options["wait"]):
        say(f"{paths.environment} was moved away by fix {entry.number}, which was cut off.")
        for line in take_back(History(paths), entry, "it was cut off"):
            say(f"  taken back: {line}")
    return True


def _fix(words: tuple[str, ...], options: dict[str, Any], say: Callable[[str], None]) -> int:
    from fa_doctor.commands.check import IGNORE_FILE
    from fa_doctor.diagnosis.check import all_checks
    from fa_doctor.diagnosis.selection import load_ignores, select
    from fa_doctor.fixing.apply import PackageOptions
    from fa_doctor.fixing.look import Looker
    from fa_doctor.fixing.session import Session
    from fa_doctor.fixing.wording import describe, ending, exit_code, result_document

    level = Level[options["level"].upper()]
    checks = select(all_checks(), (), options["unwanted"])
    wanted = frozenset(check.id for check in select(checks, words, ())) if words else None
    ignores = load_ignores(Path(IGNORE_FILE)) if Path(IGNORE_FILE).is_file() else []
    allowed = options["timeout"] if options["timeout"] is not None else float(level.value) + _SPARE_S
    session = Session(
        Looker(dict(os.environ), checks, level, allowed, options["python"], ignores),
        PackageOptions(dict(os.environ), options["installer"], options["pytorch_index"], options["amd_index"]),
        say,
        _ask,
        describe,
        wanted,
        options["unsafe"],
        options["yes"],
        options["wait"],
    )
    planned = bool(options["dry_run"])
    result = session.plan() if planned else session.run()
    code = exit_code(result, wanted)
    if options["style"] == "json":
        sys.stdout.write(json.dumps(result_document(result, wanted, level, code, planned=planned), indent=1) + "\n")
    else:
        if not planned and result.outcomes:
            say("")
        say(ending(result, wanted, planned=planned))
    return code


def _undo(options: dict[str, Any], say: Callable[[str], None]) -> int:
    from fa_doctor.facts import python as python_facts
    from fa_doctor.fixing.history import History
    from fa_doctor.fixing.places import paths_of
    from fa_doctor.fixing.undo import is_lost, take_back
    from fa_doctor.host import LiveHost
    from fa_doctor.installer.locking import locked
    from fa_doctor.installer.recover import refuse_if_unfinished

    python = python_facts.gather(LiveHost(), options["python"])
    paths = paths_of(python)
    history = History(paths)
    if not any(entry.is_kept or entry.is_cut_off for entry in history.entries()):
        raise UsageProblem(f"there is no fix of {python.prefix or 'this Python'} to take back")
    with locked(paths, options["wait"]):
        refuse_if_unfinished(paths)
        entry = history.cut_off() or history.last_kept()
        if entry is None:  # another one was quicker
            raise UsageProblem(f"there is no fix of {python.prefix or 'this Python'} to take back")
        say(f"Fix {entry.number} of {entry.when}: {entry.check}, {entry.title}")
        if is_lost(entry):
            history.note("lost", entry)
            raise _Lost(
                f"{paths.environment} is no longer the environment that this fix made: there is nothing to take back"
            )
        if not (options["yes"] or _ask("Take it back?")):
            return 1
        did = take_back(history, entry, "--undo")
    for line in did:
        say(f"  {line}")
    before = history.last_kept()
    say(f"Taken back. The one before it is fix {before.number}: {before.title}" if before else "Taken back.")
    if options["style"] == "json":
        document = {"schema": "fa-doctor/fix-undo/1", "number": entry.number, "check": entry.check, "done": list(did)}
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    return 0


class _Lost(FaDoctorError):
    """A fix whose environment is gone."""

    exit_code = 1


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageProblem(
            "nobody is there to agree: say --yes to apply the automatic fixes, --dry-run to see them only"
        )
    try:
        return click.confirm(question, default=False, err=True)
    except click.Abort:
        raise KeyboardInterrupt from None


def _say_to(stream: TextIO) -> Callable[[str], None]:
    def say(text: str) -> None:
        stream.write(text + "\n")
        stream.flush()

    return say


def _survive_encoding() -> None:
    """A pipe in plain ASCII (LC_ALL=C) gets "?" for what it cannot show, not an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
