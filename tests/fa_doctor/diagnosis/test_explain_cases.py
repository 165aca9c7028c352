"""The engine on the shared set of real failures: what fraction it names, and that it stays silent where it should."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fa_doctor.diagnosis.advice import fixes_for
from fa_doctor.diagnosis.context import context_from_mapping
from fa_doctor.diagnosis.explain import CONFIDENT, Explanation, explain
from fa_doctor.diagnosis.logtext import blocks_of_text


@dataclass(frozen=True)
class Case:
    id: str
    text: str
    environment: dict[str, Any]
    answer: str
    also: list[str]
    fix: str


@pytest.fixture(scope="module")
def cases(shared: Path) -> list[Case]:
    found = []
    for path in sorted((shared / "cases").glob("*.json")):
        row = json.loads(path.read_text())
        found.append(Case(path.stem, row["text"], row["environment"], row["cause_id"], row["also"], row["fix"]))
    if not found:
        pytest.skip("no cases")
    return found


def right(case: Case, found: Explanation) -> bool:
    return bool(found.candidates) and found.candidates[0].cause in (case.answer, *case.also)


def test_names_the_cause_of_nearly_all_cases_with_their_environment(cases: list[Case]) -> None:
    positive = [case for case in cases if case.answer != "none"]
    missed = [
        case.id
        for case in positive
        if not right(case, explain(blocks_of_text(case.text), context_from_mapping(case.environment)))
    ]
    assert len(missed) <= 0.05 * len(positive), missed


def test_names_most_causes_from_the_text_alone(cases: list[Case]) -> None:
    positive = [case for case in cases if case.answer != "none"]
    missed = [case.id for case in positive if not right(case, explain(blocks_of_text(case.text)))]
    assert len(missed) <= 0.15 * len(positive), missed


def test_is_not_confident_where_the_cause_is_none_of_ours(cases: list[Case]) -> None:
    for case in cases:
        if case.answer == "none":
            for context in (context_from_mapping(case.environment), None):
                found = explain(blocks_of_text(case.text), context)
                assert not found.confident or found.confident.cause in case.also, case.id


def test_confidence_means_what_it_says(cases: list[Case]) -> None:
    confident = [
        (case, found)
        for case in cases
        if (found := explain(blocks_of_text(case.text), context_from_mapping(case.environment))).confident
    ]
    correct = [case for case, found in confident if right(case, found)]
    assert len(correct) >= CONFIDENT * len(confident)
    assert len(correct) >= 0.9 * len(confident)


# Words of a case's `fix` that name an action: variables, options, packages, tools.
ACTIONS = re.compile(
    r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b|--[a-z][a-z-]+|\b(?:sageattention|triton-windows|rocm-sdk|keep-groups|amdgpu-dkms|"
    r"python3\.\d+-dev|iommu=pt|usermod|3\.12|bitsandbytes|no-build-isolation|usecase=wsl|ld\.lld|libhsa-runtime64)\b"
)


def test_the_advice_names_what_the_case_was_mended_with(cases: list[Case]) -> None:
    """For each case whose fix names a variable, an option or a package, the advice for it names one of them too."""
    asked, missed = 0, []
    for case in cases:
        named = set(ACTIONS.findall(case.fix))
        if case.answer == "none" or not named:
            continue
        found = explain(blocks_of_text(case.text), context_from_mapping(case.environment))
        first = found.candidates[0]
        fixes = fixes_for(first.failure, found.context.values(), first.evidence)
        advice = "\n".join(text for fix in fixes for text in (fix.title, *fix.commands))
        asked += 1
        if not any(word in advice for word in named):
            missed.append((case.id, sorted(named)))
    assert asked >= 30
    assert len(missed) <= 0.1 * asked, missed
