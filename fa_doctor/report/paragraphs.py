"""Text set in paragraphs for a terminal, a pipe or a log file: wrapped, indented, in colour where colour is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["INDENT", "STYLES", "Paragraphs", "console_for"]

STYLES = {"fail": "bold red", "warn": "bold yellow", "unknown": "bold magenta", "pass": "green", "skip": "dim"}
INDENT = 6  # columns that everything below a finding's title is set in


def console_for(stream: TextIO) -> Console:
    """A console that obeys NO_COLOR and FORCE_COLOR, emits no escape into a pipe, and wraps at 80 columns there."""
    from rich.console import Console

    console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(
            file=stream, highlight=False, markup=False, emoji=False, width=80, color_system=None, force_terminal=False
        )
    return console


class Paragraphs:
    """Prints paragraphs to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self.console = console_for(stream)

    def indented(self, text: str, style: str = "", indent: int = INDENT) -> None:
        from rich.text import Text

        self.hanging(Text(" " * indent + text, style), indent)

    def hanging(self, text: Text, indent: int) -> None:
        """Prints a text whose wrapped lines begin under the end of its label, without blanks at their ends."""
        body = text[indent:].wrap(self.console, max(20, self.console.width - indent)) or [text[:0]]
        for number, line in enumerate(body):
            line.rstrip()
            start = text[:indent] if number == 0 else text[:0].append(" " * indent)
            self.console.print(start.append_text(line), soft_wrap=True)
