"""`fa-doctor tune`: without a GPU it says so, and what it was asked wrongly; the search itself is in test_tuning.py."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from fa_doctor.cli import run

pytest.importorskip("torch")


def test_without_a_gpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")
    assert run(["tune", "--python", sys.executable, "--seqlen", "128"]) == 3
    assert "sees no GPU; its torch is" in capsys.readouterr().err


def test_heads_that_do_not_divide(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", "--heads", "8", "--kv-heads", "3"]) == 2
    assert "8 query heads cannot share 3" in capsys.readouterr().err


def write_python(path: Path, *messages: dict[str, object], status: int = 0) -> str:
    """An executable in place of the target Python that says what a tuning process would say."""
    lines = "\n".join(f"print({json.dumps(json.dumps(m))})" for m in messages)
    path.write_text(f"#!{sys.executable}\nimport sys\n{lines}\nsys.stdout.flush()\nsys.exit({status})\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


PLAN = {"event": "plan", "device": "a GPU", "target": "gfx942", "triton": "3.2.0", "store": "/store.json"}


def candidate(number: int, outcome: float | str) -> dict[str, object]:
    config = {"block_m": 64 * (number + 1), "block_n": 64, "num_warps": 4, "num_stages": 1}
    return {"event": "candidate", "kind": "forward", "number": number, "count": 3, "config": config, "outcome": outcome}


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = write_python(
        tmp_path / "python", PLAN, {"event": "begin", "number": 0}, candidate(0, 2.0), candidate(1, "OutOfResources: LDS"),
        candidate(2, 1.0), {"event": "done", "number": 0},
    )  # fmt: skip
    arguments = ["tune", "--python", python, "--causal", "--forward-only", "--seqlen", "512"]
    assert run(arguments) == 0
    shown = capsys.readouterr()
    assert "192x64, 4 warps, 1 stages: 1.000 ms (2.00x the shipped one's speed)" in shown.out
    assert "forward 2/3: 128x64, 4 warps: OutOfResources: LDS" in shown.err
    assert run([*arguments, "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "fa-doctor/tune/1"
    (shape,) = report["shapes"]
    assert (shape["seqlen_q"], shape["causal"], shape["backward"]) == (512, True, False)
    assert shape["found"]["forward"]["config"]["block_m"] == 192


def test_a_process_that_dies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = write_python(tmp_path / "python", PLAN, {"event": "begin", "number": 0}, candidate(0, 2.0), status=1)
    assert run(["tune", "--python", python, "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert "ended with status 1" in report["shapes"][0]["error"]
    assert run(["tune", "--python", write_python(tmp_path / "other", status=1)]) == 3
