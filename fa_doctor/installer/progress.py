"""Shows how far an install is: a bar on a terminal, a line a file in a log."""

from __future__ import annotations

import sys
from typing import TextIO

from fa_doctor.installer.plan import Step

__all__ = ["Progress"]


class Progress:
    """Writes to `stream`; on a terminal the line of a running download is rewritten, elsewhere only ends are told."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.stream = stream or sys.stderr
        self.quiet = quiet
        self._bar = False
        self._last = (-1, "")

    def step(self, step: Step, event: str) -> None:
        """A step begins or has ended."""
        if event == "start":
            self._write(f"{step.title} ...\n")

    def bytes(self, name: str, done: int, total: int | None) -> None:
        """Bytes of a file arrived."""
        complete = total is not None and done >= total
        if self.stream.isatty() and not self.quiet:
            share = f"{done * 100 // total:3d}%" if total else "    "
            if (self._last) != (done * 100 // total if total else done >> 20, name):
                self._last = (done * 100 // total if total else done >> 20, name)
                self.stream.write(f"\r  {share} {done / 1e6:8.1f} MB  {name[:50]:<50}")
                self.stream.flush()
                self._bar = True
        elif complete:
            self._write(f"  {name} ({done / 1e6:.1f} MB)\n")

    def _write(self, text: str) -> None:
        if self.quiet:
            return
        if self._bar:
            self.stream.write("\n")
            self._bar = False
        self.stream.write(text)
        self.stream.flush()
