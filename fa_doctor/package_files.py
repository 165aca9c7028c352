"""Where fa-doctor's own files lie: in folders, or in the one zip file that it runs from. Nothing is imported to find them.

The kernels and the probe's programs import torch when they are imported. The doctor's own Python may have none, or one that
hangs; importlib.resources.files("fa_doctor.kernels") would import it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from fa_doctor.errors import Undecided

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable
else:
    from importlib.abc import Traversable

__all__ = ["on_disk", "package_files"]


def package_files(package: str) -> Traversable:
    """The folder of a package below fa_doctor. Raises Undecided if this fa-doctor was installed without it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Undecided(f"this fa-doctor was installed without {package}: install it again")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return folder if folder.is_dir() else resources.files("fa_doctor").joinpath(*package.split(".")[1:])


@contextlib.contextmanager
def on_disk(folder: Traversable) -> Iterator[Path]:
    """The folder where another process can import it: itself, or a copy for as long as the with block lasts.

    (importlib.resources.as_file unpacks folders only from Python 3.12 on.)
    """
    if isinstance(folder, Path):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="fa-doctor-") as place:
        copy = Path(place) / folder.name
        _unpack(folder, copy)
        yield copy


def _unpack(source: Traversable, target: Path) -> None:
    target.mkdir()
    for entry in source.iterdir():
        if entry.is_dir():
            _unpack(entry, target / entry.name)
        else:
            (target / entry.name).write_bytes(entry.read_bytes())
