"""What was recorded of this machine, replayed, gives the same facts of the Python world."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from fa_doctor.diagnosis.gather import gather
from fa_doctor.host import LiveHost, RecordedHost
from fa_doctor.host.recorder import RecordingHost
from fa_doctor.level import Level

FIELDS = (
    "python",
    "torch",
    "triton",
    "flash_attention",
    "aiter",
    "companions",
    "system",
    "container",
    "variables",
    "resources",
)


@pytest.mark.parametrize("python", [sys.executable, None, "/no/such/python"], ids=["this", "default", "missing"])
def test_a_recording_gives_the_same_facts(python: str | None, tmp_path: Path) -> None:
    recorder = RecordingHost(LiveHost())
    live = gather(recorder, level=Level.QUICK, python=python)
    recorder.write(tmp_path / "machine")
    replayed = gather(RecordedHost(tmp_path / "machine"), level=Level.QUICK, python=python)
    assert replayed.faults == live.faults == ()
    for name in FIELDS:
        theirs, ours = getattr(replayed, name), getattr(live, name)
        if dataclasses.is_dataclass(ours) and not isinstance(ours, type):
            for field in dataclasses.fields(ours):
                assert (name, field.name, getattr(theirs, field.name)) == (name, field.name, getattr(ours, field.name))
        assert theirs == ours
