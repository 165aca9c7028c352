"""Whether a fix helped: what its proof check says afterwards, and whether any other check is worse than before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fa_doctor.diagnosis.check import all_checks
from fa_doctor.diagnosis.model import Finding, Fix, Status
from fa_doctor.fixing.look import Look

__all__ = ["Judgement", "judge", "proof_of"]

_WEIGHT = {Status.FAIL: 2, Status.WARN: 1}


@dataclass(frozen=True, slots=True)
class Judgement:
    """`helped` is true only if the proof improved and nothing broke; `why` says it in one sentence."""

    helped: bool
    why: str


def proof_of(finding: Finding, fix: Fix, findings: Iterable[Finding]) -> str:
    """The check that shows whether the fix helped: the one it names, if it was run at all, else the finding's own."""
    ran = {one.id for one in findings}
    return fix.proof if fix.proof in ran and fix.proof is not None else finding.id


def judge(before: Look, after: Look, finding: Finding, fix: Fix) -> Judgement:
    """Compares two looks.

    The proof check has to be better than before (fewer or milder findings) and decided. Another check breaks where it
    passed or warned and now fails; one that could not run before, for what it rests on had failed, does not count.
    """
    if after.is_undecided:
        return Judgement(False, "the machine could not be examined afterwards")
    proof = proof_of(finding, fix, before.findings)
    broken = _broken(before.findings, after.findings, proof)
    if broken:
        return Judgement(False, f"it broke {broken[0].id}: {broken[0].verdict.title}")
    now = [one for one in after.findings if one.id == proof]
    unclear = next((one for one in now if one.status is Status.UNKNOWN), None)
    if unclear and all(one.status is not Status.UNKNOWN for one in before.findings if one.id == proof):
        return Judgement(False, f"{proof} cannot tell any more: {unclear.verdict.title}")
    if now and all(one.status is Status.SKIP for one in now):
        ground = _failed_ground(proof, after.findings)
        if ground:
            return Judgement(False, f"{proof} was not reached: {ground}, which it rests on, fails")
    if _trouble(after.findings, proof) < _trouble(before.findings, proof):
        best = next((one for one in now if one.status in (Status.PASS, Status.SKIP)), None)
        return Judgement(True, f"{proof}: {best.verdict.title}" if best else f"{proof} is better than before")
    still = next((one for one in now if one.status in _WEIGHT), None)
    return Judgement(False, f"{proof} says the same as before" + (f": {still.verdict.title}" if still else ""))


def _trouble(findings: Iterable[Finding], id: str) -> int:
    return sum(_WEIGHT.get(one.status, 0) for one in findings if one.id == id and one.ignored is None)


def _broken(before: Iterable[Finding], after: Iterable[Finding], proof: str) -> list[Finding]:
    decided: dict[str, set[Status]] = {}
    for one in before:
        decided.setdefault(one.id, set()).add(one.status)
    well = {
        id
        for id, statuses in decided.items()
        if Status.FAIL not in statuses and statuses & {Status.PASS, Status.WARN} and id != proof
    }
    return [one for one in after if one.id in well and one.status is Status.FAIL and one.ignored is None]


def _failed_ground(id: str, findings: Iterable[Finding]) -> str | None:
    failing = {one.id for one in findings if one.status is Status.FAIL}
    grounds = {check.id: check.rests_on for check in all_checks()}
    pending, seen = list(grounds.get(id, ())), set()
    while pending:
        ground = pending.pop(0)
        if ground in failing:
            return ground
        if ground not in seen:
            seen.add(ground)
            pending += grounds.get(ground, ())
    return None
