"""The kernels run in Triton's interpreter here. Triton reads the variable when it is imported, so it is set before.

A test that needs another mode (a real compiler, the emulator) starts a process of its own.
"""

import os

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def _kernels_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No leftover choice of another test."""
    monkeypatch.delenv("FA_DOCTOR_KERNELS", raising=False)
