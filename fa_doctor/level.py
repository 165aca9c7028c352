"""How deep a look at a machine goes."""

from __future__ import annotations

from enum import Enum

__all__ = ["Level"]


class Level(Enum):
    """How deep to look, and the seconds within which that promises to end."""

    QUICK = 1  # reads files, runs nothing that loads a GPU library
    STANDARD = 60  # also imports torch and Triton in a child and runs the smoke test
    FULL = 600  # also the speed probe

    @property
    def depth(self) -> int:
        return self.value
