"""The engine: order, skipped ground, a check that raises, a deadline; and the selection of checks."""

from __future__ import annotations

import threading
import time
from datetime import date
from pathlib import Path

import pytest

from fa_doctor.diagnosis.check import Check, CheckFunction
from fa_doctor.diagnosis.engine import run_checks
from fa_doctor.diagnosis.examine import examine
from fa_doctor.diagnosis.model import Finding, Status, failed, passed
from fa_doctor.diagnosis.selection import apply_ignores, load_ignores, select
from fa_doctor.errors import UsageProblem
from fa_doctor.facts.machine import Machine
from fa_doctor.host import FileText, LiveHost
from fa_doctor.level import Level

MACHINE = Machine("live", "a machine")


def make(id: str, run: CheckFunction, rests_on: tuple[str, ...] = (), level: Level = Level.QUICK) -> Check:
    return Check(id, f"topic.{id.lower()}", run, "Documentation.", rests_on, (), level)


def good(machine: Machine) -> object:
    return passed("fine")


def bad(machine: Machine) -> object:
    return failed("broken", cause="driver-missing")


def test_what_rests_on_a_failure_is_skipped_and_names_the_root() -> None:
    checks = [
        make("GPU001", bad),
        make("GPU002", good, ("GPU001",)),
        make("GPU003", good, ("GPU002",)),
        make("GPU004", good),
    ]
    findings = run_checks(MACHINE, checks, Level.QUICK)
    assert [finding.status.value for finding in findings] == ["fail", "skip", "skip", "pass"]
    assert "GPU001" in findings[2].verdict.title


def test_a_check_that_raises_is_one_unknown_finding_that_names_itself() -> None:
    def broken(machine: Machine) -> object:
        raise KeyError("oops")

    findings = run_checks(MACHINE, [make("GPU001", broken), make("GPU002", good, ("GPU001",))], Level.QUICK)
    assert [finding.status for finding in findings] == [Status.UNKNOWN, Status.PASS]
    assert "GPU001" in findings[0].verdict.title
    assert "KeyError" in findings[0].verdict.evidence[0].text


def test_deeper_checks_wait_for_their_level_and_late_ones_are_listed_as_not_run() -> None:
    checks = [make("GPU001", good, level=Level.STANDARD), make("GPU002", good)]
    assert [finding.id for finding in run_checks(MACHINE, checks, Level.QUICK)] == ["GPU002"]
    late = run_checks(MACHINE, checks, Level.FULL, deadline=time.monotonic() - 1)
    assert all(finding.status is Status.UNKNOWN and "not run" in finding.verdict.title for finding in late)


def test_a_machine_that_does_not_answer_ends_at_the_deadline_and_says_where() -> None:
    answer = threading.Event()

    class Hanging(LiveHost):
        def read(self, path: str, limit: int = 0) -> FileText:
            answer.wait(60)
            raise AssertionError

        list = stat = read  # type: ignore[assignment]

    started = time.monotonic()
    _, findings = examine(Hanging(environ={}), [make("GPU001", good), make("GPU002", good)], Level.QUICK, 1.0)
    answer.set()
    assert time.monotonic() - started < 2
    assert [finding.status for finding in findings] == [Status.UNKNOWN] * 2
    assert "not gathered within 1 s" in findings[0].verdict.title


def test_selection() -> None:
    checks = [make("GPU001", good), make("GPU101", good), make("SPD001", good)]
    assert [check.id for check in select(checks, ["GPU"], ["GPU101"])] == ["GPU001"]
    assert [check.id for check in select(checks, ["topic.spd001"], [])] == ["SPD001"]
    assert len(select(checks, [], [])) == 3
    with pytest.raises(UsageProblem, match="XYZ"):
        select(checks, ["XYZ"], [])


def test_an_ignored_finding_stays_visible_until_its_day(tmp_path: Path) -> None:
    path = tmp_path / "ignore.toml"
    path.write_text('[[ignore]]\nid = "GPU"\nreason = "known"\nuntil = 2026-03-01\n')
    findings = [Finding("GPU001", "gpu.x", failed("broken", cause="c"))]
    ignores = load_ignores(path)
    assert apply_ignores(findings, ignores, date(2026, 3, 1))[0].ignored == "known (until 2026-03-01)"
    assert apply_ignores(findings, ignores, date(2026, 3, 2))[0].ignored is None


@pytest.mark.parametrize(
    "text",
    ["[[ignore]]\nid = 'GPU001'\n", "ignore = 3", "[[ignore]]\nid='*'\nreason='r'\nuntil=2026-01-01", "[[", "\x00"],
)
def test_a_bad_ignore_file_is_a_usage_problem(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ignore.toml"
    path.write_text(text)
    with pytest.raises(UsageProblem):
        load_ignores(path)
