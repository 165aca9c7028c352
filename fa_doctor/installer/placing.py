"""The moment of change: the built environment takes the place of the old one; and what a cut-off install left behind.

Three ways, the first that the file system can do: exchange both in one step; rename the old one away and the new one
in; or, where a folder of a lower image layer cannot be renamed (overlayfs), copy the old one away first. The journal
has a line before each, so that a later run knows how far it came.
"""

from __future__ import annotations

import errno
import os

from fa_doctor.installer import record
from fa_doctor.installer.errors import InstallFailed
from fa_doctor.installer.journal import Journal, sync_folder
from fa_doctor.installer.plan import Paths
from fa_doctor.installer.tree import clone, exchange, flush, remove

__all__ = ["can_continue", "finish_move", "is_in_place", "place", "put_back", "settle", "undo_unfinished"]


def is_in_place(paths: Paths, identity: str) -> bool:
    """Whether the environment is the one that this transaction built."""
    found = record.read(paths.environment)
    return found is not None and found.transaction == identity


def can_continue(paths: Paths, identity: str) -> bool:
    """Whether the built and verified environment is still there and only has to be put in place."""
    found = record.read(paths.stage)
    return found is not None and found.transaction == identity


def place(paths: Paths, journal: Journal, *, exists: bool) -> None:
    """Puts the stage in the place of the environment, and the environment in the place of `previous`."""
    remove(paths.state / "previous")
    paths.previous.parent.mkdir(parents=True)
    if not exists:
        journal.write("placing", way="rename")
        os.rename(paths.stage, paths.environment)
    elif exchange(paths.stage, paths.environment):
        # Recorded afterwards: the record inside the environment tells which of both it is.
        journal.write("placing", way="exchange")
        os.rename(paths.stage, paths.previous)
    else:
        _place_in_two_steps(paths, journal)
    sync_folder(paths.environment.parent)
    journal.write("placed")


def _place_in_two_steps(paths: Paths, journal: Journal) -> None:
    journal.write("placing", way="move")
    try:
        os.rename(paths.environment, paths.previous)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        journal.write("placing", way="copy")
        clone(paths.environment, paths.previous)
        flush(paths.previous)
        journal.write("placing", way="copied")
        remove(paths.environment)
    os.rename(paths.stage, paths.environment)


def finish_move(paths: Paths) -> None:
    """Completes a placement in two steps that was cut off after the old environment had gone to `previous`."""
    remove(paths.environment)
    os.rename(paths.stage, paths.environment)
    sync_folder(paths.environment.parent)


def settle(paths: Paths, identity: str, journal: Journal) -> None:
    """Completes the last steps of an install whose environment is in place: they can be done any number of times."""
    if not paths.previous.exists() and paths.stage.exists():
        paths.previous.parent.mkdir(parents=True, exist_ok=True)
        os.rename(paths.stage, paths.previous)
    for folder in (paths.state / "stage", paths.scratch, paths.wheels):
        remove(folder)
    if not paths.previous.exists():
        remove(paths.state / "previous")
    journal.write("finished", transaction=identity)


def undo_unfinished(paths: Paths, journal: Journal, identity: str, *, existed: bool) -> str:
    """Undoes an install that was cut off; returns what was done. The environment is as it was before."""
    ways = [entry.data.get("way") for entry in journal.current() if entry.event == "placing"]
    if is_in_place(paths, identity):
        settle(paths, identity, journal)
        return put_back(paths, journal, existed=existed)
    if existed and ("copied" in ways or not paths.environment.exists()) and paths.previous.exists():
        # It was moved or copied away, and the new one had not come yet.
        remove(paths.environment)
        os.rename(paths.previous, paths.environment)
        sync_folder(paths.environment.parent)
        did = "the environment was put back as it was"
    else:
        did = "the environment had not been touched"
    remove_leavings(paths)
    journal.write("undone")
    return f"{did}; what the install had built and downloaded was deleted"


def put_back(paths: Paths, journal: Journal, *, existed: bool) -> str:
    """Undoes a finished install: the previous environment takes its place again, or there is none again."""
    spare = paths.state / "replaced"
    if existed:
        if not paths.previous.exists():
            raise InstallFailed(f"the environment from before is no longer at {paths.previous}: nothing was changed")
        journal.write("placing", way="back")
        if not exchange(paths.previous, paths.environment):
            remove(spare)
            os.rename(paths.environment, spare)
            os.rename(paths.previous, paths.environment)
        did = "the environment is the one from before the install again"
    else:
        # Renamed first: a removal that is cut off must not leave half an environment at this path.
        journal.write("placing", way="back")
        remove(spare)
        os.rename(paths.environment, spare)
        did = "the environment that the install had made was removed"
    sync_folder(paths.environment.parent)
    remove_leavings(paths)
    journal.write("undone")
    return did


def remove_leavings(paths: Paths) -> None:
    """Deletes everything beside the environment but the journal and the lock."""
    for folder in ("stage", "previous", "scratch", "wheels", "replaced"):
        remove(paths.state / folder)
    remove(paths.plan)
