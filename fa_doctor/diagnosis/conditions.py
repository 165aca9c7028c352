"""The small language in which the failure tables ask for facts: `torch_build == cuda and gfx_family in RDNA2|RDNA3`.

One condition is `FACT`, `FACT == VALUE`, `FACT != VALUE`, `FACT in A|B|C`, `FACT ~ REGEX`, `FACT > NUMBER`,
`FACT < NUMBER` or `FACT version SPECIFIERS` (as in a requirement: `>=2.7,<2.9`); `not` before it turns it round. Several
are joined by ` and `. A fact that is not known makes a condition false, and `not` of it false as well: nothing may be
concluded from what nobody said. Only `not FACT` by itself asks for a fact that is absent or false.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Condition", "FactValue", "holds", "parse"]

FactValue: TypeAlias = "str | float | bool | tuple[str, ...]"

ONE = re.compile(r"(not )?(\S+)(?: (==|!=|~|in|>|<|version) (.+))?")


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison: `operator` is None for the bare question whether a fact is there and true."""

    fact: str
    operator: str | None
    value: str
    negated: bool


def parse(text: str) -> tuple[Condition, ...]:
    """The conditions of `A and B and C`. Raises ValueError for what is none."""
    conditions = []
    for part in text.split(" and "):
        found = ONE.fullmatch(part.strip())
        if not found:
            raise ValueError(f"not a condition: {part!r}")
        negated, fact, operator, value = found.groups()
        if operator == "~":
            re.compile(value)
        conditions.append(Condition(fact, operator, value or "", bool(negated)))
    return tuple(conditions)


def holds(conditions: tuple[Condition, ...], facts: Mapping[str, FactValue]) -> bool:
    """Whether all conditions hold for the facts."""
    return all(one_holds(condition, facts) for condition in conditions)


def one_holds(condition: Condition, facts: Mapping[str, FactValue]) -> bool:
    value = facts.get(condition.fact)
    if condition.operator is None:
        truth = value is not None and value is not False and value != ()
        return truth is not condition.negated
    if value is None:
        return False
    values = value if isinstance(value, tuple) else (value,)
    return any(compare(each, condition) for each in values) is not condition.negated


def compare(value: str | float | bool, condition: Condition) -> bool:
    operator, wanted = condition.operator, condition.value
    text = str(value).lower() if not isinstance(value, bool) else ("true" if value else "false")
    if operator == "==":
        return text == wanted.lower()
    if operator == "!=":
        return text != wanted.lower()
    if operator == "in":
        return text in wanted.lower().split("|")
    if operator == "~":
        return re.search(wanted, str(value), re.IGNORECASE) is not None
    if operator == "version":
        return version_fits(str(value), wanted)
    try:
        number = float(value)
    except ValueError:
        return False
    return number > float(wanted) if operator == ">" else number < float(wanted)


def version_fits(text: str, specifiers: str) -> bool:
    """Whether the first version number in `text` lies in the specifier set; pre-releases count as their release."""
    found = re.search(r"\d+(?:\.\d+)*", text)
    if not found:
        return False
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifiers).contains(found.group(), prereleases=True)
