"""Carries the action of a fix out. What takes it back is in the journal before anything is changed."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from fa_doctor.diagnosis.actions import MakeFolder, ReplacePackages, SetVariable
from fa_doctor.environment_file import Variable
from fa_doctor.fixing.candidates import Candidate
from fa_doctor.fixing.errors import FixFailed
from fa_doctor.fixing.history import Entry, History
from fa_doctor.fixing.look import Look
from fa_doctor.fixing.packages import apply_packages
from fa_doctor.fixing.places import ChangePaths, paths_of
from fa_doctor.fixing.variables import apply_variable, folder_plan, make_folders, variable_plan
from fa_doctor.installer.connection import connection_variables
from fa_doctor.installer.package_tool import find_tool
from fa_doctor.installer.sources import Sources, configured_sources, mirrored
from fa_doctor.installer.target import inspect_python

__all__ = ["PackageOptions", "carry_out"]


@dataclass(frozen=True, slots=True)
class PackageOptions:
    """How packages are installed: "uv" or "pip" (None: uv where it is there), and mirrors of PyTorch's and AMD's index."""

    environ: Mapping[str, str]
    installer: str | None = None
    pytorch_mirror: str | None = None
    amd_mirror: str | None = None

    def mirror(self, index: str) -> str:
        """Where an index is to be reached."""
        return mirrored(index, self.pytorch_mirror, self.amd_mirror)


def carry_out(
    candidate: Candidate, look: Look, history: History, number: int, options: PackageOptions
) -> tuple[Entry, tuple[str, ...]]:
    """Applies the fix as `number`; returns its entry of the journal and what changed, one line each.

    Whatever is raised, `take_back` of the entry restores what was there, however far this came.
    """
    fix, finding = candidate.fix, candidate.finding
    action = fix.action
    reason = f"{finding.id} {finding.verdict.title}"
    if isinstance(action, SetVariable):
        wanted = None if action.value is None else Variable(action.value, reason)
        plan = variable_plan(look.file, action.name, wanted)
        entry = history.begin(number, finding.id, fix.title, "variable", {"variable": plan})
        apply_variable(plan)
        changes: tuple[str, ...] = candidate.changes
    elif isinstance(action, MakeFolder):
        folder = folder_plan(action.path)
        details = {"folder": folder}
        if action.variable:
            details["variable"] = variable_plan(look.file, action.variable, Variable(action.path, reason))
        entry = history.begin(number, finding.id, fix.title, "folder", details)
        make_folders(folder)
        if action.variable:
            apply_variable(details["variable"])
        changes = candidate.changes
    elif isinstance(action, ReplacePackages):
        environment = paths_of(look.machine.python).environment
        python = inspect_python(str(environment / "bin" / "python"))
        pythons = (python.executable, *python.with_pip)
        environ = {**options.environ, **connection_variables(pythons, options.environ)}
        tool = find_tool(environ, python.with_pip, options.installer)
        sources = Sources(None)
        if action.install:  # from the fix's own index alone, else from what pip is configured with
            sources = Sources(options.mirror(action.index)) if action.index else configured_sources(pythons, environ)
        identity = uuid.uuid4().hex
        details = {"packages": {"environment": str(environment), "identity": identity}}
        entry = history.begin(number, finding.id, fix.title, "packages", details)
        changes = apply_packages(ChangePaths(environment, number), action, identity, tool, sources)
    else:
        raise FixFailed("this fix cannot be applied by fa-doctor")
    history.note("applied", entry, changes=list(changes))
    return entry, changes
