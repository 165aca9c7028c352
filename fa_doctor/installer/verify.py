"""Whether an environment does what it was made for, asked of its own Python in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fa_doctor.installer.children import clean_environment, run_child
from fa_doctor.installer.errors import InstallFailed
from fa_doctor.installer.plan import Plan

__all__ = ["Verdict", "verify"]

DEADLINE_S = 300.0
PROGRAM = "verify_program.py"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ok` with what was found to work (`passed`), or the first thing that was not right (`problem`)."""

    ok: bool
    passed: tuple[str, ...] = ()
    problem: str | None = None


def verify(plan: Plan, python: Path, environ: Mapping[str, str]) -> Verdict:
    """Imports what was installed, compares versions, and runs attention against a reference where it is there."""
    wanted = {
        "torch": plan.torch,
        "build": "rocm" if plan.hip else "cpu" if plan.stack == "cpu" else "any",
        "attention": plan.attention,
        "packages": {package.name: package.version for package in (*plan.packages, *plan.kept)},
    }
    variables = {name: variable.value for name, variable in plan.variables.items()}
    child = clean_environment(environ, **variables, FA_DOCTOR_VERIFY=json.dumps(wanted))
    try:
        # As text, not as a file: fa-doctor may run from a zip file.
        program = (resources.files("fa_doctor.installer") / PROGRAM).read_text(encoding="utf-8")
        outcome = run_child([python, "-I", "-B", "-c", program], environ=child, deadline_s=DEADLINE_S)
    except InstallFailed as error:
        return Verdict(False, problem=str(error))
    said = [line for line in outcome.output.splitlines() if line.startswith("{")]
    passed: list[str] = []
    for line in said:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if "problem" in row:
            return Verdict(False, tuple(passed), str(row["problem"]))
        if "passed" in row:
            passed.append(str(row["passed"]))
        if row.get("end"):
            return Verdict(True, tuple(passed))
    how = f"killed by signal {-outcome.returncode}" if outcome.returncode < 0 else f"ended with {outcome.returncode}"
    tail = outcome.output.strip()[-1500:]
    return Verdict(False, tuple(passed), f"the verification {how} before it was through: {tail or 'no output'}")
