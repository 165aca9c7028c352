"""What the shipped configurations cost on AMD targets; benchmarks/amd_resources.py has all targets, and the peer's figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from fa_doctor.kernels.assembly import target_limits

KERNELS = Path(__file__).resolve().parents[2] / "kernels"

# Occupancy of flash-attn 2.8.3's AMD kernels compiled with Triton 3.7.1 (fp16, not causal): forward, backward.
PEER = {("gfx942", 128): (2, 1), ("gfx1100", 128): (5, 4), ("gfx1201", 64): (8, 5)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("arch", "head_dim"), list(PEER))
def test_no_spills_no_scratch_and_matrix_instructions_in_every_loop(arch: str, head_dim: int, tmp_path: Path) -> None:
    request = {
        "arch": arch,
        "head_dims": [head_dim],
        "dtypes": ["fp16"],
        "passes": ["forward", "backward"],
        "features": [],
    }
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(KERNELS), "compile", json.dumps(request)],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = []
    for line in done.stdout.splitlines():
        message = json.loads(line)
        rows += message["rows"] if message["event"] == "rows" else []
    assert {row["kernel"] for row in rows} == {"forward_kernel", "delta_kernel", "dkdv_kernel", "dq_kernel"}
    limits = target_limits(arch)
    assert limits is not None
    forward, backward = PEER[arch, head_dim]
    for row in rows:
        assert row["error"] is None
        assert (row["vgpr_spills"], row["scratch_bytes"]) == (0, 0), row
        assert row["lds_bytes"] <= limits.workgroup_lds
        if row["kernel"] != "delta_kernel":
            assert row["inner_loops"]
            assert all(loop["counts"].get("matrix", 0) > 0 for loop in row["inner_loops"]), row["kernel"]
            assert row["mfma" if limits.matrix == "mfma" else "wmma"] > 0
            assert row["occupancy"] >= (forward if row["pass"] == "forward" else backward), row
