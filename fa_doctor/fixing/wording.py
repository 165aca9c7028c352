"""What `fa-doctor fix` says: a fix before it is applied, what became of all of them, and the same as JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from fa_doctor import __version__
from fa_doctor.diagnosis.model import Finding, Status
from fa_doctor.fixing.candidates import Candidate
from fa_doctor.fixing.judge import proof_of
from fa_doctor.fixing.look import Look
from fa_doctor.fixing.places import paths_of
from fa_doctor.fixing.session import Outcome, Result
from fa_doctor.level import Level
from fa_doctor.report.document import fix_document

__all__ = ["SCHEMA", "describe", "ending", "exit_code", "result_document", "unset_here"]

SCHEMA = "fa-doctor/fix/1"
_FAILED = ("undone", "failed", "stuck")


def describe(candidate: Candidate) -> str:
    """A fix as it is shown before the question."""
    finding, fix = candidate.finding, candidate.fix
    lines = [
        f"{finding.status.value.upper():<5} {finding.id}  {finding.verdict.title}",
        f"  Fix: {fix.title}",
        *(f"    {line}" for line in candidate.changes),
        f"    proved by {proof_of(finding, fix, [finding]) if fix.proof is None else fix.proof} and by every other check;"
        " taken back if it does not help",
        "    undo: fa-doctor fix --undo",
    ]
    return "\n".join(lines)


def ending(result: Result, wanted: frozenset[str] | None, *, planned: bool) -> str:
    """What is left to do, and how the machine is now."""
    lines: list[str] = []
    done = {(one.candidate.key) for one in result.outcomes if one.state in ("planned", "kept")}
    left = [one for one in result.left if one.key not in done]
    if planned:
        plans = [one for one in result.outcomes if one.state == "planned"]
        lines += [line for one in plans for line in (describe(one.candidate), "")]
    open_findings = _in_scope(result.look, wanted)
    planned_for = {id(one.candidate.finding) for one in result.outcomes if one.state == "planned"}
    rest = [finding for finding in open_findings if id(finding) not in planned_for]
    if rest:
        lines += ["Left for you:" if not result.is_interrupted else "Still open:"]
        for finding in rest:
            lines += _left(finding, [one for one in left if one.finding is finding], result.outcomes)
        lines.append("")
    hidden = unset_here(result.look)
    if hidden and not planned:
        lines.append(
            f"This shell does not have {_list(hidden)} from the environment file yet. `fa-doctor run` sets "
            "it for its command; for this shell:"
        )
        lines += ['  eval "$(fa-doctor env)"', ""]
    lines.append(_sum(result, open_findings, planned=planned))
    return "\n".join(lines)


def _left(finding: Finding, fixes: Sequence[Candidate], outcomes: Sequence[Outcome]) -> list[str]:
    lines = [f"  {finding.status.value.upper():<5} {finding.id}  {finding.verdict.title}"]
    for one in fixes:
        tried = next((known for known in outcomes if known.candidate.key == one.key), None)
        note = {"declined": "you said no", "undone": "tried: it did not help", "failed": "tried: it failed"}.get(
            tried.state if tried else "", one.obstacle or "not tried"
        )
        lines += [f"    Fix: {one.fix.title}", f"      not applied: {note}"]
        lines += [f"      {line}" for command in one.fix.commands for line in command.splitlines()]
    if not fixes:
        lines.append(f"    no fix that could be typed: `fa-doctor checks {finding.id}` explains it")
    return lines


def _sum(result: Result, open_findings: Sequence[Finding], *, planned: bool) -> str:
    stuck = next((one for one in result.outcomes if one.state == "stuck"), None)
    if stuck:
        return f"Fix {stuck.number} did not help and could not be taken back; why stands above."
    if result.is_interrupted:
        kept = [one for one in result.outcomes if one.state == "kept"]
        if not kept:
            return "Interrupted: the machine is as it was."
        numbers = _list([str(one.number) for one in kept])
        return (
            f"Interrupted: what was begun was taken back; fix {numbers} stays (`fa-doctor fix --undo` takes it back)."
        )
    if result.look.is_undecided:
        return "Could not be decided: " + next(
            (one.verdict.title for one in result.look.findings if one.status is Status.UNKNOWN), "nothing was checked"
        )
    count = {state: sum(1 for one in result.outcomes if one.state == state) for state in ("planned", "kept")}
    failing = sum(1 for one in open_findings if one.status is Status.FAIL)
    warning = len(open_findings) - failing
    if planned:
        more = " What rests on these checks is looked at after that." if count["planned"] else ""
        return f"{_many(count['planned'], 'fix')} would be applied; nothing was changed.{more}"
    if not result.outcomes and not open_findings:
        return "Nothing to do: no check fails or warns. Nothing was changed."
    done = f"{_many(count['kept'], 'fix')} applied and proved" if count["kept"] else "Nothing was changed"
    if not open_findings:
        return f"{done}; no check fails or warns any more."
    return f"{done}; {_many(failing, 'check')} fail{'s' if failing == 1 else ''}, {warning} warn{'s' if warning == 1 else ''}."


def exit_code(result: Result, wanted: frozenset[str] | None) -> int:
    """0 everything that could be fixed is, 1 a check still fails or a fix did not work, 3 undecided, 130 interrupted."""
    if result.is_interrupted:
        return 130
    if result.look.is_undecided:
        return 3
    failing = any(one.status is Status.FAIL for one in _in_scope(result.look, wanted))
    return 1 if failing or any(one.state in _FAILED for one in result.outcomes) else 0


def result_document(
    result: Result, wanted: frozenset[str] | None, level: Level, code: int, *, planned: bool
) -> dict[str, Any]:
    """The result as data, schema fa-doctor/fix/1."""
    states = {0: "fixed" if result.outcomes else "nothing to do", 1: "failing", 3: "undecided", 130: "interrupted"}
    paths = paths_of(result.look.machine.python)
    now = datetime.now(timezone.utc).replace(microsecond=0)
    return {
        "schema": SCHEMA,
        "tool": {"version": __version__},
        "generated_at": now.isoformat().replace("+00:00", "Z"),
        "level": level.name.lower(),
        "dry_run": planned,
        "status": states.get(code, "failing"),
        "python": result.look.machine.python.executable,
        "environment_file": str(result.look.file.path),
        "journal": str(paths.state / "fixes.jsonl"),
        "fixes": [
            {
                "number": one.number,
                "check": one.candidate.finding.id,
                "finding": one.candidate.finding.verdict.title,
                "title": one.candidate.fix.title,
                "state": one.state,
                "why": one.why,
                "changes": list(one.changes),
            }
            for one in result.outcomes
        ],
        "left": [
            {
                "check": finding.id,
                "status": finding.status.value,
                "title": finding.verdict.title,
                "fixes": [
                    {**fix_document(one.fix), "not_applied_because": one.obstacle}
                    for one in result.left
                    if one.finding is finding
                ],
            }
            for finding in _in_scope(result.look, wanted)
        ],
        "variables_not_in_this_shell": unset_here(result.look),
    }


def unset_here(look: Look) -> list[str]:
    """The variables of the environment file that this process was not started with."""
    return [name for name, variable in look.kept.items() if os.environ.get(name) != variable.value]


def _in_scope(look: Look, wanted: frozenset[str] | None) -> list[Finding]:
    return [finding for finding in look.troubled if wanted is None or finding.id in wanted]


def _many(count: int, word: str) -> str:
    plural = {"fix": "fixes", "check": "checks"}[word]
    return f"{count} {word if count == 1 else plural}"


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
