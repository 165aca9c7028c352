"""Reads the TOML tables beside this file: each is parsed at most once in a process, and only when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["load", "read", "sources_of"]

FOLDER = Path(__file__).parent


@cache
def load(name: str) -> Mapping[str, Any]:
    """The parsed content of `name`.toml. Raises FileNotFoundError for a table that is not part of the package."""
    return read(FOLDER / f"{name}.toml")


def read(path: Path) -> Mapping[str, Any]:
    """The parsed content of any TOML file of ours. Raises OSError, or tomllib.TOMLDecodeError for a damaged one."""
    with path.open("rb") as file:
        return tomllib.load(file)


def sources_of(table: Mapping[str, Any], keys: Iterable[str]) -> tuple[str, ...]:
    """The full text of the sources that a row names by their short keys."""
    known: Mapping[str, str] = table["sources"]
    return tuple(known[key] for key in keys)
