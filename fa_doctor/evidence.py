"""Where a fact came from."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Evidence"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that was read: `source` is a path, a command line or a variable's name, `text` what it said."""

    source: str
    text: str
