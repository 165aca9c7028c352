"""Which environment is installed into: named, active, or a new one; and which Python makes a new one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from fa_doctor.errors import UsageProblem
from fa_doctor.installer.errors import NothingFits, Refused
from fa_doctor.installer.installed import Installed, scan
from fa_doctor.installer.target import TargetPython, active_environment, inspect_python
from fa_doctor.knowledge.stacks import Stack

__all__ = ["Destination", "available_pythons", "environment_folder", "existing", "to_be_made"]

MINORS = range(8, 16)


@dataclass(frozen=True, slots=True)
class Destination:
    """The environment: its folder, whether it is there, the Python in it or to make it from, and what it holds."""

    environment: Path
    exists: bool
    python: TargetPython
    installed: Mapping[str, Installed]


def environment_folder(venv: str | None, python: str | None, environ: Mapping[str, str]) -> Path:
    """The folder of the environment: --venv, that of --python, the active one, else one of fa-doctor's own.

    A system's own Python is never installed into: for it, too, an environment of fa-doctor's own is taken.
    """
    if venv:
        folder = Path(os.path.realpath(os.path.expanduser(venv)))
        if folder == folder.parent:
            raise UsageProblem(f"{folder} cannot be an environment: name a folder below it")
        return folder
    if python:
        chosen = inspect_python(python)
        if chosen.environment != "system":
            return Path(os.path.realpath(chosen.prefix))
    else:
        active = active_environment(environ)
        if active:
            return Path(os.path.realpath(active))
    return Path(platformdirs.user_data_dir("fa-doctor", appauthor=False)) / "venv"


def existing(folder: Path) -> Destination | None:
    """The environment in a folder; None when there is none yet. Raises UsageProblem when something else is there, or
    what this user may not look into."""
    executable = folder / "bin" / "python"
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return None
        there = executable.exists()
    except OSError as error:
        raise UsageProblem(f"{error.filename or folder} cannot be looked into: {error.strerror}") from error
    if not there:
        raise UsageProblem(f"{folder} is there and is no Python environment: name another folder with --venv")
    python = inspect_python(str(executable))
    if python.environment == "system" or Path(os.path.realpath(python.prefix)) != folder:
        raise UsageProblem(f"{folder} is no virtual or conda environment: its Python belongs to {python.prefix}")
    return Destination(folder, True, python, scan(python.purelib, python.platlib, *python.search))


def available_pythons(python: str | None, environ: Mapping[str, str]) -> dict[str, TargetPython]:
    """The Pythons that could make a new environment, by version ("3.12"): --python alone, else those on PATH and our own."""
    if python:
        chosen = inspect_python(python)
        return {chosen.minor: chosen}
    path = environ.get("PATH", os.defpath)
    found: dict[str, TargetPython] = {}
    for name in ("python3", sys.executable, *(f"python3.{minor}" for minor in MINORS)):
        executable = shutil.which(name, path=path)
        if executable is None:
            continue
        try:
            candidate = inspect_python(executable)
        except Refused:
            continue
        if candidate.environment != "system" and candidate.base_executable != candidate.executable:
            try:
                candidate = inspect_python(candidate.base_executable)
            except Refused:
                continue
        found.setdefault(candidate.minor, candidate)
    if not found:
        raise Refused("no Python 3 was found on PATH; name one with --python")
    return found


def to_be_made(folder: Path, stack: Stack, pythons: Mapping[str, TargetPython]) -> Destination:
    """A new environment from the first Python that the stack has wheels for."""
    fitting = [python for minor, python in pythons.items() if minor in stack.python]
    if not fitting:
        raise NothingFits(
            f"{stack.name} has wheels for Python {stack.python[0]} to {stack.python[-1]}; there is "
            f"{', '.join(sorted(pythons))}: install one of those and name it with --python"
        )
    return Destination(folder, False, fitting[0], {})
