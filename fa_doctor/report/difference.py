"""What differs between two reports, most telling first: findings, then the stack, then the GPUs, then the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fa_doctor.report.document import Document

__all__ = ["Difference", "differences"]

_MISSING = "not there"
_RANK = ("findings", "environment", "torch", "triton", "flash_attn", "rocm", "gpus", "gpu_cards", "driver", "python")
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
    flat_left, flat_right = _flatten(left["machine"]), _flatten(right["machine"])
    names = [name for name in {**flat_left, **flat_right} if name.rsplit(".", 1)[-1] not in _TELLS_NOTHING]
    facts = [
        Difference(name, flat_left.get(name, _MISSING), flat_right.get(name, _MISSING))
        for name in names
        if flat_left.get(name) != flat_right.get(name)
    ]
    return found + sorted(facts, key=lambda difference: _place(difference.what))


def _findings(left: Document, right: Document) -> list[Difference]:
    sides = [_by_check(left), _by_check(right)]
    rows = []
    for id in {**sides[0], **sides[1]}:
        texts = [side.get(id, ("not run", "")) for side in sides]
        if texts[0][0] != texts[1][0] or (texts[0] != texts[1] and texts[0][0] in ("fail", "warn")):
            badness = max(_badness(status) for status, _ in texts)
            rows.append((badness, Difference(f"finding {id}", *(_phrase(*text) for text in texts))))
    return [row for _, row in sorted(rows, key=lambda pair: -pair[0])]


def _by_check(document: Document) -> dict[str, tuple[str, str]]:
    """The worst finding of each check."""
    worst: dict[str, tuple[str, str]] = {}
    for finding in document["findings"]:
        known = worst.get(finding["id"])
        if known is None or _badness(finding["status"]) > _badness(known[0]):
            worst[finding["id"]] = (finding["status"], finding["title"])
    return worst


def _badness(status: str) -> int:
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
    return {name: "unknown" if value is None else str(value)}


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
        values = dict.fromkeys(str(gpu.get(field)) for gpu in gpus)
        flat[f"gpus.{field}"] = ", ".join(values) or "none"
    return flat


def _one_line(entry: Any) -> str:
    if isinstance(entry, dict):
        return " ".join(str(value) for value in entry.values() if value is not None)
    return str(entry)


def _place(name: str) -> tuple[int, str]:
    topic = name.split(".")[0]
    return (_RANK.index(topic) if topic in _RANK else len(_RANK), name)
