"""Every check's page is whole, and what checks say of causes and of each other exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fa_doctor.diagnosis.check import Check, all_checks


@pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.id)
def test_the_page_says_what_why_how_and_from_where(check: Check) -> None:
    first, *rest = check.documentation.split("\n")
    assert first.endswith(".")
    assert rest[0] == ""
    body = "\n".join(rest)
    places = [body.find(f"\n{heading}:") for heading in ("Why it matters", "How to fix", "Sources")]
    assert -1 not in places
    assert places == sorted(places)


def test_causes_are_those_of_the_taxonomy(shared: Path) -> None:
    known = set(re.findall(r"^\| ([a-z0-9-]+) \|", (shared / "cases" / "TAXONOMY.md").read_text(), re.MULTILINE))
    used = {cause for check in all_checks() for cause in check.causes}
    assert used <= known


def test_ids_are_unique_and_what_a_check_rests_on_stands_before_it() -> None:
    seen: set[str] = set()
    for check in all_checks():
        assert check.id not in seen
        assert set(check.rests_on) <= seen
        seen.add(check.id)
