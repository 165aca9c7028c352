"""What an install says: the plan before it, and at its end what was done, what was undone, what to type next."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
import textwrap
from pathlib import Path

from fa_doctor.installer.compile import Compiled
from fa_doctor.installer.plan import NOTHING, Plan, fetch_lines, steps_of
from fa_doctor.installer.preconditions import bytes_needed
from fa_doctor.installer.transaction import Outcome, Transaction

__all__ = [
    "describe_download",
    "describe_downloaded",
    "describe_failure",
    "describe_plan",
    "describe_success",
    "next_steps",
    "plan_as_json",
]

WIDTH = 80


def describe_plan(plan: Plan, tool: str) -> str:
    """The plan as text at 80 columns."""
    verb = "changes" if plan.exists else "makes"
    lines = [f"Installs the stack {plan.stack} with {tool}; {verb} {plan.environment}"]
    lines += _choice(plan)
    lines += _wrapped("room", (f"{_to_download(plan)}up to {bytes_needed(plan) / 1e9:.1f} GB of disk while it works",))
    lines += ["", "Steps:"]
    for number, step in enumerate(steps_of(plan), 1):
        lines.append(f" {number:>2}. {step.title}")
        for change in step.changes:
            lines += _fill(change, "       ")
        if step.undo != NOTHING:
            lines += _fill(f"undo: {step.undo}", "     ")
    if plan.kept:
        names = ", ".join(f"{package.name} {package.version}" for package in plan.kept)
        lines += _wrapped("stays", (names,))
    return "\n".join(lines)


def describe_download(plan: Plan, folder: Path) -> str:
    """What `--download` will fetch."""
    lines = [f"Fetches the wheels of the stack {plan.stack} into {folder}; installs nothing", *_choice(plan)]
    lines += _wrapped("python", (f"wheels for Python {_minor(plan)} on {platform.machine()}",))
    lines += _wrapped("size", (_to_download(plan).rstrip(", ") or "nothing to download",))
    for line in fetch_lines(plan):
        lines += _fill(line, "  ")
    return "\n".join(lines)


def describe_downloaded(plan: Plan, folder: Path) -> str:
    """What to type on the machine that has no network, after `--download`."""
    archs = [f"--arch {gfx}" for gfx in plan.targets]
    words = ["fa-doctor install --stack", plan.stack, *archs, "--offline --wheels", shlex.quote(folder.name)]
    return (
        f"{len(plan.downloads)} files are in {folder}. Take the folder to the machine without a network; there, with "
        f"a Python {_minor(plan)}:\n  {' '.join(words)}"
    )


def _choice(plan: Plan) -> list[str]:
    rejected = tuple(f"{name}: {why}" for name, why in plan.rejected)
    return [*_wrapped("why", plan.reasons), *_wrapped("rejected", rejected), *_wrapped("note", plan.notes)]


def _to_download(plan: Plan) -> str:
    size = plan.download_bytes
    if size is None:
        return "download size not stated by the index, "
    return f"{size / 1e6:.0f} MB to download, " if size else ""


def _minor(plan: Plan) -> str:
    return ".".join(plan.python_version.split(".")[:2])


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
    lines += _wrapped("compiled", tuple(map(_compiled, outcome.compiled)))
    if outcome.previous:
        kept = f"the environment as it was is kept at {outcome.previous}"
        lines += _wrapped("kept", (f"{kept}; --rollback puts it back, deleting that folder frees its room",))
    return "\n".join([*lines, "", *next_steps(plan.environment, bool(plan.variables))])


def _compiled(compiled: Compiled) -> str:
    text = f"{compiled.kernels} kernels for {compiled.target}"
    if not compiled.problems:
        return text
    return f"{text}; {len(compiled.problems)} do not compile, such as: {compiled.problems[0].strip().splitlines()[-1]}"


def describe_failure(plan: Plan, transaction: Transaction, why: str, *, interrupted: bool = False) -> str:
    """What was done, what was undone, and what to type next, after a failure or an interrupt."""
    at = f" at the step {transaction.at.title!r}" if transaction.at else ""
    lines = [f"Not installed{at}: {why}", ""]
    lines += _wrapped("done", tuple(transaction.done))
    state = f"{plan.environment} is as it was" if plan.exists else f"{plan.environment} was not made"
    lines += _wrapped("undone", (f"everything: {state}",))
    wheels = plan.paths.wheels
    again = "the same command again" if interrupted else "the same command again, once the cause is gone"
    if wheels.is_dir() and any(wheels.iterdir()):
        lines += _wrapped("kept", (f"downloads in {wheels}, for the next try; to delete them:",))
        lines.append(f"  rm -r {shlex.quote(str(wheels))}")
    return "\n".join([*lines, "", f"Next: {again}."])


def next_steps(environment: Path, has_variables: bool) -> list[str]:
    """The commands to type after an install."""
    program = _program()
    lines = ["Next:"]
    if (environment / "conda-meta").is_dir():
        lines.append(f"  conda activate {shlex.quote(str(environment))}")
    elif os.environ.get("VIRTUAL_ENV") != str(environment):
        lines.append(f"  source {shlex.quote(str(environment / 'bin' / 'activate'))}")
    if has_variables:
        lines.append(f'  eval "$({program} env)"')
    return [*lines, f"  {program} check"]


def _program() -> str:
    """How fa-doctor is called once another environment is active: by its name, unless it is found in one that
    activating takes off PATH, or not at all."""
    own = os.environ.get("VIRTUAL_ENV")
    found = shutil.which("fa-doctor")
    if found and not (own and Path(found).is_relative_to(own)):
        return "fa-doctor"
    called = os.path.abspath(sys.argv[0])
    if os.access(called, os.X_OK) and Path(called).name.startswith("fa-doctor"):
        return shlex.quote(called)
    return f"{shlex.quote(sys.executable)} -m fa_doctor"


def _fill(text: str, indent: str) -> list[str]:
    """At 80 columns; names and paths are never broken, so that they can be copied."""
    inner = " " * (len(text) - len(text.lstrip()))
    return textwrap.wrap(
        text.strip(),
        WIDTH,
        initial_indent=indent + inner,
        subsequent_indent=f"{indent}{inner}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _wrapped(label: str, texts: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    for text in texts:
        lines += textwrap.wrap(
            text,
            WIDTH,
            initial_indent=" " * 13 if lines else f"  {label + ':':<10} ",
            subsequent_indent=" " * 13,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines
