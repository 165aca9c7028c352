"""Steps of a probe, reported as they begin and end, so that the last words of a child that dies say where it was."""

from __future__ import annotations

import faulthandler
import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Reporter", "StepFailed"]


class StepFailed(Exception):
    """A step failed and was reported; what comes after it makes no sense."""


class Reporter:
    """Writes one JSON object a line to a file descriptor: {"event": "begin"|"end"|"error"|"note", "step", ...}."""

    def __init__(self, descriptor: int, deadline: float | None = None) -> None:
        """The child is killed at `deadline` (time.monotonic): before that it prints its stacks, to show where it hangs."""
        self._descriptor = descriptor
        faulthandler.enable()  # a segmentation fault prints the Python stack to stderr
        if deadline is not None:
            faulthandler.dump_traceback_later(max(0.01, 0.9 * (deadline - time.monotonic())))

    def say(self, event: str, step: str, **details: Any) -> None:
        line = json.dumps({"event": event, "step": step, **details}) + "\n"
        data = line.encode()
        while data:  # a pipe may take less than all of a long line
            data = data[os.write(self._descriptor, data) :]

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Reports a step's begin and end, with what the body puts into the dictionary; raises StepFailed if it fails."""
        self.say("begin", name)
        details: dict[str, Any] = {}
        started = time.monotonic()
        try:
            yield details
        except BaseException as error:
            text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self.say(
                "error",
                name,
                type=type(error).__name__,
                message=str(error)[:4000],
                traceback=text[-16000:],
                seconds=round(time.monotonic() - started, 3),
                **details,
            )
            raise StepFailed(name) from error
        self.say("end", name, seconds=round(time.monotonic() - started, 3), **details)
