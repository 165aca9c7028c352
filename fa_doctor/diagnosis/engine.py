"""Runs checks over a machine: in order, within a deadline, each one's faults contained."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from fa_doctor.diagnosis.check import Check
from fa_doctor.diagnosis.model import Evidence, Finding, Status, Verdict, skipped, unknown
from fa_doctor.level import Level

if TYPE_CHECKING:
    from fa_doctor.facts.machine import Machine

__all__ = ["run_checks", "summarise"]


def run_checks(machine: Machine, checks: Sequence[Check], level: Level, deadline: float | None = None) -> list[Finding]:
    """Runs the checks up to `level` in order (a check stands after those it rests on) and returns their findings.

    One whose ground has failed is skipped with that reason; one that raises becomes one `unknown` finding that names
    itself; those not reached by `deadline` (time.monotonic seconds) are listed as not run. A check that gives several
    verdicts has as many findings with the same id; it counts as failed if one of them is.
    """
    findings: list[Finding] = []
    failed: dict[str, str] = {}
    for check in checks:
        if check.level.depth > level.depth:
            continue
        if deadline is not None and time.monotonic() >= deadline:
            findings.append(Finding(check.id, check.name, unknown("not run: the time was up before its turn came")))
            continue
        ground = next((needed for needed in check.rests_on if needed in failed), None)
        if ground is not None:
            failed[check.id] = failed[ground]  # what rests on this one rests on the same ground
            findings.append(Finding(check.id, check.name, skipped(f"rests on {failed[ground]}, which failed")))
            continue
        started = time.perf_counter()
        verdicts = list(_verdicts(check, machine))
        duration = (time.perf_counter() - started) / max(1, len(verdicts))
        findings += [Finding(check.id, check.name, verdict, duration) for verdict in verdicts]
        if any(verdict.status is Status.FAIL for verdict in verdicts):
            failed[check.id] = check.id
    return findings


def _verdicts(check: Check, machine: Machine) -> Iterator[Verdict]:
    try:
        outcome = check.run(machine)
        verdicts = [outcome] if isinstance(outcome, Verdict) else list(outcome)
    except Exception as error:  # noqa: BLE001 - a check of ours that breaks must not end the run
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{where.tb_lineno}" if where else "?"
        yield unknown(
            f"the check {check.id} itself broke",
            Evidence(place, f"{type(error).__name__}: {error}"),
            detail="This is a fault of fa-doctor, not of this machine; please report it.",
        )
        return
    yield from verdicts or [skipped("nothing to check on this machine")]


def summarise(findings: Iterable[Finding], *, strict: bool = False) -> dict[str, str | int]:
    """Counts by status and the verdict on the whole: fail before unknown-only before warn before pass.

    Ignored findings are not counted. The whole is `unknown` only if no check could decide anything, or none ran.
    """
    counts = dict.fromkeys(Status, 0)
    findings = list(findings)
    for finding in findings:
        if finding.ignored is None:
            counts[finding.status] += 1
    decided = counts[Status.PASS] + counts[Status.WARN] + counts[Status.FAIL]
    if counts[Status.FAIL] or (strict and counts[Status.WARN]):
        whole = Status.FAIL
    elif not decided and (counts[Status.UNKNOWN] or not findings):
        whole = Status.UNKNOWN
    else:
        whole = Status.WARN if counts[Status.WARN] else Status.PASS
    return {"status": whole.value, **{status.value: counts[status] for status in Status}}
