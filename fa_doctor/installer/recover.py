"""What to do with an install that was cut off, or with one that is to be undone: --resume and --rollback."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fa_doctor.errors import UsageProblem
from fa_doctor.installer import placing
from fa_doctor.installer.errors import Refused
from fa_doctor.installer.journal import Journal
from fa_doctor.installer.plan import Paths
from fa_doctor.installer.tree import Entry, manifest

__all__ = ["Unfinished", "complete_placing", "digest", "roll_back", "unfinished"]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An install that was cut off: its identity, whether the environment existed, and the Python it was made from."""

    identity: str
    existed: bool
    base_python: str
    step: str
    plan: Path


def digest(entries: dict[str, Entry]) -> str:
    """A short name for the state of a tree, to see later whether it is still the same."""
    text = "\n".join(f"{path}\t{entry}" for path, entry in sorted(entries.items()))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def unfinished(paths: Paths) -> Unfinished | None:
    """The install that was cut off; None when the last one came to its end or there was none."""
    journal = Journal(paths.journal)
    if not journal.is_open():
        return None
    records = journal.current()
    begin = records[0].data
    started = [str(entry.data.get("step")) for entry in records if entry.event == "start"]
    return Unfinished(
        identity=str(begin.get("transaction")),
        existed=bool(begin.get("exists")),
        base_python=str(begin.get("base_python")),
        step=started[-1] if started else "begin",
        plan=paths.plan,
    )


def refuse_if_unfinished(paths: Paths) -> None:
    """Raises Refused when an earlier install of this environment was cut off."""
    cut = unfinished(paths)
    if cut:
        raise Refused(
            f"an earlier install of {paths.environment} was cut off at the step {cut.step!r}. "
            f"`fa-doctor install --venv {paths.environment} --resume` completes it, --rollback undoes it."
        )


def complete_placing(paths: Paths, cut: Unfinished) -> bool:
    """Completes an install that had built and verified everything. False when it must be built anew."""
    journal = Journal(paths.journal)
    if placing.is_in_place(paths, cut.identity):
        placing.settle(paths, cut.identity, journal)
        return True
    ready = next((entry for entry in journal.current() if entry.event == "ready"), None)
    if ready is None or not placing.can_continue(paths, cut.identity):
        return False
    ways = [entry.data.get("way") for entry in journal.current() if entry.event == "placing"]
    if cut.existed and paths.previous.exists() and ("copied" in ways or not paths.environment.exists()):
        placing.finish_move(paths)
    else:
        now = digest(manifest(paths.environment)) if paths.environment.exists() else None
        if now != ready.data.get("before"):
            return False  # it was changed since, or comes from elsewhere: the copy beside it is out of date
        placing.place(paths, journal, exists=cut.existed)
    placing.settle(paths, cut.identity, journal)
    return True


def roll_back(paths: Paths) -> str:
    """Undoes the last install, finished or not; returns what was done. Raises UsageProblem when there is none."""
    journal = Journal(paths.journal)
    cut = unfinished(paths)
    if cut:
        return placing.undo_unfinished(paths, journal, cut.identity, existed=cut.existed)
    records = journal.current()
    if not records or records[-1].event != "finished":
        raise UsageProblem(f"there is no install of {paths.environment} to undo")
    identity = str(records[-1].data.get("transaction"))
    if not placing.is_in_place(paths, identity):
        raise Refused(f"{paths.environment} is not the environment that the last install made: it is left alone")
    return placing.put_back(paths, journal, existed=bool(records[0].data.get("exists")))
