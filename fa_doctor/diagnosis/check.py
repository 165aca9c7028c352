"""A check: a pure function from a Machine to verdicts, with an id, a name, and what it rests on.

    @check("GPU101", "gpu.architecture", rests_on=("GPU001",), causes=("gpu-arch-unsupported",))
    def architecture(machine: Machine) -> Verdicts:
        \"\"\"The installed torch has code for the GPU's gfx target.

        Why it matters: ...
        How to fix: ...
        Sources: ...
        \"\"\"

The docstring is the check's page (`fa-doctor checks GPU101`): first line what holds on a healthy machine, then
paragraphs that begin with "Why it matters:", "How to fix:" and "Sources:". A check reads no file, starts no process
and asks no clock, so that it runs on a recorded machine exactly as on a live one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fa_doctor.diagnosis.model import Verdict
from fa_doctor.level import Level

if TYPE_CHECKING:
    from fa_doctor.facts.machine import Machine

__all__ = ["Check", "Verdicts", "all_checks", "check"]

Verdicts = Verdict | Iterable[Verdict]
CheckFunction = Callable[["Machine"], Verdicts]

_REGISTRY: dict[str, Check] = {}


@dataclass(frozen=True, slots=True)
class Check:
    """`rests_on` names checks whose failure makes this one meaningless: it is then skipped, and says why.

    `causes` are the ids of causes that it can find; `level` the depth from which on its facts are there.
    """

    id: str
    name: str
    run: CheckFunction
    documentation: str
    rests_on: tuple[str, ...]
    causes: tuple[str, ...]
    level: Level

    @property
    def summary(self) -> str:
        return self.documentation.split("\n", 1)[0]


def check(
    id: str,
    name: str,
    *,
    rests_on: tuple[str, ...] = (),
    causes: tuple[str, ...] = (),
    level: Level = Level.QUICK,
) -> Callable[[CheckFunction], CheckFunction]:
    """Registers a function as a check. An id has three letters of the topic and three digits and is never reused."""
    assert re.fullmatch(r"(ROC|LIB|GPU|DRV|TOR|TRI|FAT|CCP|CON|VAR|RES|KER|SPD)\d{3}", id), id
    assert re.fullmatch(r"[a-z_]+\.[a-z0-9_-]+", name), name

    def register(function: CheckFunction) -> CheckFunction:
        assert id not in _REGISTRY, f"two checks have the id {id}"
        documentation = inspect.cleandoc(function.__doc__ or "")
        _REGISTRY[id] = Check(id, name, function, documentation, rests_on, causes, level)
        return function

    return register


def all_checks() -> tuple[Check, ...]:
    """Every check, each after those that it rests on, else in the order of topics from the hardware up."""
    import fa_doctor.checks

    fa_doctor.checks.load_all()
    ordered: dict[str, Check] = {}

    def place(found: Check, path: tuple[str, ...]) -> None:
        assert found.id not in path, f"checks rest on each other in a circle: {path}"
        for needed in found.rests_on:
            place(_REGISTRY[needed], (*path, found.id))
        ordered.setdefault(found.id, found)

    for found in _REGISTRY.values():
        place(found, ())
    return tuple(ordered.values())
