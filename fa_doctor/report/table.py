"""A table of figures for a person: in a terminal, in a pipe, in a log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from fa_doctor.report.paragraphs import console_for

__all__ = ["print_table"]


def print_table(stream: TextIO, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, the others to the right. Never wrapped: a log may be wider than 80 columns."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for number, name in enumerate(header):
        shown.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    console = console_for(stream)
    wanted = sum(max(len(row[place]) for row in (header, *rows)) + 2 for place in range(len(header)))
    console.width = max(console.width, wanted)
    console.print(shown, soft_wrap=True)
