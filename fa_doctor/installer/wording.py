"""What an install says: the plan before it, and at its end what was done, what was undone, what to type next."""

from __future__ import annotations

import textwrap
from pathlib import Path

from fa_doctor.installer.plan import Plan, steps_of
from fa_doctor.installer.preconditions import bytes_needed
from fa_doctor.installer.transaction import Outcome, Transaction

__all__ = ["describe_failure", "describe_plan", "describe_success", "next_steps", "plan_as_json"]

WIDTH = 80


def describe_plan(plan: Plan, tool: str) -> str:
    """The plan as text at 80 columns."""
    verb = "changes" if plan.exists else "makes"
    lines = [f"Installs the stack {plan.stack} with {tool}; {verb} {plan.environment}"]
    lines += _wrapped("why", plan.reasons)
    lines += _wrapped("rejected", tuple(f"{name}: {why}" for name, why in plan.rejected))
    lines += _wrapped("note", plan.notes)
    size = plan.download_bytes
    sizes = f"{size / 1e6:.0f} MB to download, " if size is not None else "download size not stated by the index, "
    lines += _wrapped("room", (f"{sizes}up to {bytes_needed(plan) / 1e9:.1f} GB of disk while it works",))
    lines += ["", "Steps:"]
    for number, step in enumerate(steps_of(plan), 1):
        lines.append(f" {number:>2}. {step.title}")
        for change in step.changes:
            lines += textwrap.wrap(change, WIDTH, initial_indent="       ", subsequent_indent="         ") or []
        lines += textwrap.wrap(f"undo: {step.undo}", WIDTH, initial_indent="     ", subsequent_indent="       ")
    if plan.kept:
        names = ", ".join(f"{package.name} {package.version}" for package in plan.kept)
        lines += _wrapped("stays", (names,))
    return "\n".join(lines)


def plan_as_json(plan: Plan, tool: str) -> dict[str, object]:
    """The plan for machines: schema fa-doctor/plan/1. Sizes in bytes."""
    return {
        "schema": "fa-doctor/plan/1",
        "environment": str(plan.environment),
        "exists": plan.exists,
        "installer": tool,
        "python": {"version": plan.python_version, "executable": plan.base_python},
        "stack": plan.stack,
        "torch": plan.torch,
        "attention": plan.attention,
        "targets": list(plan.targets),
        "reasons": list(plan.reasons),
        "rejected": [{"stack": name, "why": why} for name, why in plan.rejected],
        "notes": list(plan.notes),
        "download_bytes": plan.download_bytes,
        "disk_bytes": bytes_needed(plan),
        "packages": [
            {
                "name": package.name,
                "version": package.version,
                "filename": package.file.filename if package.file else None,
                "sha256": package.file.sha256 if package.file else None,
                "size": package.file.size if package.file else None,
                "index": package.index,
            }
            for package in plan.downloads
        ],
        "kept": [{"name": package.name, "version": package.version} for package in plan.kept],
        "remove": [{"name": entry.name, "version": entry.version, "why": why} for entry, why in plan.remove],
        "environment_variables": {
            name: {"value": variable.value, "reason": variable.reason} for name, variable in plan.variables.items()
        },
        "steps": [
            {"name": step.name, "title": step.title, "changes": list(step.changes), "undo": step.undo}
            for step in steps_of(plan)
        ],
    }


def describe_success(plan: Plan, outcome: Outcome) -> str:
    """What was done, what is kept, what to type next."""
    lines = [f"Done: {plan.environment} has the stack {plan.stack}."]
    lines += _wrapped("verified", outcome.verified)
    if outcome.previous:
        kept = f"the environment as it was is kept at {outcome.previous}"
        lines += _wrapped("kept", (f"{kept}; --rollback puts it back, deleting that folder frees its room",))
    return "\n".join([*lines, "", *next_steps(plan.environment, bool(plan.variables))])


def describe_failure(plan: Plan, transaction: Transaction, why: str) -> str:
    """What was done, what was undone, and what to type next, after a failure or an interrupt."""
    at = f" at the step {transaction.at.title!r}" if transaction.at else ""
    lines = [f"Not installed{at}: {why}", ""]
    lines += _wrapped("done", tuple(transaction.done))
    state = f"{plan.environment} is as it was" if plan.exists else f"{plan.environment} was not made"
    lines += _wrapped("undone", (f"everything: {state}",))
    wheels = plan.paths.wheels
    if wheels.is_dir() and any(wheels.iterdir()):
        lines += _wrapped("kept", (f"downloads in {wheels}, for the next try (rm -r {plan.paths.state} deletes them)",))
    return "\n".join([*lines, "", "Next: the same command again, once the cause is gone."])


def next_steps(environment: Path, has_variables: bool) -> list[str]:
    """The commands to type after an install."""
    lines = ["Next:", f"  source {environment}/bin/activate"]
    if has_variables:
        lines.append('  eval "$(fa-doctor env)"')
    return [*lines, "  fa-doctor check"]


def _wrapped(label: str, texts: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    for text in texts:
        first = f"  {label + ':':<10} " if text == texts[0] else " " * 13
        lines += textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * 13)
    return lines
