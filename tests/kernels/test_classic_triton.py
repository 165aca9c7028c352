"""The kernels with Triton 3.2.0, the release of the classic stack, which the other tests do not run with.

Slow, as pip downloads that release (250 MB) into a temporary folder; to be run after a change of a kernel:

    ./bootstrap test -m slow tests/kernels/test_classic_triton.py

3.2.0 compiles some kernels to wrong numbers, without an error, that later releases compile right.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RELEASE = "3.2.0"
# Between them the backward loops take several blocks under a mask, on both sides of the full ones: a single one hides that
# the loop's variable was carried.
CASES = ("causal", "fewer queries", "window", "decode")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def classic() -> Iterator[dict[str, str]]:
    """The environment of a process that imports Triton 3.2.0 and keeps what it compiles for this test only."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target"]
        done = subprocess.run(
            [*command, f"{folder}/packages", f"triton=={RELEASE}"], capture_output=True, text=True, timeout=600
        )
        if done.returncode:
            pytest.skip(f"pip cannot install Triton {RELEASE} here: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        found = [f"{folder}/packages", os.environ.get("PYTHONPATH", "")]
        yield os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, found)), "TRITON_CACHE_DIR": f"{folder}/cache"}


def _linker() -> str | None:
    """ld.lld, which this release calls and does not bring."""
    return os.environ.get("TRITON_HIP_LLD_PATH") or shutil.which("ld.lld") or shutil.which("/opt/rocm/llvm/bin/ld.lld")


def test_machine_code_of_gfx942(shared: Path, request: pytest.FixtureRequest) -> None:
    """Causal and windowed attention with gradients, and decoding, as 3.2.0 compiles them, executed on this CPU."""
    pytest.importorskip("tinygrad")
    emulator = shared / "emulator"
    if not emulator.is_dir():
        pytest.skip(f"no emulator at {emulator}")
    linker = _linker()
    if linker is None:
        pytest.skip(f"Triton {RELEASE} needs ld.lld, which is not here")
    environment = request.getfixturevalue("classic") | {"TRITON_HIP_LLD_PATH": linker}
    environment.pop("TRITON_INTERPRET", None)
    script = ROOT / "benchmarks" / "emulator_matrix.py"
    done = subprocess.run(
        [sys.executable, str(script), "--emulator", str(emulator), "--arch", "gfx942", "--case", *CASES],
        env=environment, capture_output=True, text=True, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"Triton {RELEASE}\n")


def test_interpreter(classic: dict[str, str]) -> None:
    """Its interpreter, with the NumPy that is installed here, takes the same kernels."""
    program = f"""
import pytest, triton
assert triton.__version__ == "{RELEASE}"
raise SystemExit(pytest.main(["-n", "0", "-p", "no:cacheprovider", "tests/kernels/test_forward_backward.py", "-k", "features and origin"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=classic | {"TRITON_INTERPRET": "1"}, cwd=ROOT,
        capture_output=True, text=True, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
