"""The engine on the shared set of real failures: what fraction it names, and that it stays silent where it should."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(scope="module")
def cases(shared: Path) -> list[Case]:
    found = []
    for path in sorted((shared / "cases").glob("*.json")):
        row = json.loads(path.read_text())
        found.append(Case(path.stem, row["text"], row["environment"], row["cause_id"], row["also"]))
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
