"""Looks at the machine, finds the variables that it needs, and looks again as if they were set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fa_doctor.diagnosis.check import all_checks
from fa_doctor.diagnosis.examine import examine
from fa_doctor.diagnosis.model import Finding
from fa_doctor.diagnosis.selection import select
from fa_doctor.entrypoint.needed import needed_variables
from fa_doctor.environment_file import Variable, environment_file_of
from fa_doctor.host import LiveHost
from fa_doctor.host.recorder import RecordingHost
from fa_doctor.level import Level

if TYPE_CHECKING:
    from fa_doctor.facts.machine import Machine

__all__ = ["Settled", "settle"]

_ROUNDS = 3  # a variable can uncover the need for another one, but not for ever


@dataclass(frozen=True, slots=True)
class Settled:
    """The findings with `variables` in force, and everything that was asked on the way (see RecordingHost.questions)."""

    machine: Machine
    findings: list[Finding]
    variables: dict[str, Variable]
    asked: dict[str, set[str]]


def settle(
    environ: Mapping[str, str],
    level: Level,
    timeout_s: float,
    python: str | None = None,
    unwanted: Iterable[str] = (),
) -> Settled:
    """Examines this machine in the environment `environ` together with the variables that it turns out to need.

    `unwanted` names checks to leave out, as --ignore does.
    """
    checks = select(all_checks(), (), unwanted)
    variables: dict[str, Variable] = {}
    asked: dict[str, set[str]] = {}
    for _ in range(_ROUNDS):
        merged = {**environ, **{name: variable.value for name, variable in variables.items()}}
        host = RecordingHost(LiveHost(environ=merged))
        machine, findings = examine(host, checks, level, timeout_s, python)
        file = environment_file_of(machine.python.prefix, machine.python.environment)
        host.read(str(file.path))  # noted as something that the verdict rests on
        for kind, names in host.questions().items():
            asked.setdefault(kind, set()).update(names)
        more = needed_variables(file.read(), findings, merged)
        if not more:
            break
        variables |= more
    return Settled(machine, findings, variables, asked)
