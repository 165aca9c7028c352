"""Reads the TOML tables beside this file: each is parsed at most once in a process, and only when it is asked for.

They are read through the package's own loader, so that they are found in a zip file too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["load", "names_below", "read", "sources_of", "text_of"]


@cache
def load(name: str) -> Mapping[str, Any]:
    """The parsed content of `name`.toml ("gpus", "failures/build"). Raises OSError for one that is not of the package."""
    return tomllib.loads(text_of(name))


def text_of(name: str) -> str:
    """The text of `name`.toml, for who needs less than parsing gives."""
    path = os.path.join(os.path.dirname(__file__), f"{name}.toml")
    data: bytes = __spec__.loader.get_data(path)  # type: ignore[union-attr]
    return data.decode()


def names_below(folder: str) -> tuple[str, ...]:
    """The sorted names, as `load` takes them, of the tables in a folder beside this file."""
    from importlib import resources

    entries = resources.files("fa_doctor.knowledge").joinpath(folder).iterdir()
    return tuple(
        sorted(f"{folder}/{entry.name.removesuffix('.toml')}" for entry in entries if entry.name.endswith(".toml"))
    )


def read(path: Path) -> Mapping[str, Any]:
    """The parsed content of any TOML file of ours. Raises OSError, or tomllib.TOMLDecodeError for a damaged one."""
    with path.open("rb") as file:
        return tomllib.load(file)


def sources_of(table: Mapping[str, Any], keys: Iterable[str]) -> tuple[str, ...]:
    """The full text of the sources that a row names by their short keys."""
    known: Mapping[str, str] = table["sources"]
    return tuple(known[key] for key in keys)
