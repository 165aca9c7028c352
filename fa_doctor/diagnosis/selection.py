"""Which checks run (--select, --ignore) and which findings do not count (an ignore file with reasons and end dates)."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from fa_doctor.diagnosis.check import Check
from fa_doctor.diagnosis.model import Finding
from fa_doctor.errors import UsageProblem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Ignore", "apply_ignores", "load_ignores", "select"]


@dataclass(frozen=True, slots=True)
class Ignore:
    """Findings of `id` (an id, a prefix of one such as SPD, or a check's name) do not count until `until`."""

    id: str
    reason: str
    until: date


def select(checks: Sequence[Check], wanted: Iterable[str], unwanted: Iterable[str]) -> list[Check]:
    """The checks that match `wanted` (all, if it is empty) and not `unwanted`; raises UsageProblem for a word that matches none."""
    wanted, unwanted = list(wanted), list(unwanted)
    for word in (*wanted, *unwanted):
        if not any(_matches(found, word) for found in checks):
            raise UsageProblem(f"no check matches {word!r}; `fa-doctor checks` lists them")
    return [
        found
        for found in checks
        if (not wanted or any(_matches(found, word) for word in wanted))
        and not any(_matches(found, word) for word in unwanted)
    ]


def _matches(found: Check | Finding, word: str) -> bool:
    name = found.name if isinstance(found, Check) else found.check
    return found.id.startswith(word.upper()) or name == word or name.split(".")[0] == word


def load_ignores(path: Path) -> list[Ignore]:
    """Reads an ignore file:

        [[ignore]]
        id = "SPD101"
        reason = "the power cap is set on purpose"
        until = 2027-03-31

    Raises UsageProblem if it cannot be read or an entry lacks one of the three.
    """
    if path.exists() and not path.is_file():
        raise UsageProblem(f"the ignore file {path} is not a file")
    try:
        entries: Any = tomllib.loads(path.read_text(encoding="utf-8")).get("ignore", [])
    except (OSError, ValueError) as error:
        raise UsageProblem(
            f"the ignore file {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    ignores = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], start=1):
        if not isinstance(entry, dict):
            raise UsageProblem(f"{path}: write each entry as [[ignore]]")
        wrong = {"id": str, "reason": str, "until": date}
        for key, kind in wrong.items():
            if not isinstance(entry.get(key), kind):
                example = {"id": '"SPD101"', "reason": '"why"', "until": "2027-03-31"}[key]
                raise UsageProblem(f"{path}: entry {number} needs {key} = {example}")
        if not re.fullmatch(r"[A-Za-z]{3}\d{0,3}|[a-z_]+(\.[a-z0-9_-]+)?", entry["id"]):
            raise UsageProblem(f"{path}: entry {number}: {entry['id']!r} is not the id or name of a check")
        ignores.append(Ignore(entry["id"], entry["reason"], entry["until"]))
    return ignores


def apply_ignores(findings: Iterable[Finding], ignores: Sequence[Ignore], today: date) -> list[Finding]:
    """Marks the findings that an entry covers whose end date has not passed. They stay visible, but do not count."""
    marked = []
    for finding in findings:
        for entry in ignores:
            if _matches(finding, entry.id) and today <= entry.until:
                finding = dataclasses.replace(finding, ignored=f"{entry.reason} (until {entry.until.isoformat()})")
                break
        marked.append(finding)
    return marked
