"""Shows how far an install is: a bar on a terminal, a line a file in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from fa_doctor.installer.plan import Step

__all__ = ["Progress"]


class Progress:
    """Writes to `stream`; on a terminal the line of a running download is rewritten, elsewhere only ends are told."""

    def __init__(self, steps: Sequence[Step] = (), stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._numbers = {step.name: f"[{number}/{len(steps)}] " for number, step in enumerate(steps, 1)}
        self._began = time.monotonic()
        self._bar = False
        self._last = (-1, "")

    def step(self, step: Step, event: str) -> None:
        """A step begins or has ended."""
        if event == "start":
            self._began = time.monotonic()
            self._write(f"{self._numbers.get(step.name, '')}{step.title} ...\n")
        elif (seconds := time.monotonic() - self._began) >= 1:
            self._write(f"      {seconds:.0f} s\n")

    def bytes(self, name: str, done: int, total: int | None) -> None:
        """Bytes of a file arrived."""
        complete = total is not None and done >= total
        if self.stream.isatty():
            share = f"{done * 100 // total:3d}%" if total else "    "
            if (self._last) != (done * 100 // total if total else done >> 20, name):
                self._last = (done * 100 // total if total else done >> 20, name)
                self.stream.write(f"\r  {share} {done / 1e6:8.1f} MB  {name[:50]:<50}")
                self.stream.flush()
                self._bar = True
        elif complete:
            self._write(f"  {name} ({done / 1e6:.1f} MB)\n")

    def _write(self, text: str) -> None:
        if self._bar:
            self.stream.write("\n")
            self._bar = False
        self.stream.write(text)
        self.stream.flush()
