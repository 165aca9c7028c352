"""The results of a sweep on disk: one line a point as it is measured, so that a sweep can be stopped and resumed.

DIR/results.jsonl   {"schema": "fa-doctor/bench/1", "machine": {...}} and then one measured point a line
DIR/results.json    the same as one document, written at the end
DIR/results.csv     one row a point
"""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from fa_doctor.bench.grid import KEY, Point, key_of
from fa_doctor.errors import UsageProblem

__all__ = ["SCHEMA", "Store", "load_results"]

SCHEMA = "fa-doctor/bench/1"
_VALUES = ("ms", "low", "high", "runs", "tflops", "peak_bytes", "error")


class Store:
    """One folder of results. Opening one that holds results goes on with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "results.jsonl"
        self.machine: dict[str, Any] | None = None
        self.points: dict[tuple[Any, ...], Point] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        except OSError as error:
            raise UsageProblem(f"{folder} cannot be used for results: {error.strerror or error}") from error
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
            except ValueError:
                if number == len(lines):
                    continue  # the line that was being written when it was stopped
                raise UsageProblem(f"{self.path}: line {number} is damaged; name another folder") from None
            if "machine" in entry:
                self.machine = entry["machine"]
            elif isinstance(entry, dict) and "provider" in entry:
                self.points[key_of(entry)] = entry
        if lines and self._whole_lines() != lines:
            self._rewrite()

    def _whole_lines(self) -> list[str]:
        header = [] if self.machine is None else [json.dumps({"schema": SCHEMA, "machine": self.machine})]
        return header + [json.dumps(point) for point in self.points.values()]

    def _rewrite(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in self._whole_lines()), encoding="utf-8")
        os.replace(partial, self.path)

    def set_machine(self, machine: dict[str, Any]) -> None:
        """Notes what was measured on; raises UsageProblem if the results there are of another machine or version."""
        same = ("name", "gfx", "torch", "triton")
        if self.machine is not None and any(self.machine.get(name) != machine.get(name) for name in same):
            raise UsageProblem(f"{self.folder} holds results of another machine or version; name another folder")
        if self.machine is None:
            self.machine = machine
            self._append({"schema": SCHEMA, "machine": machine})

    def add(self, point: Point) -> None:
        """Keeps a measured point."""
        self.points[key_of(point)] = point
        self._append(point)

    def _append(self, entry: dict[str, Any]) -> None:
        try:
            with open(self.path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise UsageProblem(f"{self.path} cannot be written: {error.strerror or error}") from error

    def document(self) -> dict[str, Any]:
        """All results as one document."""
        return {"schema": SCHEMA, "machine": self.machine or {}, "points": list(self.points.values())}

    def write_summaries(self) -> None:
        """results.json and results.csv from what was measured."""
        document = json.dumps(self.document(), indent=1) + "\n"
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow([*KEY, *_VALUES])
        for point in self.points.values():
            writer.writerow([point.get(name, "") for name in (*KEY, *_VALUES)])
        try:
            (self.folder / "results.json").write_text(document, encoding="utf-8")
            (self.folder / "results.csv").write_text(table.getvalue(), encoding="utf-8")
        except OSError as error:
            raise UsageProblem(f"{self.folder} cannot be written: {error.strerror or error}") from error


def load_results(path: str) -> dict[str, Any]:
    """Reads results.json, or the folder that holds it; raises UsageProblem if it is not a result of `bench`."""
    place = Path(path)
    if place.is_dir():
        return Store(place).document()
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageProblem(f"{path} cannot be read as results of bench: {error}") from error
    if (
        not isinstance(document, dict)
        or document.get("schema") != SCHEMA
        or not isinstance(document.get("points"), list)
        or not isinstance(document.get("machine"), dict)
    ):
        raise UsageProblem(f"{path} does not hold results of bench ({SCHEMA})")
    return document
