"""A kernel has one key in Triton's cache, whichever kernel a process uses first."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

KEYS = """
import json, sys
import fa_doctor.kernels
from fa_doctor.kernels.append import append_kernel
from fa_doctor.kernels.decode_kernels import decode_kernel
from fa_doctor.kernels.forward import forward_kernel
order = sys.argv[1].split(",")
print(json.dumps({name: globals()[name].cache_key for name in order}, sort_keys=True))
"""
KERNELS = ("forward_kernel", "decode_kernel", "append_kernel")


def test_the_order_of_use_does_not_change_a_key() -> None:
    env = {**os.environ, "TRITON_INTERPRET": "0"}
    asked = [
        subprocess.Popen([sys.executable, "-c", KEYS, ",".join(order)], env=env, stdout=subprocess.PIPE, text=True)
        for order in (KERNELS, KERNELS[::-1])
    ]
    told = [json.loads(process.communicate(timeout=120)[0]) for process in asked]
    assert all(process.returncode == 0 for process in asked)
    assert set(told[0]) == set(KERNELS)
    assert told[0] == told[1]
