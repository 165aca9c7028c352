"""Takes one fix back from what the journal says of it: one that was kept, one that did not help, one that was cut off."""

from __future__ import annotations

from pathlib import Path

from fa_doctor.fixing.errors import Conflict
from fa_doctor.fixing.history import Entry, History
from fa_doctor.fixing.packages import is_in_place, undo_packages
from fa_doctor.fixing.variables import undo_folders, undo_variable
from fa_doctor.installer.interruption import uninterrupted

__all__ = ["is_lost", "take_back"]


def is_lost(entry: Entry) -> bool:
    """Whether the environment that a kept fix made is gone (made anew, or rolled back): there is nothing to take back."""
    packages = entry.details.get("packages")
    if not packages or not entry.is_kept:
        return False
    return not is_in_place(Path(packages["environment"]), packages["identity"])


def take_back(history: History, entry: Entry, why: str) -> tuple[str, ...]:
    """Undoes the fix; returns what was done, one line each. May be cut off and called again.

    Raises Conflict, with nothing touched, where what it changed was changed again since: a fix that was kept stays
    kept, one that was cut off is given up, since nobody could tell any more what to put back.
    """
    with uninterrupted():
        if entry.is_kept:  # before that nobody takes it for one that stays, and the disk may be full
            history.note("undoing", entry, why=why)
        try:
            did = _undo(entry)
        except Conflict as error:
            history.note("kept" if entry.is_kept else "lost", entry, why=str(error))
            raise
        history.note("undone", entry, why=why)
    return did


def _undo(entry: Entry) -> tuple[str, ...]:
    did = []
    packages = entry.details.get("packages")
    if packages:
        did.append(undo_packages(entry.number, Path(packages["environment"]), packages["identity"]))
    if entry.details.get("variable"):
        did.append(undo_variable(entry.details["variable"]))
    if entry.details.get("folder"):
        did.append(undo_folders(entry.details["folder"]))
    return tuple(did)
