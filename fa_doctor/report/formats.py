"""The formats of a report by name, and the exit code that belongs to a report."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module

from fa_doctor.errors import EXIT_FAILED, EXIT_HEALTHY, EXIT_UNDECIDED
from fa_doctor.report.document import Document

__all__ = ["FORMATS", "exit_code", "render"]

FORMATS = ("text", "json", "junit", "github", "markdown", "html", "npd")


def render(document: Document, name: str, *, verbose: bool = False) -> str:
    """The report in a format, as text that ends with a newline."""
    if name == "text":
        from io import StringIO

        from fa_doctor.report import text

        stream = StringIO()
        text.write(document, stream, verbose=verbose)
        return stream.getvalue()
    if name == "json":
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    renderer: Callable[[Document], str] = import_module(f"fa_doctor.report.{name}").render
    return renderer(document)


def exit_code(document: Document) -> int:
    """0 healthy (warnings allowed; with --strict the summary says fail), 1 a check failed, 3 nothing could be decided."""
    status = document["summary"]["status"]
    return {"pass": EXIT_HEALTHY, "warn": EXIT_HEALTHY, "fail": EXIT_FAILED}.get(status, EXIT_UNDECIDED)
