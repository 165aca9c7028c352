"""Ordinary logs that have nothing to do with attention on AMD GPUs get no confident diagnosis."""

from __future__ import annotations

from pathlib import Path

import pytest

from fa_doctor.diagnosis.explain import explain_text

LOGS = sorted((Path(__file__).parent / "ordinary_logs").glob("*.txt"))


def test_there_are_enough_of_them() -> None:
    assert len(LOGS) >= 30


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_is_not_confident(path: Path) -> None:
    found = explain_text(path.read_text())
    assert found.confident is None, (found.confident.failure.id, found.confident.confidence)
