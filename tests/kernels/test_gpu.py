"""The kernels on this machine's GPU: pytest -m gpu tests/kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.gpu
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("group", ["features", "dimensions", "float32", "lengths", "packed", "large"])
def test_on_the_gpu(group: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU is visible to PyTorch")
    if group == "large" and torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GiB of GPU memory")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}  # this folder's tests set it
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("gpu_cases.py")), group],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines
    assert not [line for line in lines if not line.startswith("ok ")]
