"""Where fixes are recorded: the folder beside the target environment that `install` uses too, with the same lock.

    .ENV.fa-doctor/fixes.jsonl     the journal: what was begun, applied, kept, undone
    .ENV.fa-doctor/fixes/3/        fix number 3: the files that it took out of the environment, and a list of them

A Python that is no virtual or conda environment is never changed: of it only the environment file is, and the folder
lies beside that file, in the user's configuration folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fa_doctor.facts.python import Python
from fa_doctor.installer.plan import Paths
from fa_doctor.user_folders import configuration_folder

__all__ = ["ChangePaths", "is_changeable", "journal_of", "missing_environment", "paths_of"]


def is_changeable(python: Python) -> bool:
    """Whether the target is an environment of its own, which a fix may change: not a system's Python, nor conda's base
    (it holds conda itself)."""
    if python.executable is None or not python.prefix or python.environment not in ("venv", "conda"):
        return False
    return not (Path(python.prefix) / "condabin").exists()


def paths_of(python: Python) -> Paths:
    """The places of a target Python."""
    if is_changeable(python):
        return Paths(Path(os.path.realpath(python.prefix or "")))
    return Paths(configuration_folder() / "python")


def journal_of(paths: Paths) -> Path:
    """The journal of the fixes of an environment."""
    return paths.state / "fixes.jsonl"


def missing_environment(python: str | None, environ: Mapping[str, str]) -> Paths | None:
    """The places of the target environment where it is gone but was worked on: a fix that was cut off between its two
    renames, on a file system that cannot exchange two folders, leaves it so."""
    folder = str(Path(python).parent.parent) if python and "/" in python else None
    named = folder or environ.get("VIRTUAL_ENV") or environ.get("CONDA_PREFIX")
    if not named or Path(named).exists():
        return None
    paths = Paths(Path(os.path.realpath(named)))
    return paths if journal_of(paths).exists() else None


@dataclass(frozen=True, slots=True)
class ChangePaths(Paths):
    """Where one change of an environment is built: `way` is "apply" or "undo" of the fix `number`.

    It has a stage, a previous environment and a journal of its own, so that those of an install are left alone.
    """

    number: int = 0
    way: str = "apply"

    @property
    def state(self) -> Path:
        return self.folder / self.way

    @property
    def folder(self) -> Path:
        """Everything of this fix."""
        beside = self.environment.with_name(f".{self.environment.name}.fa-doctor")
        return beside / "fixes" / str(self.number)

    @property
    def saved(self) -> Path:
        """The files that the fix took out of the environment or replaced, at their paths below it."""
        return self.folder / "saved"

    @property
    def changes(self) -> Path:
        """The list of what the fix changed."""
        return self.folder / "changes.json"
