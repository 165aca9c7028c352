"""The machine code for AMD targets, executed on this CPU with poisoned registers, local memory and scratch.

Needs the emulator beside the repository and its instruction tables (tinygrad) and a C++ compiler; skipped without.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("target", "order"),
    [
        ("gfx942", "reverse"),
        ("gfx1100", "7"),
        pytest.param("gfx90a", "reverse", marks=pytest.mark.slow),
        pytest.param("gfx950", "7", marks=pytest.mark.slow),
        pytest.param("gfx1201", "reverse", marks=pytest.mark.slow),
    ],
)
def test_machine_code(shared: Path, target: str, order: str) -> None:
    """Forward and backward give the numbers of the reference, whatever order the waves run in."""
    emulator = shared / "emulator"
    if not emulator.is_dir():
        pytest.skip(f"no emulator at {emulator}")
    if importlib.util.find_spec("tinygrad") is None:
        pytest.skip("tinygrad, whose instruction tables the emulator reads, is not installed")
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler to build the emulator with")
    environment = {**os.environ, "FA_DOCTOR_KERNELS": "triton"}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("emulated.py")), str(emulator), target, order],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    errors = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert len(errors) == 2, done.stdout
    for case, error in errors.items():
        assert float(error) < 3e-3, f"{target}, {case}: relative error {error}"  # float16 has 11 bits
