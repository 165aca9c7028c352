"""Many machines' reports as one: what fails and where, and which machine is not like the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TextIO

from fa_doctor.errors import EXIT_FAILED, EXIT_HEALTHY, EXIT_UNDECIDED
from fa_doctor.report.difference import MISSING, UNKNOWN, badness, by_importance, flat_facts
from fa_doctor.report.document import Document
from fa_doctor.report.paragraphs import STYLES, Paragraphs

__all__ = ["SCHEMA", "exit_code", "summarise", "write"]

SCHEMA = "fa-doctor/fleet/1"
_NAMES_SHOWN = 6
_FACTS_SHOWN = 8  # of a machine that differs, the most telling first
_USUAL_SHARE = 0.5  # of the machines must agree on a fact before another one is told apart from them


def summarise(reports: Mapping[str, Document], unreadable: Mapping[str, str]) -> Document:
    """The fleet as a JSON-able dictionary: machines by name, findings by check, facts in which a minority differs.

    `unreadable` names the machines whose report could not be read, with the reason. What was ignored on a machine is
    left out, and so is what passed. A fact is compared only where more than half of the machines agree on it.
    """
    machines = [_machine(name, report) for name, report in reports.items()]
    machines += [{"name": name, "status": "unreadable", "why": why} for name, why in unreadable.items()]
    return {
        "schema": SCHEMA,
        "machines": sorted(machines, key=lambda machine: str(machine["name"])),
        "findings": _findings(reports),
        "differences": _differences(reports),
        "summary": dict(Counter(str(machine["status"]) for machine in machines)),
    }


def exit_code(fleet: Document) -> int:
    """1 if a machine fails; else 3 if a report is missing or undecided; else 0."""
    found = set(fleet["summary"])
    if "fail" in found:
        return EXIT_FAILED
    return EXIT_UNDECIDED if found & {"unknown", "unreadable"} else EXIT_HEALTHY


def write(fleet: Document, stream: TextIO) -> None:
    """Prints what fails and where, then who differs from the others, then the count."""
    out = _Printer(stream)
    machines = fleet["machines"]
    for finding in fleet["findings"]:
        where = f"{_names(finding['machines'])} ({len(finding['machines'])} of {len(machines)})"
        out.labelled(finding["status"].upper(), finding["status"], finding["id"], _titles(finding), where)
    for machine in machines:
        if machine["status"] == "unreadable":
            out.labelled("UNKNOWN", "unknown", machine["name"], "its report cannot be read", machine["why"])
    for names, facts in _odd_ones(fleet["differences"]):
        out.indented(f"{_names(names)}: not like the others", "bold", 0)
        for fact, said, usual in facts[:_FACTS_SHOWN]:
            out.indented(f"{fact}: {said} (elsewhere {usual})")
        if len(facts) > _FACTS_SHOWN:
            out.indented(f"and {len(facts) - _FACTS_SHOWN} more (--format json has them all)", "dim")
        out.console.print()
    words = {
        "fail": "failing",
        "warn": "with warnings",
        "unknown": "undecided",
        "unreadable": "unreadable",
        "pass": "healthy",
    }
    counts = [f"{fleet['summary'][status]} {word}" for status, word in words.items() if status in fleet["summary"]]
    out.indented(f"{len(machines)} machine{'s' if len(machines) > 1 else ''}: {', '.join(counts)}.", indent=0)


class _Printer(Paragraphs):
    def labelled(self, label: str, style: str, name: str, title: str, below: str) -> None:
        from rich.text import Text

        self.hanging(Text.assemble((f"{label:<8}", STYLES[style]), (name, "bold"), "  ", (title, "bold")), 8)
        self.indented(below)
        self.console.print()


def _machine(name: str, report: Document) -> Document:
    live = [finding for finding in report["findings"] if finding["ignored"] is None]
    return {
        "name": name,
        "status": report["summary"]["status"],
        "generated_at": report["generated_at"],
        "level": report["level"],
        "failed": sorted({finding["id"] for finding in live if finding["status"] == "fail"}),
        "warned": sorted({finding["id"] for finding in live if finding["status"] == "warn"}),
    }


def _findings(reports: Mapping[str, Document]) -> list[Document]:
    """What fails or warns, by check and status: failures first, what most machines have before what few have."""
    rows: dict[tuple[str, str], Document] = {}
    for name, report in reports.items():
        for finding in report["findings"]:
            if finding["ignored"] is not None or finding["status"] not in ("fail", "warn"):
                continue
            row = rows.setdefault(
                (finding["status"], finding["id"]),
                {
                    "id": finding["id"],
                    "check": finding["check"],
                    "status": finding["status"],
                    "titles": {},
                    "machines": [],
                },
            )
            row["titles"].setdefault(finding["title"], []).append(name)
            if name not in row["machines"]:
                row["machines"].append(name)
    return sorted(rows.values(), key=lambda row: (-badness(row["status"]), -len(row["machines"]), row["id"]))


def _differences(reports: Mapping[str, Document]) -> list[Document]:
    """The facts that most machines agree on and some do not. What is not known on a machine does not differ."""
    facts = {name: flat_facts(report) for name, report in reports.items()}
    rows = []
    for fact in dict.fromkeys(fact for flat in facts.values() for fact in flat):
        said = {name: flat.get(fact, MISSING) for name, flat in facts.items()}
        usual, count = Counter(said.values()).most_common(1)[0]
        others: dict[str, list[str]] = {}
        for name, value in said.items():
            if value not in (usual, UNKNOWN):
                others.setdefault(value, []).append(name)
        if others and usual != UNKNOWN and count > len(said) * _USUAL_SHARE:
            rows.append({"what": fact, "usual": usual, "usual_count": count, "others": others})
    return sorted(rows, key=lambda row: by_importance(str(row["what"])))


def _odd_ones(differences: list[Document]) -> list[tuple[list[str], list[tuple[str, str, str]]]]:
    """The same differences by machines: those that differ in the same way stand together, the oddest first."""
    groups: dict[tuple[str, ...], list[tuple[str, str, str]]] = {}
    for difference in differences:
        for said, names in difference["others"].items():
            groups.setdefault(tuple(names), []).append((difference["what"], said, difference["usual"]))
    return sorted(((list(names), facts) for names, facts in groups.items()), key=lambda group: -len(group[1]))


def _titles(finding: Document) -> str:
    titles = list(finding["titles"])
    return titles[0] if len(titles) == 1 else f"{titles[0]} (and {len(titles) - 1} like it)"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
