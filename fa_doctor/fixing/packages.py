"""Replaces packages in the target environment: in a copy beside it, which then takes its place in one step.

So there is no moment in which the environment is half changed. What the fix took out is kept, and put back by the same
way; no network is needed for that. The file fa-doctor-fix.json in the environment names the last fix that changed it:
by it a later run knows on which side of the exchange an earlier one was cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from fa_doctor.diagnosis.actions import ReplacePackages
from fa_doctor.fixing import tree_change
from fa_doctor.fixing.errors import Conflict, FixFailed
from fa_doctor.fixing.places import ChangePaths
from fa_doctor.installer import placing
from fa_doctor.installer.destination import existing
from fa_doctor.installer.installed import scan
from fa_doctor.installer.journal import Journal, sync_folder
from fa_doctor.installer.package_tool import PackageTool
from fa_doctor.installer.relocate import relocate
from fa_doctor.installer.sources import Sources
from fa_doctor.installer.tree import clone, differences, flush, manifest, remove

__all__ = ["apply_packages", "installed_versions", "is_in_place", "undo_packages"]

MARKER = "fa-doctor-fix.json"
SCHEMA = "fa-doctor/fix-marker/1"


def apply_packages(
    paths: ChangePaths, action: ReplacePackages, identity: str, tool: PackageTool, sources: Sources
) -> tuple[str, ...]:
    """Replaces the packages; returns what changed, one line a distribution. Whatever is raised before the exchange
    leaves the environment as it was; `undo_packages` cleans up after it."""
    remove(paths.folder)
    paths.stage.parent.mkdir(parents=True)
    environment, stage = paths.environment, paths.stage
    before = manifest(environment)
    versions = installed_versions(environment)
    # uv writes over an existing file in place where its cache lies on another file system; pip removes it first.
    clone(environment, stage, for_moments=tool.kind == "pip" or not action.install)
    python = stage / "bin" / "python"
    tool.uninstall(python, [name for name in action.remove if name in versions])
    if action.install:
        tool.install_from_indexes(python, action.install, sources.indexes, sources.find_links)
    relocate(stage, stage, environment)
    _mark(stage, identity)
    change = tree_change.compare(before, manifest(stage))
    tree_change.forget_bytecode(change, stage)
    tree_change.write(change, paths.changes)
    moved = differences(before, manifest(environment))
    if moved:
        raise FixFailed(
            f"{environment} was changed by something else meanwhile (such as {moved[0]}): left as it is now"
        )
    flush(stage)
    placing.place(paths, Journal(paths.journal), exists=True)
    _settle(paths)
    return (*describe_change(versions, installed_versions(environment)), _kept_line(paths.saved))


def undo_packages(number: int, environment: Path, identity: str) -> str:
    """Takes a change of packages back, however far it or an earlier undo had come; returns what was done.

    Raises Conflict where the environment is no longer as the fix left it.
    """
    applied, back = ChangePaths(environment, number, "apply"), ChangePaths(environment, number, "undo")
    moved_back = [_complete_move_back(paths) for paths in (back, applied)]
    if not is_in_place(environment, identity):
        did = f"{environment} is {'in its place again, ' if any(moved_back) else ''}as it was before"
    else:
        _settle(applied)
        remove(back.state)
        back.stage.parent.mkdir(parents=True)
        change = tree_change.load(applied.changes)
        clone(environment, back.stage, for_moments=True)
        tree_change.reverse(change, applied.saved, back.stage)
        flush(back.stage)
        placing.place(back, Journal(back.journal), exists=True)
        did = f"{environment} has its packages from before again"
    remove(applied.folder)
    return did


def is_in_place(environment: Path, identity: str) -> bool:
    """Whether the environment is the one that this fix made."""
    try:
        return bool(json.loads((environment / MARKER).read_text(encoding="utf-8"))["fix"] == identity)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def installed_versions(environment: Path) -> dict[str, str]:
    """The distributions of an environment with their versions."""
    there = existing(environment)
    if there is None:
        raise FixFailed(f"there is no environment at {environment}")
    return {name: found.version for name, found in scan(there.python.purelib, there.python.platlib).items()}


def describe_change(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """One line a distribution that is new, gone, or of another version."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None:
            lines.append(f"{name} {new} installed")
        elif new is None:
            lines.append(f"{name} {old} removed")
        elif old != new:
            lines.append(f"{name} {old} -> {new}")
    return tuple(lines)


def _kept_line(saved: Path) -> str:
    """Where the files that were taken out lie, and the room that they take: it is the user's disk."""
    size = sum(entry.size for entry in manifest(saved).values()) if saved.exists() else 0
    return f"{max(size / 1e6, 0.1):.1f} MB of files that were taken out are kept for --undo in {saved}"


def _mark(stage: Path, identity: str) -> None:
    partial = stage / f".{MARKER}.partial"
    partial.write_text(json.dumps({"schema": SCHEMA, "fix": identity}) + "\n", encoding="utf-8")
    os.replace(partial, stage / MARKER)


def _settle(paths: ChangePaths) -> None:
    """Completes what follows the exchange; may be cut off and called again."""
    if paths.stage.exists():
        if paths.previous.exists():
            raise Conflict(f"{paths.state} holds two environments: nothing was touched")
        paths.previous.parent.mkdir(parents=True, exist_ok=True)
        os.rename(paths.stage, paths.previous)
    tree_change.save_aside(tree_change.load(paths.changes), paths.previous, paths.saved)
    remove(paths.state)


def _complete_move_back(paths: ChangePaths) -> bool:
    """Where the environment was moved or copied away and the new one had not come yet: puts it back."""
    if not paths.previous.exists():
        return False
    records = Journal(paths.journal).read()
    ways = [record.data.get("way") for record in records if record.event == "placing"]
    placed = any(record.event == "placed" for record in records)
    if paths.environment.exists() and (ways[-1:] != ["copied"] or placed or not paths.stage.exists()):
        return False
    remove(paths.environment)
    os.rename(paths.previous, paths.environment)
    sync_folder(paths.environment.parent)
    return True
