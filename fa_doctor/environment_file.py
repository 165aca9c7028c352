"""The environment file: the variables that an environment needs at run time, each with the reason for it.

`fa-doctor install` and `fa-doctor fix` write it, `fa-doctor env` and `fa-doctor run` read it. It lies in the target
environment itself, so that it goes where the environment goes:

    PREFIX/fa-doctor-environment.json
    {"schema": "fa-doctor/environment/1", "variables": {"NAME": {"value": "...", "reason": "..."}}}

A system's own Python has no prefix of the user's: there it lies in the user's configuration folder.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from fa_doctor.errors import UsageProblem
from fa_doctor.user_folders import configuration_folder

__all__ = ["EnvironmentFile", "Variable", "environment_file_of"]

NAME = "fa-doctor-environment.json"
SCHEMA = "fa-doctor/environment/1"
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable's value and, in one line, why this machine needs it."""

    value: str
    reason: str


def environment_file_of(prefix: str | None, environment: str | None) -> EnvironmentFile:
    """The environment file of a target Python, from its `prefix` and kind of `environment` (see facts.python.Python)."""
    if prefix and environment in ("venv", "conda"):
        return EnvironmentFile(Path(prefix) / NAME)
    return EnvironmentFile(configuration_folder() / NAME)


class EnvironmentFile:
    """The variables in one environment file. Reading one that is not there gives none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Variable]:
        """The variables; raises UsageProblem if the file is there but cannot be understood."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise UsageProblem(f"the environment file {self.path} cannot be read: {error}") from error
        try:
            content = json.loads(text)
            if content["schema"] != SCHEMA:
                raise UsageProblem(f"the environment file {self.path} has the unknown schema {content['schema']!r}")
            variables = {
                name: Variable(str(entry["value"]), str(entry["reason"]))
                for name, entry in content["variables"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageProblem(f"the environment file {self.path} is damaged: {error}") from error
        wrong = [name for name in variables if not _VARIABLE_NAME.fullmatch(name)]
        if wrong:
            raise UsageProblem(f"the environment file {self.path} names {wrong[0]!r}, which is no variable")
        return variables

    def write(self, variables: dict[str, Variable]) -> None:
        """Replaces the file, atomically and durably; without variables it is removed."""
        if not variables:
            self.path.unlink(missing_ok=True)
            return
        content = {
            "schema": SCHEMA,
            "variables": {
                name: {"value": variable.value, "reason": variable.reason}
                for name, variable in sorted(variables.items())
            },
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        with open(partial, "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1, ensure_ascii=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, self.path)

    def set(self, name: str, variable: Variable | None) -> None:
        """Sets one variable, or removes it."""
        variables = self.read()
        variables.pop(name, None)
        if variable is not None:
            variables[name] = variable
        self.write(variables)
