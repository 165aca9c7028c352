"""Looks at the machine as a process sees it that was started with the variables of the environment file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from fa_doctor.diagnosis.check import Check
from fa_doctor.diagnosis.engine import summarise
from fa_doctor.diagnosis.examine import examine
from fa_doctor.diagnosis.model import Finding, Status
from fa_doctor.diagnosis.selection import Ignore, apply_ignores
from fa_doctor.entrypoint.needed import needed_variables
from fa_doctor.environment_file import EnvironmentFile, Variable, environment_file_of
from fa_doctor.host import Host, LiveHost
from fa_doctor.level import Level

if TYPE_CHECKING:
    from fa_doctor.facts.machine import Machine

__all__ = ["Look", "Looker"]

_ROUNDS = 3  # a variable that comes into force can bring another one into force, but not for ever


@dataclass(frozen=True, slots=True)
class Look:
    """The findings, the environment in which they hold, and the environment file with its variables."""

    machine: Machine
    findings: tuple[Finding, ...]
    environ: Mapping[str, str]
    file: EnvironmentFile
    kept: Mapping[str, Variable]

    @property
    def troubled(self) -> list[Finding]:
        """What fails, then what warns; ignored findings left out."""
        wrong = (Status.FAIL, Status.WARN)
        return [one for status in wrong for one in self.findings if one.status is status and one.ignored is None]

    @property
    def is_undecided(self) -> bool:
        """Whether nothing could be decided: the facts were not gathered in time."""
        return summarise(self.findings)["status"] == Status.UNKNOWN.value


def live_host(environ: Mapping[str, str]) -> Host:
    """This machine, seen with these variables."""
    return LiveHost(environ=environ)


@dataclass(slots=True)
class Looker:
    """How to look: in which environment, how deep, how long (seconds), at which Python.

    `environ` may be changed between two looks: a fix that takes a variable out of the file takes it out of it as well.
    """

    environ: dict[str, str]
    checks: Sequence[Check]
    level: Level
    timeout_s: float
    python: str | None = None
    ignores: Sequence[Ignore] = ()
    open_host: Callable[[Mapping[str, str]], Host] | None = None

    def look(self) -> Look:
        """Examines the machine. Variables of the environment file are in force as `fa-doctor env` would set them."""
        merged = dict(self.environ)
        for _ in range(_ROUNDS):
            host = (self.open_host or live_host)(merged)
            machine, findings = examine(host, self.checks, self.level, self.timeout_s, self.python)
            findings = apply_ignores(findings, self.ignores, date.today())
            file = environment_file_of(machine.python.prefix, machine.python.environment)
            kept = file.read()
            needed = needed_variables(kept, findings, merged)
            more = {
                name: variable.value
                for name, variable in needed.items()
                if name in kept and kept[name].value == variable.value
            }
            if not more:
                break
            merged |= more
        return Look(machine, tuple(findings), merged, file, kept)
