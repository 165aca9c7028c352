"""The way back for the files that a fix changed, on trees of every shape: files, links and folders that take each other's place."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fa_doctor.fixing import tree_change
from fa_doctor.fixing.errors import Conflict
from fa_doctor.installer.tree import clone, manifest

NAMES = ("a.py", "b", "c.so")
LEAF = st.one_of(st.tuples(st.just("file"), st.binary(max_size=3)), st.tuples(st.just("link"), st.sampled_from(NAMES)))
TREE = st.recursive(
    st.dictionaries(st.sampled_from(NAMES), LEAF, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from(NAMES), st.one_of(LEAF, inner), max_size=3),
    max_leaves=6,
)


def build(tree: dict[str, object], folder: Path) -> None:
    folder.mkdir()
    for name, content in tree.items():
        if isinstance(content, dict):
            build(content, folder / name)
        elif content[0] == "link":  # type: ignore[index]
            (folder / name).symlink_to(content[1])  # type: ignore[index]
        else:
            (folder / name).write_bytes(content[1])  # type: ignore[index]


def contents(folder: Path) -> dict[str, object]:
    """What is in a tree: kinds, permissions, targets, times and bytes."""
    return {
        name: (entry, (folder / name).read_bytes() if entry.kind == "file" else b"")
        for name, entry in manifest(folder).items()
    }


@given(TREE, TREE)
@settings(max_examples=60, deadline=None)
def test_there_and_back(old: dict[str, object], new: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        build(old, place / "old")
        build(new, place / "new")
        before = contents(place / "old")
        change = tree_change.compare(manifest(place / "old"), manifest(place / "new"))
        tree_change.write(change, place / "changes.json")
        assert tree_change.load(place / "changes.json") == change
        (place / "previous").mkdir()
        shutil.move(place / "old", place / "previous" / "env")
        for _ in range(2):  # as after a run that was cut off
            tree_change.save_aside(change, place / "previous" / "env", place / "saved")
        clone(place / "new", place / "stage")
        tree_change.reverse(change, place / "saved", place / "stage")
        assert contents(place / "stage") == before


def test_a_file_that_was_put_there_since_stays(tmp_path: Path) -> None:
    build({}, tmp_path / "old")
    build({"b": {"a.py": ("file", b"new")}}, tmp_path / "new")
    change = tree_change.compare(manifest(tmp_path / "old"), manifest(tmp_path / "new"))
    (tmp_path / "new/b/mine.txt").write_text("mine")
    (tmp_path / "new/b/__pycache__").mkdir()
    (tmp_path / "new/b/__pycache__/a.cpython-312.pyc").write_text("of a.py")
    tree_change.reverse(change, tmp_path / "saved", tmp_path / "new")
    assert set(manifest(tmp_path / "new")) == {"b", "b/mine.txt"}
    assert not (tmp_path / "new/b/__pycache__").exists()


def test_nothing_is_touched_where_it_cannot_be_whole(tmp_path: Path) -> None:
    build({"a.py": ("file", b"old")}, tmp_path / "old")
    build({"a.py": ("file", b"newer")}, tmp_path / "new")
    change = tree_change.compare(manifest(tmp_path / "old"), manifest(tmp_path / "new"))
    with pytest.raises(Conflict, match="no longer in"):
        tree_change.reverse(change, tmp_path / "saved", tmp_path / "new")
    os.utime(tmp_path / "new/a.py", ns=(1, 1))
    with pytest.raises(Conflict, match="changed again since"):
        tree_change.reverse(change, tmp_path / "saved", tmp_path / "new")
    assert (tmp_path / "new/a.py").read_bytes() == b"newer"
