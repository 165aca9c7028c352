"""The journal of fixes: each was begun, and then kept, undone, or cut off. It is append-only and on disk before the fact.

Events, each with the number of its fix: "begin" (all that is needed to take it back), "applied", "kept" (proved),
"undoing", "undone", and "lost" (what it changed is gone, there is nothing to take back).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fa_doctor.errors import UsageProblem
from fa_doctor.fixing.places import journal_of
from fa_doctor.installer.journal import Journal
from fa_doctor.installer.plan import Paths

__all__ = ["Entry", "History"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One fix. `state` is the last event; `details` what its kind of action needs to take it back."""

    number: int
    check: str
    title: str
    kind: str
    at: float
    state: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_cut_off(self) -> bool:
        """Whether it was begun, or its undoing was, and neither came to an end."""
        return self.state in ("begin", "applied", "undoing")

    @property
    def is_kept(self) -> bool:
        return self.state == "kept"

    @property
    def when(self) -> str:
        """When it was begun, in local time."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.at))


class History:
    """The fixes of one environment, oldest first. Writing needs its lock."""

    def __init__(self, paths: Paths) -> None:
        self.journal = Journal(journal_of(paths))

    def entries(self) -> list[Entry]:
        """All fixes that were ever begun. A line that a power cut tore is passed over. Raises UsageProblem where this
        user may not read the journal."""
        found: dict[int, Entry] = {}
        try:
            records = self.journal.read()
        except OSError as error:
            raise UsageProblem(f"the journal {self.journal.path} cannot be read: {error.strerror or error}") from error
        for record in records:
            number = record.data.get("fix")
            if not isinstance(number, int):
                continue
            if record.event == "begin":
                data = record.data
                details = data.get("details")
                found[number] = Entry(
                    number,
                    str(data.get("check")),
                    str(data.get("title")),
                    str(data.get("kind")),
                    record.at,
                    "begin",
                    details if isinstance(details, dict) else {},
                )
            elif number in found:
                known = found[number]
                found[number] = Entry(
                    number, known.check, known.title, known.kind, known.at, record.event, known.details
                )
        return [found[number] for number in sorted(found)]

    def cut_off(self) -> Entry | None:
        """The fix that was begun and did not come to an end."""
        return next((entry for entry in reversed(self.entries()) if entry.is_cut_off), None)

    def last_kept(self) -> Entry | None:
        """The fix that `--undo` takes back."""
        return next((entry for entry in reversed(self.entries()) if entry.is_kept), None)

    def next_number(self) -> int:
        entries = self.entries()
        return entries[-1].number + 1 if entries else 1

    def begin(self, number: int, check: str, title: str, kind: str, details: Mapping[str, Any]) -> Entry:
        """Records that a fix is about to be applied, and what takes it back."""
        self.journal.write("begin", fix=number, check=check, title=title, kind=kind, details=dict(details))
        return Entry(number, check, title, kind, time.time(), "begin", details)

    def note(self, event: str, entry: Entry, **data: Any) -> None:
        """Records how a fix went on."""
        self.journal.write(event, fix=entry.number, **data)
