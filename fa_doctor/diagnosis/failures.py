"""The known failures, read from knowledge/failures/*.toml and knowledge/causes.toml.

A failure is one mechanism by which attention fails on an AMD machine. Several failures may have one cause (an id of
causes.toml). A new failure is a new table in one of the files; no code names any of them. Fields of a `[[failure]]`:

    id, cause, title, explanation      names and prose; `explanation` has two sentences
    prior                              log-odds before any evidence (default -3: one log in twenty)
    vendor                             whose failure it is: "amd" (default): a log of an NVIDIA machine rules it out;
                                       "any": known on AMD, so that NVIDIA speaks against it; "every": of every machine
    signatures                         what the failure prints: {text or re + has, w, src}
    symptoms                           {name = weight}: symptoms it shares with others (symptoms.toml)
    support                            lines that count only beside a signature or symptom; negative `w` speaks against
    context                            {when = "condition", w}: facts that speak for or against
    explains                           causes that this one, where it holds, makes needless
    next                               {run, tells}: the command that confirms or refutes it
    fixes                              {title, commands, when, undo, needs, safety, set}
    sources                            where the mechanism is documented

A signature's `w` is a weight of evidence in log-odds: 5 for words that only this failure makes a program print, 3 for
words it often prints and others seldom, 1 for a hint. `src` names the software that prints them or its documentation;
`seen`, for what people write rather than programs, at least two public threads in which it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fa_doctor.diagnosis.conditions import Condition, parse
from fa_doctor.knowledge import tables

__all__ = ["Advice", "Cause", "Failure", "Knowledge", "Signature", "Symptom", "Weighted", "knowledge", "load"]


@dataclass(frozen=True, slots=True)
class Cause:
    """A root cause: its id, what it means in one line, and whose tracker it belongs to."""

    id: str
    title: str
    meaning: str
    tracker: str


@dataclass(frozen=True, slots=True)
class Signature:
    """Words of a log. `phrases`: one of them must stand in the line; `pattern`, if there is one, must match it too."""

    phrases: tuple[str, ...]
    pattern: str | None
    weight: float
    source: str | None
    excludes: str | None = None
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Weighted:
    """Facts that change the odds by `weight` where `conditions` hold."""

    conditions: tuple[Condition, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Symptom:
    """Words that many failures make a program print, and the command that tells those apart."""

    id: str
    title: str
    signatures: tuple[Signature, ...]
    run: str
    tells: str


@dataclass(frozen=True, slots=True)
class Advice:
    """A fix as the table has it: commands with {placeholders}, for the machines where `conditions` hold."""

    title: str
    commands: tuple[str, ...]
    conditions: tuple[Condition, ...]
    undo: tuple[str, ...] | None
    needs: str | None
    safety: str
    variable: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Failure:
    """One known mechanism; see the module's description for the fields."""

    id: str
    cause: str
    title: str
    explanation: str
    prior: float
    vendor: str
    signatures: tuple[Signature, ...]
    symptoms: tuple[tuple[str, float], ...]
    support: tuple[Signature, ...]
    context: tuple[Weighted, ...]
    explains: tuple[str, ...]
    run: str | None
    tells: str | None
    fixes: tuple[Advice, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """All tables together."""

    causes: Mapping[str, Cause]
    symptoms: Mapping[str, Symptom]
    failures: tuple[Failure, ...]

    def phrases(self) -> set[str]:
        """Every phrase that some pattern needs."""
        found: set[str] = set()
        for symptom in self.symptoms.values():
            found.update(*(signature.phrases for signature in symptom.signatures))
        for failure in self.failures:
            found.update(*(signature.phrases for signature in (*failure.signatures, *failure.support)))
        return found


@cache
def knowledge() -> Knowledge:
    """The tables that come with fa-doctor."""
    return load()


def load(more: Iterable[Path] = ()) -> Knowledge:
    """Reads the tables, and further failure files of the same form. Raises ValueError for a table that is not valid."""
    causes = {
        row["id"]: Cause(row["id"], row["title"], row["meaning"], row["tracker"])
        for row in tables.load("causes")["cause"]
    }
    symptoms = {row["id"]: symptom_of(row) for row in tables.load("symptoms")["symptom"]}
    failures: list[Failure] = []
    files = [(name, tables.load(name)) for name in tables.names_below("failures")]
    files += [(path.name, tables.read(path)) for path in more]
    for file, table in files:
        failures += (failure_of(row, file) for row in table["failure"])
    names = [failure.id for failure in failures]
    for failure in failures:
        if failure.cause not in causes:
            raise ValueError(f"failure {failure.id}: unknown cause {failure.cause!r}")
        if names.count(failure.id) > 1:
            raise ValueError(f"failure {failure.id} stands twice")
        for name, _ in failure.symptoms:
            if name not in symptoms:
                raise ValueError(f"failure {failure.id}: unknown symptom {name!r}")
        for cause in failure.explains:
            if cause not in causes:
                raise ValueError(f"failure {failure.id}: explains the unknown cause {cause!r}")
    return Knowledge(causes, symptoms, tuple(failures))


def one_of(value: str, allowed: tuple[str, ...], owner: str) -> str:
    if value not in allowed:
        raise ValueError(f"{owner}: {value!r} is none of {', '.join(allowed)}")
    return value


def signature_of(row: Mapping[str, Any], owner: str) -> Signature:
    phrases = row.get("text", row.get("has"))
    phrases = (phrases,) if isinstance(phrases, str) else tuple(phrases or ())
    if not phrases:
        raise ValueError(f"{owner}: a signature needs `text` or `has`")
    return Signature(
        tuple(phrase.lower() for phrase in phrases),
        row.get("re"),
        float(row.get("w", 0.0)),
        row.get("src"),
        row.get("not"),
        tuple(row.get("seen", ())),
    )


def symptom_of(row: Mapping[str, Any]) -> Symptom:
    return Symptom(
        row["id"],
        row["title"],
        tuple(signature_of(each, row["id"]) for each in row["signatures"]),
        row["next"]["run"],
        row["next"]["tells"],
    )


def advice_of(row: Mapping[str, Any]) -> Advice:
    variable = row.get("set")
    return Advice(
        row["title"],
        tuple(row.get("commands", ())),
        parse(row["when"]) if "when" in row else (),
        tuple(row["undo"]) if "undo" in row else None,
        row.get("needs"),
        row.get("safety", "display"),
        (variable[0], variable[1]) if variable else None,
    )


def failure_of(row: Mapping[str, Any], file: str) -> Failure:
    owner = f"{file}: {row.get('id', '?')}"
    try:
        following = row.get("next", {})
        return Failure(
            id=row["id"],
            cause=row["cause"],
            title=row["title"],
            explanation=re.sub(r"\s+", " ", row["explanation"]).strip(),
            prior=float(row.get("prior", -3.0)),
            vendor=one_of(row.get("vendor", "amd"), ("amd", "any", "every"), owner),
            signatures=tuple(signature_of(each, owner) for each in row.get("signatures", ())),
            symptoms=tuple((name, float(weight)) for name, weight in row.get("symptoms", {}).items()),
            support=tuple(signature_of(each, owner) for each in row.get("support", ())),
            context=tuple(Weighted(parse(each["when"]), float(each["w"])) for each in row.get("context", ())),
            explains=tuple(row.get("explains", ())),
            run=following.get("run"),
            tells=following.get("tells"),
            fixes=tuple(advice_of(each) for each in row.get("fixes", ())),
            sources=tuple(row.get("sources", ())),
        )
    except KeyError as missing:
        raise ValueError(f"{owner}: the field {missing} is missing") from None
    except ValueError as error:
        raise ValueError(f"{owner}: {error}") from None
