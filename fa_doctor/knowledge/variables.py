"""Environment variables that decide what runs on an AMD GPU: meaning, valid values, common misuse."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from fa_doctor.knowledge.tables import load, sources_of, text_of

__all__ = ["Variable", "names", "variable", "variables"]


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable. `values` is the full list of what counts, `pattern` what a value must match; None: anything."""

    name: str
    group: str
    read_by: str | None
    meaning: str
    valid: str | None
    values: tuple[str, ...] | None
    pattern: str | None
    default: str | None
    versions: str | None
    misuse: str | None
    interactions: str | None
    confidence: str
    sources: tuple[str, ...]

    def accepts(self, value: str) -> bool | None:
        """Whether `value` is one that its reader understands; None when the table cannot tell."""
        if self.values is not None:
            return value in self.values
        if self.pattern is not None:
            return re.fullmatch(self.pattern, value) is not None
        return None


@lru_cache(maxsize=1)
def variables() -> Mapping[str, Variable]:
    """Every known variable by name."""
    table = load("variables")
    return {
        row["name"]: Variable(
            name=row["name"],
            group=row["group"],
            read_by=row.get("read_by"),
            meaning=row["meaning"],
            valid=row.get("valid"),
            values=tuple(row["values"]) if "values" in row else None,
            pattern=row.get("pattern"),
            default=row.get("default"),
            versions=row.get("versions"),
            misuse=row.get("misuse"),
            interactions=row.get("interactions"),
            confidence=row["confidence"],
            sources=sources_of(table, row["sources"]),
        )
        for row in table["variable"]
    }


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """The names of the known variables, without parsing the whole table (a tenth of the time of a quick check)."""
    return tuple(re.findall(r'^name = "([A-Za-z0-9_]+)"$', text_of("variables"), re.MULTILINE))


def variable(name: str) -> Variable | None:
    """One variable by its exact name; None when it is not known."""
    return variables().get(name)
