"""Formats an explanation: for people as text, for programs as JSON (schema fa-doctor/diagnosis/1)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from fa_doctor.diagnosis.advice import fill, fixes_for, placeholders
from fa_doctor.diagnosis.explain import CONFIDENT, FAINT, Candidate, Explanation, shortened
from fa_doctor.diagnosis.failures import Knowledge
from fa_doctor.report.document import fix_document

__all__ = ["SCHEMA", "as_json", "as_text", "next_command"]

SCHEMA = "fa-doctor/diagnosis/1"
# A second candidate at least this share as likely as the first makes it worth telling them apart.
RIVAL = 0.25
GUESSES = 3
WIDTH = 110


def next_command(explanation: Explanation, known: Knowledge) -> tuple[str, str] | None:
    """(command, what its outcome tells) that would decide between the candidates, or None where nothing is open."""
    candidates = explanation.candidates
    if not candidates:
        return None
    names = placeholders(explanation.context.values())
    open_question = candidates[0].confidence < CONFIDENT or (
        len(candidates) > 1 and candidates[1].confidence >= RIVAL * candidates[0].confidence
    )
    shared = [name for name, _ in candidates[0].failure.symptoms if name in explanation.symptoms]
    if open_question and shared:
        symptom = known.symptoms[shared[0]]
        return fill(symptom.run, names), symptom.tells
    failure = candidates[0].failure
    if failure.run and failure.tells:
        return fill(failure.run, names), failure.tells
    return None


def candidate_json(candidate: Candidate, explanation: Explanation, known: Knowledge) -> dict[str, Any]:
    names = placeholders(explanation.context.values())
    evidence: list[dict[str, Any]] = [
        {"line": line.number or None, "text": shortened(line.text)} for line in candidate.lines
    ]
    told = {entry["text"] for entry in evidence}
    evidence += [{"line": None, "text": text} for fact in candidate.facts if (text := shortened(fact)) not in told]
    failure = candidate.failure
    return {
        "cause": candidate.cause,
        "confidence": round(candidate.confidence, 3),
        "title": failure.title,
        "explanation": failure.explanation,
        "evidence": evidence,
        "fixes": [fix_document(fix) for fix in fixes_for(failure, explanation.context.values(), candidate.evidence)],
        "failure": failure.id,
        "tracker": known.causes[candidate.cause].tracker,
        "confirm": {"run": fill(failure.run, names), "tells": failure.tells} if failure.run else None,
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


def as_text(explanation: Explanation, known: Knowledge) -> str:
    """The diagnoses for a person: the cause, what proves it, what to do; else the guesses and what would decide."""
    return "\n".join(text_lines(explanation, known)) + "\n"


def text_lines(explanation: Explanation, known: Knowledge) -> Iterator[str]:
    if not explanation.candidates:
        yield "Nothing in this text is a failure that fa-doctor knows."
        if explanation.context.facts.get("vendor") and explanation.context.facts["vendor"].value == "nvidia":
            yield "It speaks of NVIDIA hardware; fa-doctor knows AMD GPUs only."
        return
    first = explanation.confident
    if first:
        yield f"{first.failure.title}  [{first.cause}, {first.confidence:.0%}]"
        yield ""
        yield from wrap(first.failure.explanation, WIDTH, initial_indent="  ", subsequent_indent="  ")
        yield ""
        yield from evidence_lines(first)
        yield from fix_lines(first, explanation)
    else:
        sure = explanation.candidates[0].confidence >= FAINT
        yield "Not decided. " + (
            "What is known fits these causes, none of them well enough:" if sure else "Little of this text is known:"
        )
        for candidate in explanation.candidates[:GUESSES]:
            yield ""
            yield f"  {candidate.confidence:4.0%}  {candidate.failure.title}  [{candidate.cause}]"
            yield from evidence_lines(candidate, 2, "        ")
    rivals = [each for each in explanation.candidates[1:GUESSES] if first and each.confidence >= 0.1]
    if rivals:
        yield "Less likely:"
        for rival in rivals:
            yield f"  {rival.confidence:4.0%}  {rival.failure.title}  [{rival.cause}]"
        yield ""
    following = next_command(explanation, known)
    if following:
        if not first:
            yield ""
        yield "To be sure, run:" if first else "To tell them apart, run:"
        yield f"    {following[0]}"
        yield from wrap(following[1], WIDTH, initial_indent="  ", subsequent_indent="  ")


def evidence_lines(candidate: Candidate, most: int = 5, indent: str = "    ") -> Iterator[str]:
    for line in candidate.lines[:most]:
        where = f"line {line.number}" if line.number else "given"
        yield f"{indent}{where}: {shortened(line.text, 160)}"
    for fact in candidate.facts[: max(0, most - len(candidate.lines))]:
        yield f"{indent}{shortened(fact, 160)}"


def fix_lines(candidate: Candidate, explanation: Explanation) -> Iterator[str]:
    yield ""
    yield "What to do:"
    for number, fix in enumerate(fixes_for(candidate.failure, explanation.context.values(), candidate.evidence), 1):
        needs = f"  (needs {fix.needs.value})" if fix.needs else ""
        yield f"  {number}. {fix.title}{needs}"
        for command in fix.commands:
            yield f"       {command}"
    yield ""
