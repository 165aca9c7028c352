"""Sets variables in the environment file and makes folders, and takes both back."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fa_doctor.environment_file import EnvironmentFile, Variable
from fa_doctor.fixing.errors import Conflict, FixFailed

__all__ = ["apply_variable", "folder_plan", "make_folders", "undo_folders", "undo_variable", "variable_plan"]


def variable_plan(file: EnvironmentFile, name: str, wanted: Variable | None) -> dict[str, Any]:
    """What is recorded before a variable is set (or, without `wanted`, removed): the values before and after."""
    return {"file": str(file.path), "name": name, "before": _plain(file.read().get(name)), "after": _plain(wanted)}


def apply_variable(plan: Mapping[str, Any]) -> None:
    """Carries a `variable_plan` out. Raises FixFailed where the file cannot be written; it is then as it was."""
    file = EnvironmentFile(Path(plan["file"]))
    try:
        file.set(plan["name"], _variable(plan["after"]))
    except OSError as error:
        raise FixFailed(f"the environment file {file.path} cannot be written: {error.strerror or error}") from error


def undo_variable(plan: Mapping[str, Any]) -> str:
    """Takes a `variable_plan` back, whether it was carried out or not. Raises Conflict where the variable has another
    value by now."""
    file = EnvironmentFile(Path(plan["file"]))
    name, before = str(plan["name"]), _variable(plan["before"])
    now = file.read().get(name)
    if now == before:
        return f"{name} in {file.path} is as it was"
    if now != _variable(plan["after"]):
        raise Conflict(f"{name} in {file.path} was changed again since (it is {now and now.value!r} now): left alone")
    try:
        file.set(name, before)
    except OSError as error:
        raise Conflict(f"the environment file {file.path} cannot be written: {error.strerror or error}") from error
    return f"{name} in {file.path} is {'set to ' + before.value if before else 'gone'} again"


def folder_plan(path: str) -> dict[str, Any]:
    """What is recorded before a folder is made: the folders on the way to it that are not there yet, outermost first."""
    missing = []
    place = Path(path)
    while not os.path.lexists(place):
        missing.append(str(place))
        place = place.parent
    return {"path": path, "made": missing[::-1]}


def make_folders(plan: Mapping[str, Any]) -> None:
    """Makes the folders of a `folder_plan`, for this user alone. Raises FixFailed where that cannot be, and for a folder
    that is there but belongs to somebody else: in a folder that all may write, another user may have put it there."""
    path = Path(plan["path"])
    try:
        for name in plan["made"]:
            os.mkdir(name, 0o700)
        status = os.lstat(path)
    except OSError as error:
        raise FixFailed(f"{error.filename or path} cannot be made: {error.strerror or error}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise FixFailed(f"{path} is no folder (a link, or a file): remove it or choose another place")
    if status.st_uid != os.geteuid():
        raise FixFailed(f"{path} belongs to another user (uid {status.st_uid})")


def undo_folders(plan: Mapping[str, Any]) -> str:
    """Removes the folders that were made, as far as they are empty; what was put into one since stays."""
    for name in reversed(plan["made"]):
        with suppress(OSError):
            os.rmdir(name)
    kept = next((name for name in plan["made"] if os.path.lexists(name)), None)
    if kept:
        return f"{kept} stays: there is something in it by now"
    return f"{plan['path']} was removed" if plan["made"] else f"{plan['path']} was there before"


def _plain(variable: Variable | None) -> dict[str, str] | None:
    return {"value": variable.value, "reason": variable.reason} if variable else None


def _variable(plain: Mapping[str, str] | None) -> Variable | None:
    return Variable(plain["value"], plain["reason"]) if plain else None
