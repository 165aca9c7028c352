"""The table of environment variables."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fa_doctor.knowledge.variables import names, variable, variables


def test_only_the_exact_word_switches_the_triton_backend_on() -> None:
    row = variable("FLASH_ATTENTION_TRITON_AMD_ENABLE")
    assert row is not None
    assert [row.accepts(value) for value in ("TRUE", "true", "1", "")] == [True, False, False, False]


def test_override_is_three_decimal_fields() -> None:
    row = variable("HSA_OVERRIDE_GFX_VERSION")
    assert row is not None
    assert [row.accepts(value) for value in ("10.3.0", "9.0.10", "9.0.a", "gfx1030")] == [True, True, False, False]


def test_a_variable_that_may_hold_anything_is_not_judged() -> None:
    row = variable("LD_LIBRARY_PATH")
    assert row is not None
    assert row.accepts("/anything") is None


def test_rows_are_whole() -> None:
    for name, row in variables().items():
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*", name), name
        assert row.meaning
        assert row.sources
        if row.pattern:
            re.compile(row.pattern)


def test_every_variable_of_the_facts_is_known(shared: Path) -> None:
    facts = json.loads((shared / "facts" / "environment_variables.json").read_text())
    written = {
        name for row in facts["variables"] for name in re.findall(r"[A-Z][A-Z0-9_]+", re.sub(r"\S+\*", "", row["name"]))
    }
    assert written <= set(variables())


def test_the_names_read_without_parsing_are_those_of_the_table() -> None:
    assert names() == tuple(variables())
