"""Fixtures that every test may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How fast a shared machine draws examples says nothing about the code under test.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")

# A shell that starts a command in the background has it ignore Ctrl-C, and so do all its descendants: what the tests start
# shall meet signals as a command on a terminal does. (Handlers are not inherited; "ignore" is.)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("cause_cases", "staged_machine")  # their asserts show what they compared, as a test's do

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded machines, cases and the emulator: beside the repository, or FA_DOCTOR_SHARED."""
    folder = Path(os.environ.get("FA_DOCTOR_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared test data at {folder}")
    return folder
