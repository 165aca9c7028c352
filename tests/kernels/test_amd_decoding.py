"""Decoding, rotary embedding and 8-bit attention as machine code for AMD GPUs, executed on this CPU.

The cases and the judge are those of test_kvcache.py and test_quantized.py; only where the kernels run is another.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
pytest.importorskip("tinygrad")

HERE = Path(__file__).resolve().parent

# A process of its own: Triton must be imported without its interpreter, and told of the emulated GPU.
SCRIPT = """
import importlib.util, sys
emulator, arch, order, module, *names = sys.argv[1:]
sys.path.insert(0, emulator)
import triton_driver
driver = triton_driver.install(arch, workers=1, poison=True, order=order if order == "reverse" else int(order))
spec = importlib.util.spec_from_file_location("cases", module)
cases = importlib.util.module_from_spec(spec)
sys.modules["cases"] = cases
spec.loader.exec_module(cases)
for name in names:
    cases.EMULATED[name]()
assert driver.log, "nothing ran on the emulator"
print(sorted({run["kernel"] for run in driver.log}))
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("arch", "order", "module", "names", "kernels"),
    [
        ("gfx942", "1", "test_kvcache.py", ["everything", "paged-24"], "append combine decode rotary"),
        ("gfx942", "2", "test_quantized.py", ["float8_e4m3fnuz"], "quantized"),
        pytest.param(
            "gfx1100",
            "reverse",
            "test_kvcache.py",
            ["rotary-halves", "splits-window", "everything"],
            "append combine decode rotary",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "gfx1100", "3", "test_quantized.py", ["float8_e4m3fn", "int8"], "quantized", marks=pytest.mark.slow
        ),
        ("gfx1100", "reverse", "test_kvcache.py", ["rotary-halves"], "append decode rotary"),
    ],
)
def test_machine_code(shared: Path, arch: str, order: str, module: str, names: list[str], kernels: str) -> None:
    emulator = shared / "emulator"
    if not emulator.is_dir():
        pytest.skip(f"no emulator at {emulator}")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(emulator), arch, order, str(HERE / module), *names],
        env=environment | {"FA_DOCTOR_KERNELS": "triton"}, capture_output=True, text=True, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"{kernel}_kernel" in done.stdout for kernel in kernels.split())
