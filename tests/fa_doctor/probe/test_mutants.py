"""A wrong kernel is caught: the smoke test passes the kernels as they are and rejects every mutant of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from mutants import KERNELS, MUTANTS  # noqa: E402 - the program beside this file, not a package


def test_every_mutant_changes_the_kernels() -> None:
    """A mutant whose text is gone would test nothing."""
    gone = [name for name, (file, text, _) in MUTANTS.items() if text not in (KERNELS / file).read_text()]
    assert gone == []


@pytest.mark.timeout(280)
def test_the_smoke_test_rejects_every_mutant_and_nothing_else() -> None:
    pytest.importorskip("triton")
    names = ["", *MUTANTS]
    halves = [names[0::2], names[1::2]]
    env = {**os.environ, "TRITON_INTERPRET": "1"}

    def run(part: list[str]) -> dict[str, str]:
        argv = [sys.executable, str(HERE / "mutants.py"), *part]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=270, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return found

    with ThreadPoolExecutor(2) as pool:
        found = {name: words for part in pool.map(run, halves) for name, words in part.items()}
    assert found.pop("") == "", "the kernels as they are were rejected"
    missed = [name for name, words in found.items() if not words]
    assert missed == []
    assert len(found) >= 12
