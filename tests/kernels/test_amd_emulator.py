"""The kernels' machine code for AMD GPUs, executed on this CPU: a few cases of benchmarks/emulator_matrix.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
pytest.importorskip("tinygrad")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "emulator_matrix.py"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("arch", "cases", "arguments"),
    [
        ("gfx90a", ["window"], ["--order", "3", "--forward-only"]),
        ("gfx942", ["causal", "decode"], ["--order", "1"]),
        ("gfx950", ["softcap"], ["--order", "reverse", "--forward-only"]),
        ("gfx1100", ["dropout"], ["--order", "2"]),
        ("gfx1201", ["causal"], ["--order", "reverse", "--forward-only"]),
    ],
)
def test_machine_code(shared: Path, arch: str, cases: list[str], arguments: list[str]) -> None:
    emulator = shared / "emulator"
    if not emulator.is_dir():
        pytest.skip(f"no emulator at {emulator}")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--emulator", str(emulator), "--arch", arch, *arguments, "--case", *cases],
        env=environment, capture_output=True, text=True, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
