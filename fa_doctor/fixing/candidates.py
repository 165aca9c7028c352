"""Which fixes of the findings can be applied here, what each would change, and why the others cannot be."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fa_doctor.diagnosis.actions import Action, MakeFolder, ReplacePackages, SetVariable
from fa_doctor.diagnosis.model import Finding, Fix, Safety
from fa_doctor.fixing.look import Look
from fa_doctor.fixing.places import is_changeable, paths_of

__all__ = ["Candidate", "candidates", "changes_of", "obstacle"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One fix of one finding. `obstacle` is why it cannot be applied by fa-doctor, else None; `changes` what it does."""

    finding: Finding
    fix: Fix
    obstacle: str | None
    changes: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, Action | None]:
        """What makes two candidates the same, from one look to the next."""
        return self.finding.id, self.fix.action


def candidates(
    look: Look,
    wanted: frozenset[str] | None,
    unsafe: bool,
    environ: Mapping[str, str],
    mirror: Callable[[str], str] = lambda index: index,
) -> list[Candidate]:
    """Every fix of what fails or warns, failures first. `wanted` are the ids that the user named (None: all); with
    `unsafe` their unsafe fixes count too. `environ` is what fa-doctor itself was started with; `mirror` says where an
    index is to be reached."""
    found = []
    for finding in look.troubled:
        if wanted is not None and finding.id not in wanted:
            continue
        for fix in finding.verdict.fixes:
            problem = obstacle(fix, look, unsafe and wanted is not None, environ)
            found.append(Candidate(finding, fix, problem, () if problem else changes_of(fix, look, mirror)))
    return found


def obstacle(fix: Fix, look: Look, unsafe: bool, environ: Mapping[str, str]) -> str | None:
    """Why fa-doctor does not apply a fix here, in one sentence; None if it can."""
    action = fix.action
    if action is None:
        return "only you can do this" if fix.needs is None else f"only you can do this: {_NEEDS[fix.needs.value]}"
    if fix.safety is Safety.DISPLAY:
        return "only you can decide this"
    if fix.safety is Safety.UNSAFE and not unsafe:
        return "it changes what other programs may rest on: name its id and say --unsafe to have it applied"
    if isinstance(action, SetVariable):
        return _variable_obstacle(action, fix.safety, look, environ)
    if isinstance(action, MakeFolder):
        return _unwritable((look.file.path, _state(look)) if action.variable else (_state(look),))
    if not is_changeable(look.machine.python):
        return "this Python is no virtual or conda environment of its own, and fa-doctor changes no other"
    environment = paths_of(look.machine.python).environment
    if not os.access(environment, os.W_OK):
        return f"{environment} cannot be written by this user"
    return _unwritable((environment, _state(look)))


_NEEDS = {
    "root": "it needs root, and fa-doctor never acts as root for you",
    "restart": "what runs has to be started anew",
    "reboot": "the machine has to be started anew",
}


def _variable_obstacle(action: SetVariable, safety: Safety, look: Look, environ: Mapping[str, str]) -> str | None:
    kept, inherited = look.kept.get(action.name), environ.get(action.name)
    if action.value is None and kept is None:
        return (
            f"{action.name} comes from the shell or job that started fa-doctor, and only there it can be unset "
            "(look for it in ~/.bashrc, the job script, or ENV lines of the image)"
        )
    if action.value is not None and kept is not None and kept.value == action.value:
        return f"{look.file.path} sets it already"
    if safety is not Safety.SAFE and inherited not in (None, action.value, kept.value if kept else None):
        return f"{action.name} is set in this shell, which goes before the environment file: change it there"
    return _unwritable((look.file.path, _state(look)))


def _unwritable(paths: Iterable[Path]) -> str | None:
    """The first folder of these paths that this user cannot write, in words."""
    for path in paths:
        folder = path.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not os.access(folder, os.W_OK):
            return f"{folder} cannot be written by this user"
    return None


def _state(look: Look) -> Path:
    return paths_of(look.machine.python).state / "fixes.jsonl"


def changes_of(fix: Fix, look: Look, mirror: Callable[[str], str]) -> tuple[str, ...]:
    """Exactly what applying it changes, one line each."""
    action = fix.action
    if isinstance(action, SetVariable):
        return (_variable_line(action.name, action.value, look),)
    if isinstance(action, MakeFolder):
        lines = [f"makes {action.path}, for this user alone"] if not os.path.isdir(action.path) else []
        if action.variable:
            lines.append(_variable_line(action.variable, action.path, look))
        return tuple(lines)
    if not isinstance(action, ReplacePackages):
        return ()
    versions = {one.name: one.version for one in look.machine.python.distributions or ()}
    environment = paths_of(look.machine.python).environment
    gone = [f"{name} {versions[name]}" for name in action.remove if name in versions]
    lines = [f"takes out {', '.join(gone)}"] if gone else []
    if action.install:
        where = f"from {mirror(action.index)} alone" if action.index else "from the index that pip is configured with"
        lines.append(f"installs {', '.join(action.install)} and what it requires, {where}")
    lines.append(f"in {environment}: in a copy beside it, which then takes its place in one step")
    return tuple(lines)


def _variable_line(name: str, value: str | None, look: Look) -> str:
    kept = look.kept.get(name)
    before = f" (there it is {shlex.quote(kept.value)} now)" if kept else ""
    if value is None:
        return f"takes {name} out of {look.file.path}{before}"
    return f"sets {name}={shlex.quote(value)} in {look.file.path}{before}"
