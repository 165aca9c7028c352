"""Formats an explanation: for people as text, for programs as JSON (schema fa-doctor/diagnosis/1)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from fa_doctor.diagnosis.advice import fixes_for, question
from fa_doctor.diagnosis.context import FOREIGN, VENDORS
from fa_doctor.diagnosis.explain import CONFIDENT, FAINT, Candidate, Explanation, shortened
from fa_doctor.diagnosis.failures import Knowledge
from fa_doctor.report.document import fix_document

__all__ = ["SCHEMA", "as_json", "as_text", "next_command"]

SCHEMA = "fa-doctor/diagnosis/1"
# A second candidate at least this share as likely as the first makes it worth telling them apart.
RIVAL = 0.25
GUESSES = 3
# What is wrapped is so wide where nobody says how wide the screen is; narrower than NARROWEST nothing gets.
WIDTH = 100
NARROWEST = 50


def next_command(explanation: Explanation, known: Knowledge) -> tuple[str, str] | None:
    """(command, what its outcome tells) that would decide between the candidates, or None where nothing is open or
    this system has no such command."""
    candidates = explanation.candidates
    if not candidates:
        return None
    open_question = candidates[0].confidence < CONFIDENT or (
        len(candidates) > 1 and candidates[1].confidence >= RIVAL * candidates[0].confidence
    )
    shared = [name for name, _ in candidates[0].failure.symptoms if name in explanation.symptoms]
    if open_question and shared:
        symptom = known.symptoms[shared[0]]
        run, tells = symptom.run, symptom.tells
    else:
        failure = candidates[0].failure
        run, tells = failure.run or "", failure.tells or ""
    command = question(run, explanation.context.values())
    return (command, tells) if command and tells else None


def candidate_json(candidate: Candidate, explanation: Explanation, known: Knowledge) -> dict[str, Any]:
    facts = explanation.context.values()
    evidence: list[dict[str, Any]] = [
        {"line": line.number or None, "text": shortened(line.text, at=line.at)} for line in candidate.lines
    ]
    told = {entry["text"] for entry in evidence}
    evidence += [{"line": None, "text": text} for fact in candidate.facts if (text := shortened(fact)) not in told]
    failure = candidate.failure
    run = question(failure.run or "", facts)
    return {
        "cause": candidate.cause,
        "confidence": round(candidate.confidence, 3),
        "title": failure.title,
        "explanation": failure.explanation,
        "evidence": evidence,
        "fixes": [fix_document(fix) for fix in fixes_for(failure, facts, candidate.evidence)],
        "failure": failure.id,
        "tracker": known.causes[candidate.cause].tracker,
        "confirm": {"run": run, "tells": failure.tells} if run else None,
        "sources": list(failure.sources),
    }


def as_json(explanation: Explanation, known: Knowledge) -> str:
    """The diagnoses as JSON, best first."""
    following = next_command(explanation, known)
    facts = {
        name: {"value": list(fact.value) if isinstance(fact.value, tuple) else fact.value, "origin": fact.origin}
        for name, fact in sorted(explanation.context.facts.items())
    }
    return json.dumps(
        {
            "schema": SCHEMA,
            "diagnoses": [candidate_json(each, explanation, known) for each in explanation.candidates],
            "next": {"run": following[0], "tells": following[1]} if following else None,
            "facts": facts,
        },
        indent=2,
        ensure_ascii=True,
    )


def as_text(explanation: Explanation, known: Knowledge, width: int = WIDTH) -> str:
    """The diagnoses for a person: the cause, what proves it, what to do; else the guesses and what would decide.

    Prose is wrapped at `width` columns. Commands are not: they are to be copied.
    """
    return "\n".join(text_lines(explanation, known, max(width, NARROWEST))) + "\n"


def text_lines(explanation: Explanation, known: Knowledge, width: int) -> Iterator[str]:
    if not explanation.candidates:
        yield "Nothing in this text is a failure that fa-doctor knows."
        vendor = explanation.context.facts.get("vendor")
        if vendor and vendor.value in FOREIGN:
            yield f"It speaks of {VENDORS[str(vendor.value)]} hardware; fa-doctor knows AMD GPUs only."
        return
    first = explanation.confident
    if first:
        yield from wrapped(f"{first.failure.title}  [{first.cause}, {first.confidence:.0%}]", "", "  ", width)
        yield ""
        yield from wrapped(first.failure.explanation, "  ", "  ", width)
        yield ""
        yield from evidence_lines(first, width)
        yield from fix_lines(first, explanation, width)
    else:
        sure = explanation.candidates[0].confidence >= FAINT
        yield "Not decided. " + (
            "What is known fits these causes, none of them well enough:" if sure else "Little of this text is known:"
        )
        for candidate in explanation.candidates[:GUESSES]:
            yield ""
            title = f"{candidate.confidence:4.0%}  {candidate.failure.title}  [{candidate.cause}]"
            yield from wrapped(title, "  ", " " * 8, width)
            yield from evidence_lines(candidate, width, 2, " " * 8)
    rivals = [each for each in explanation.candidates[1:GUESSES] if first and each.confidence >= 0.1]
    if rivals:
        yield "Less likely:"
        for rival in rivals:
            yield from wrapped(f"{rival.confidence:4.0%}  {rival.failure.title}  [{rival.cause}]", "  ", " " * 8, width)
        yield ""
    following = next_command(explanation, known)
    if following:
        if not first:
            yield ""
        yield "To be sure, run:" if first else "To tell them apart, run:"
        yield f"    {following[0]}"
        yield from wrapped(following[1], "  ", "  ", width)


def wrapped(text: str, first: str, rest: str, width: int) -> list[str]:
    """The text in lines of at most `width` columns, with these indents; long words stay whole."""
    return wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def evidence_lines(candidate: Candidate, width: int, most: int = 5, indent: str = "    ") -> Iterator[str]:
    """The lines of the log and the facts that speak for the candidate, each on one or two lines of the screen."""
    shown: list[str] = []
    for line in candidate.lines[:most]:
        where = f"line {line.number}: " if line.number else "given: "
        text = shortened(line.text, 2 * (width - len(indent) - len(where)) - 8, line.at)
        shown.append(text)
        yield from wrapped(text, indent + where, indent + "  ", width)
    for fact in candidate.facts[: max(0, most - len(candidate.lines))]:
        text = shortened(fact, 2 * (width - len(indent)) - 8)
        if not any(text in other for other in shown):
            shown.append(text)
            yield from wrapped(text, indent, indent + "  ", width)


def fix_lines(candidate: Candidate, explanation: Explanation, width: int) -> Iterator[str]:
    yield ""
    yield "What to do:"
    for number, fix in enumerate(fixes_for(candidate.failure, explanation.context.values(), candidate.evidence), 1):
        needs = f"  (needs {fix.needs.value})" if fix.needs else ""
        yield from wrapped(f"{fix.title}{needs}", f"  {number}. ", " " * 5, width)
        for command in fix.commands:
            typed, mark, comment = command.partition("    # ")
            yield f"       {typed}"
            if mark:
                yield from wrapped(comment, "       # ", "       # ", width)
    yield ""
