"""A staged machine with one thing broken: all checks run over it, and exactly the cause may be found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from staged_machine import Staged, examine, trouble

from fa_doctor.diagnosis.model import Finding, Status

__all__ = ["Case", "commands", "judge", "name_of"]

# Folk remedies, each of which harms. (An override is proposed where the GPU is told to be what it is, by one check.)
HARMFUL = (
    "chmod 666",
    "chmod 777",
    'MODE="0666"',
    "--privileged",
    "ln -s",
    "nvidia-smi",
    "cuda-toolkit",
)


@dataclass(frozen=True)
class Case:
    """What is broken, what must be found (id to cause), and pieces of the finding's title and of what mends it."""

    name: str
    build: Callable[[], Staged]
    found: dict[str, str | None]
    status: Status = Status.FAIL
    fix: str = ""
    title: str = ""
    warned: dict[str, str | None] = field(default_factory=dict)  # what is true of such a machine besides


def name_of(case: Case) -> str:
    """The case as pytest names it."""
    return case.name.replace(" ", "-")


def commands(findings: Sequence[Finding]) -> list[str]:
    """The titles and commands of all fixes, line by line."""
    return [line for found in findings for fix in found.verdict.fixes for line in (fix.title, *fix.commands)]


def judge(case: Case, folder: Path) -> str:
    """Runs all checks over the machine and holds their findings against the case; returns the lines of their fixes."""
    _, findings = examine(case.build(), folder)
    assert trouble(findings) == case.found | case.warned
    wrong = [found for found in findings if found.id in case.found and found.status in (Status.FAIL, Status.WARN)]
    assert {found.status for found in wrong} == {case.status}
    assert all(found.verdict.evidence for found in wrong)
    assert case.title in " ".join(found.verdict.title for found in wrong)
    lines = "\n".join(commands(wrong))
    assert case.fix in lines
    for remedy in HARMFUL:
        assert remedy not in lines
    return lines
