"""What AMD's tuning guides ask of a machine."""

from __future__ import annotations

from dataclasses import dataclass

from fa_doctor.knowledge.tables import load, sources_of

__all__ = ["Setting", "setting"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: for which GPU families, what is wanted, why, and the commands (for root) that set it and undo it."""

    families: tuple[str, ...]
    want: str | None
    latency_us: int | None
    why: str
    commands: tuple[str, ...]
    undo: tuple[str, ...]
    persist: str | None
    sources: tuple[str, ...]


def setting(name: str) -> Setting:
    """The setting of that name in tuning.toml; raises KeyError if there is none."""
    table = load("tuning")
    row = table["setting"][name]
    return Setting(
        families=tuple(row["families"]),
        want=row.get("want"),
        latency_us=row.get("latency_us"),
        why=row["why"],
        commands=tuple(row.get("commands", ())),
        undo=tuple(row.get("undo", ())),
        persist=row.get("persist"),
        sources=sources_of(table, row["sources"]),
    )
