"""When a fix counts as one that helped."""

from __future__ import annotations

from pathlib import Path

import pytest

from fa_doctor.diagnosis.model import Finding, Fix, Status, Verdict
from fa_doctor.environment_file import EnvironmentFile
from fa_doctor.facts.machine import Machine
from fa_doctor.fixing.judge import judge
from fa_doctor.fixing.look import Look


def seen(**statuses: str) -> Look:
    """A look at which these checks said this; several findings of one check are joined by "+"."""
    findings = tuple(
        Finding(id, id.lower(), Verdict(Status(status), f"{id} is {status}"))
        for id, said in statuses.items()
        for status in said.split("+")
    )
    return Look(Machine("live", "this machine"), findings, {}, EnvironmentFile(Path("/nowhere")), {})


@pytest.mark.parametrize(
    ("before", "after", "helped", "why"),
    [
        ({"TRI002": "fail"}, {"TRI002": "pass"}, True, "TRI002 is pass"),
        ({"TRI002": "fail"}, {"TRI002": "warn"}, True, ""),
        ({"TRI002": "fail"}, {"TRI002": "fail"}, False, "same as before"),
        ({"TRI002": "warn"}, {"TRI002": "fail"}, False, "same as before"),
        ({"TRI002": "fail+fail"}, {"TRI002": "fail"}, True, ""),
        ({"TRI002": "fail+fail"}, {"TRI002": "fail+fail"}, False, ""),
        ({"TRI002": "fail"}, {"TRI002": "skip", "TOR101": "pass"}, True, ""),
        ({"TRI002": "fail"}, {"TRI002": "skip", "TRI001": "fail"}, False, "was not reached: TRI001"),
        ({"TRI002": "fail", "RES001": "pass"}, {"TRI002": "unknown", "RES001": "pass"}, False, "cannot tell"),
        ({"TRI002": "fail", "RES001": "pass"}, {"TRI002": "pass", "RES001": "fail"}, False, "broke RES001"),
        ({"TRI002": "fail", "RES001": "warn"}, {"TRI002": "pass", "RES001": "fail"}, False, "broke RES001"),
        ({"TRI002": "fail", "TRI003": "skip"}, {"TRI002": "pass", "TRI003": "fail"}, True, ""),
        ({"TRI002": "fail", "RES001": "fail"}, {"TRI002": "pass", "RES001": "fail"}, True, ""),
        ({"TRI002": "fail"}, {"TRI002": "unknown"}, False, "could not be examined"),
    ],
)
def test_judgement(before: dict[str, str], after: dict[str, str], helped: bool, why: str) -> None:
    fix = Fix("Mend it", proof="TRI002")
    was = seen(**before)
    judgement = judge(was, seen(**after), was.findings[0], fix)
    assert judgement.helped is helped
    assert why in judgement.why
