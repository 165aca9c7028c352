"""Which variables this machine needs: those of the environment file, and those that a finding proves to be missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fa_doctor.diagnosis.actions import MakeFolder, SetVariable
from fa_doctor.diagnosis.model import Finding, Safety, Status
from fa_doctor.environment_file import Variable

__all__ = ["needed_variables"]


def needed_variables(
    kept: Mapping[str, Variable], findings: Iterable[Finding], environ: Mapping[str, str]
) -> dict[str, Variable]:
    """The variables that are not yet as this machine needs them, by name.

    `kept` is what the environment file holds. A failing or warning finding adds those variables that one of its safe
    fixes sets; what a person set on purpose (a variable of the environment file that has another value in `environ`)
    is left alone. What already has its value is left out, so that evaluating the result twice changes nothing.
    """
    needed = {name: variable for name, variable in kept.items() if name not in environ}
    for finding in findings:
        if finding.ignored is not None or finding.status not in (Status.FAIL, Status.WARN):
            continue
        for fix in finding.verdict.fixes:
            action = fix.action
            if isinstance(action, SetVariable) and action.value is not None and fix.safety is Safety.SAFE:
                needed.setdefault(action.name, Variable(action.value, f"{finding.id} {finding.verdict.title}"))
            elif isinstance(action, MakeFolder) and action.variable and fix.safety is Safety.SAFE:
                # `fa-doctor fix` has made the folder; what is inherited names one that does not do.
                known = kept.get(action.variable)
                if known is not None and known.value == action.path:
                    needed.setdefault(action.variable, known)
    return {name: needed[name] for name in sorted(needed) if environ.get(name) != needed[name].value}
