"""What differs between two reports, most telling first: findings, then the stack, then the GPUs, then the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fa_doctor.report.document import Document

__all__ = [
    "MISSING",
    "UNKNOWN",
    "Difference",
    "badness",
    "by_importance",
    "differences",
    "flat_facts",
    "worst_findings",
]

UNKNOWN = "unknown"
MISSING = "not there"  # what is said of a fact that only the other machine has
_RANK = ("findings", "environment", "torch", "triton", "flash_attn", "rocm", "gpus", "gpu_cards", "driver", "python")
_PACKAGES = ("torch", "triton", "flash_attn")
_ABSENT = {"version": "missing"}  # a package that is not installed has a version in the other report
# Facts of where and when a report was made, not of the machine's health.
_TELLS_NOTHING = ("description", "source", "chosen_because")


@dataclass(frozen=True, slots=True)
class Difference:
    """`what` names the fact (`torch.version`, `finding TOR101`), `left` and `right` what each report says of it."""

    what: str
    left: str
    right: str


def differences(left: Document, right: Document) -> list[Difference]:
    """The differences between two reports: findings whose status differs first, worst first, then facts."""
    found = _findings(left, right)
    facts_left, facts_right = flat_facts(left), flat_facts(right)
    facts = [
        Difference(name, facts_left.get(name, MISSING), facts_right.get(name, MISSING))
        for name in {**facts_left, **facts_right}
        if facts_left.get(name) != facts_right.get(name)
    ]
    return found + sorted(facts, key=lambda difference: by_importance(difference.what))


def flat_facts(document: Document) -> dict[str, str]:
    """The facts of a report's machine as dotted names (`torch.version`) with what is said of each, in words."""
    machine = {
        name: _ABSENT if said is None and name in _PACKAGES else said for name, said in document["machine"].items()
    }
    flat = _flatten(machine)
    return {name: said for name, said in flat.items() if name.rsplit(".", 1)[-1] not in _TELLS_NOTHING}


def _findings(left: Document, right: Document) -> list[Difference]:
    sides = [worst_findings(left), worst_findings(right)]
    rows = []
    for id in {**sides[0], **sides[1]}:
        texts = [side.get(id, ("not run", "")) for side in sides]
        if texts[0][0] != texts[1][0] or (texts[0] != texts[1] and texts[0][0] in ("fail", "warn")):
            worst = max(badness(status) for status, _ in texts)
            rows.append((worst, Difference(f"finding {id}", *(_phrase(*text) for text in texts))))
    return [row for _, row in sorted(rows, key=lambda pair: -pair[0])]


def worst_findings(document: Document) -> dict[str, tuple[str, str]]:
    """Status and title of the worst finding of each check, by its id."""
    worst: dict[str, tuple[str, str]] = {}
    for finding in document["findings"]:
        known = worst.get(finding["id"])
        if known is None or badness(finding["status"]) > badness(known[0]):
            worst[finding["id"]] = (finding["status"], finding["title"])
    return worst


def badness(status: str) -> int:
    """The place of a status from nothing to failure."""
    return ("not run", "skip", "pass", "unknown", "warn", "fail").index(status)


def _phrase(status: str, title: str) -> str:
    return f"{status}: {title}" if title else status


def _flatten(value: Any, name: str = "") -> dict[str, str]:
    """Nested facts as dotted names. Lists of like devices are counted, so that eight equal GPUs are one line."""
    if isinstance(value, dict):
        flat: dict[str, str] = {}
        for key, inner in value.items():
            flat.update(_flatten(inner, f"{name}.{key}" if name else str(key)))
        return flat
    if isinstance(value, list):
        if name == "gpus":
            return _gpus(value)
        return {name: ", ".join(sorted(_one_line(entry) for entry in value)) or "none"}
    return {name: UNKNOWN if value is None else str(value)}


def _gpus(gpus: list[Document]) -> dict[str, str]:
    flat = {"gpus.count": str(len(gpus))}
    for field in (
        "gfx",
        "gfx_in_force",
        "name",
        "compute_units",
        "vram_bytes",
        "partition",
        "memory_partition",
        "visible",
    ):
        values = dict.fromkeys(UNKNOWN if gpu.get(field) is None else str(gpu[field]) for gpu in gpus)
        if values:
            flat[f"gpus.{field}"] = ", ".join(values)
    return flat


def _one_line(entry: Any) -> str:
    if isinstance(entry, dict):
        return " ".join(str(value) for value in entry.values() if value is not None)
    return str(entry)


def by_importance(name: str) -> tuple[int, str]:
    """A key that sorts names of facts, the most telling first."""
    topic = name.split(".")[0]
    return (_RANK.index(topic) if topic in _RANK else len(_RANK), name)
