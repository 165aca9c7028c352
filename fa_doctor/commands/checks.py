"""`fa-doctor checks [ID]`: what is checked, and the page of one check."""

from __future__ import annotations

import json
from typing import Any

import click

from fa_doctor.commands.options import write_output
from fa_doctor.errors import UsageProblem

__all__ = ["command"]


@click.command("checks")
@click.argument("id", required=False)
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(id: str | None, format_: str) -> int:
    """Lists the checks, or explains one: what, why it matters, how to fix, sources."""
    from fa_doctor.diagnosis.check import Check, all_checks

    checks = all_checks()
    if id is not None:
        word = id.upper()
        checks = tuple(found for found in checks if word == found.id or id == found.name)
        if not checks:
            raise UsageProblem(f"there is no check {id}; `fa-doctor checks` lists them")

    def row(found: Check) -> dict[str, Any]:
        return {
            "id": found.id,
            "name": found.name,
            "level": found.level.name.lower(),
            "causes": list(found.causes),
            "rests_on": list(found.rests_on),
            "documentation": found.documentation,
        }

    if format_ == "json":
        text = json.dumps({"schema": "fa-doctor/checks/1", "checks": [row(found) for found in checks]}, indent=1) + "\n"
    elif id is not None:
        text = "".join(_page(found) for found in checks)
    else:
        ordered = sorted(checks, key=lambda found: found.id)
        width = max(len(found.name) for found in ordered)
        text = "".join(f"{found.id}  {found.name:<{width}}  {found.summary}\n" for found in ordered)
    write_output(text, None)
    return 0


def _page(found: Any) -> str:
    lines = [f"{found.id}  {found.name}  (level {found.level.name.lower()})", "", found.documentation]
    if found.causes:
        lines += ["", f"Causes it can find: {', '.join(found.causes)}."]
    if found.rests_on:
        lines += ["", f"Rests on: {', '.join(found.rests_on)}."]
    return "\n".join(lines) + "\n"
