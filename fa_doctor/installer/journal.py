"""The record of one install, on disk before each thing it speaks of is done: what a later run resumes or undoes by."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Journal", "Record"]

SCHEMA = "fa-doctor/journal/1"


@dataclass(frozen=True, slots=True)
class Record:
    """One line: what happened ("begin", "start", "done", "ready", "placing", "placed", "finished", "undone")."""

    event: str
    at: float
    data: Mapping[str, Any] = field(default_factory=dict)


class Journal:
    """An append-only file of JSON lines; each is on the disk (fsync) before `write` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, **data: Any) -> None:
        """Appends one record."""
        new = not self.path.exists()
        line = json.dumps({"schema": SCHEMA, "event": event, "at": time.time(), **data}) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and not self._ends_with_newline(size):
                line = "\n" + line  # the last line was torn by a power cut: keep it from swallowing this one
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(self.path.parent)

    def read(self) -> list[Record]:
        """The records, oldest first. A torn last line, as a power cut leaves it, is passed over."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        records = []
        for line in text.splitlines():
            try:
                row = json.loads(line)
                event, at = str(row.pop("event")), float(row.pop("at"))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            records.append(Record(event, at, row))
        return records

    def current(self) -> list[Record]:
        """The records of the last install that was begun."""
        records = self.read()
        starts = [index for index, record in enumerate(records) if record.event == "begin"]
        return records[starts[-1] :] if starts else []

    def is_open(self) -> bool:
        """Whether the last install was neither finished nor undone."""
        return bool(self.current()) and self.current()[-1].event not in ("finished", "undone")

    def _ends_with_newline(self, size: int) -> bool:
        with self.path.open("rb") as file:
            file.seek(size - 1)
            return file.read(1) == b"\n"


def sync_folder(folder: Path) -> None:
    """Brings a folder's own entries (a new name, a rename) onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
