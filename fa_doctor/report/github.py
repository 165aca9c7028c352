"""The report as GitHub workflow commands: an annotation for each failure and warning.

The escapes are those of the workflow command syntax: %, CR and LF in messages; also : and , in properties
(https://docs.github.com/actions/reference/workflow-commands-for-github-actions).
"""

from __future__ import annotations

from fa_doctor.report.document import Document

__all__ = ["render"]

_COMMANDS = {"fail": "error", "warn": "warning", "unknown": "notice"}


def render(document: Document) -> str:
    """One line an annotation: failures as errors, warnings as warnings, what is unknown as notices."""
    lines = []
    for finding in document["findings"]:
        command = _COMMANDS.get(finding["status"])
        if command is None or finding["ignored"] is not None:
            continue
        parts = [finding["detail"], *(f"Fix: {fix['title']}: {'; '.join(fix['commands'])}" for fix in finding["fixes"])]
        title = f"{finding['id']} {finding['title']}"
        message = "\n".join(part for part in parts if part) or finding["title"]
        lines.append(f"::{command} title={_property(title)}::{_message(message)}")
    counts = document["summary"]
    lines.append(f"fa-doctor: {counts['status']} ({counts['fail']} failed, {counts['warn']} warned)")
    return "\n".join(lines) + "\n"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
