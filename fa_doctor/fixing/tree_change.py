"""What a fix changed in an environment, file by file; and the way back for these files alone.

Only the files that a fix took out or replaced are kept, not the whole environment as it was. So several fixes can be
taken back one after the other, and what the user did to other files in the meantime stays.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fa_doctor.fixing.errors import Conflict
from fa_doctor.installer.journal import sync_folder
from fa_doctor.installer.tree import Entry, link_or_copy, manifest, remove

__all__ = ["TreeChange", "compare", "forget_bytecode", "load", "reverse", "save_aside", "write"]

SCHEMA = "fa-doctor/tree-change/1"


@dataclass(frozen=True, slots=True)
class TreeChange:
    """The paths (below the environment) that differ: as they were, and as they became; None: not there."""

    before: dict[str, Entry | None]
    after: dict[str, Entry | None]


def compare(old: dict[str, Entry], new: dict[str, Entry]) -> TreeChange:
    """The difference of two trees."""
    paths = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
    return TreeChange({path: old.get(path) for path in paths}, {path: new.get(path) for path in paths})


def write(change: TreeChange, path: Path) -> None:
    """Writes the list; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {
        name: [entry and asdict(entry) for entry in (change.before[name], change.after[name])] for name in change.before
    }
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "w", encoding="utf-8", errors="surrogateescape") as stream:
        json.dump({"schema": SCHEMA, "paths": rows}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def load(path: Path) -> TreeChange:
    """Reads the list; raises Conflict where it is gone or damaged."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))["paths"]
        pairs = {name: [Entry(**entry) if entry else None for entry in pair] for name, pair in rows.items()}
        return TreeChange(
            {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise Conflict(f"the list of what was changed cannot be read ({path}: {error}): nothing was touched") from error


def save_aside(change: TreeChange, previous: Path, saved: Path) -> None:
    """Keeps of the environment as it was what the fix took out or replaced, and deletes the rest of that copy.

    May be cut off and called again.
    """
    if not previous.exists():
        return
    for name, entry in change.before.items():
        if entry is None or entry.kind != "file" or not (previous / name).exists():
            continue
        (saved / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(previous / name, saved / name)
    remove(previous.parent)


def reverse(change: TreeChange, saved: Path, tree: Path) -> None:
    """Makes the changed paths of `tree` (a copy of the environment) what they were before.

    Raises Conflict, before anything is touched, where one of them is no longer as the fix left it.
    """
    now = manifest(tree)
    odd = [name for name, entry in change.after.items() if entry != now.get(name)]
    if odd:
        raise Conflict(
            f"{len(odd)} of the files that the fix changed were changed again since (such as {odd[0]}): "
            "they are left as they are"
        )
    gone = [
        name for name, entry in change.before.items() if entry and entry.kind == "file" and not (saved / name).exists()
    ]
    if gone:
        raise Conflict(f"what the fix took out is no longer in {saved} (such as {gone[0]}): nothing was touched")
    for name in sorted(change.before, key=lambda path: path.count("/"), reverse=True):
        _clear(tree / name, change.before[name], change.after[name])
    for name in sorted(change.before, key=lambda path: path.count("/")):
        entry = change.before[name]
        if entry is not None:
            _restore(tree / name, saved / name, entry)
    forget_bytecode(change, tree)


def forget_bytecode(change: TreeChange, tree: Path) -> None:
    """Deletes the compiled form of every changed module: Python compares times and sizes only, which may agree."""
    for name in change.before:
        if not name.endswith(".py"):
            continue
        folder, _, module = name.rpartition("/")
        cache = tree / folder / "__pycache__"
        if cache.is_dir():
            for compiled in cache.glob(f"{module.removesuffix('.py')}.*.pyc"):
                compiled.unlink()


def _clear(path: Path, before: Entry | None, after: Entry | None) -> None:
    """Takes away what the fix put there, and what stands in the way of what was there."""
    if after is None:
        return
    if after.kind != "folder":
        path.unlink(missing_ok=True)
    elif before is None or before.kind != "folder":
        remove(path / "__pycache__")
        with suppress(OSError):  # something else was put into it since: it stays
            path.rmdir()


def _restore(path: Path, saved: Path, entry: Entry) -> None:
    if entry.kind == "folder":
        path.mkdir(exist_ok=True)
        os.chmod(path, entry.mode)
    elif entry.kind == "link":
        os.symlink(entry.link or "", path)
    elif entry.kind == "file":
        path.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(saved, path)
