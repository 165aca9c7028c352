"""A machine of which somebody kept a few files and nothing else."""

from __future__ import annotations

from pathlib import Path

from fa_doctor.diagnosis.gather import gather
from fa_doctor.facts.machine import Machine
from fa_doctor.host import RecordedHost
from fa_doctor.level import Level

__all__ = ["kept"]


def kept(folder: Path, outputs: dict[str, str] | None = None, files: dict[str, str] | None = None) -> Machine:
    """The facts of a machine of which only these outputs and files were recorded."""
    for below, contents in (("outputs", outputs or {}), ("sysroot", files or {})):
        for name, text in contents.items():
            path = folder / below / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    machine = gather(RecordedHost(folder), level=Level.QUICK)
    assert machine.faults == ()
    return machine
