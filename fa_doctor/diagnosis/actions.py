"""What an automatic fix changes: plain values, which `fa-doctor fix` applies, journals and undoes.

Only the target environment, the user's own files and the environment file are ever touched. Whatever needs root is
printed as a command and has no action.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Action", "MakeFolder", "ReplacePackages", "SetVariable"]


@dataclass(frozen=True, slots=True)
class SetVariable:
    """Sets a variable in the environment file that `fa-doctor env` and `fa-doctor run` read; None removes it there."""

    name: str
    value: str | None


@dataclass(frozen=True, slots=True)
class ReplacePackages:
    """Removes distributions from the target environment, then installs requirements from one index only."""

    remove: tuple[str, ...]
    install: tuple[str, ...]
    index: str | None = None


@dataclass(frozen=True, slots=True)
class MakeFolder:
    """Makes a folder that this user can write, and points a variable at it."""

    path: str
    variable: str | None = None


Action = SetVariable | ReplacePackages | MakeFolder
