"""Compiling for a GPU that is not here: the report agrees with the files, and a later call finds the same keys."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fa_doctor.cli import run as run_cli
from fa_doctor.commands.kernels import command as kernels_command

pytest.importorskip("triton")

KERNELS = Path(__file__).resolve().parents[2] / "kernels"


def compile_kernels(cache: Path, *arguments: str, expected: int = 0) -> dict[str, Any]:
    environment = {"TRITON_CACHE_DIR": str(cache), "CUDA_VISIBLE_DEVICES": ""}
    result = CliRunner().invoke(
        kernels_command,
        ["compile", "--format", "json", "--python", sys.executable, *arguments],
        env=environment,
        standalone_mode=False,
    )
    assert result.exception is None, result.exception
    assert result.return_value == expected, result.output
    report = json.loads(result.stdout)
    assert isinstance(report, dict)
    return report


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    cache = tmp_path_factory.mktemp("cache")
    report = compile_kernels(
        cache, "--arch", "gfx942", "--head-dim", "64", "--dtype", "fp16", "--pass", "forward", "--pass", "backward",
        "--feature", "causal",
    )  # fmt: skip
    return cache, report


def test_report_has_a_row_for_each_kernel(compiled: tuple[Path, dict[str, Any]]) -> None:
    _, report = compiled
    assert report["schema"] == "fa-doctor/kernels/1"
    names = [(row["pass"], row["kernel"]) for row in report["kernels"]]
    assert ("forward", "forward_kernel") in names
    assert {kernel for kind, kernel in names if kind == "backward"} >= {"dkdv_kernel", "dq_kernel"}
    for row in report["kernels"]:
        assert row["error"] is None
        assert (row["arch"], row["head_dim"], row["dtype"], row["features"]) == ("gfx942", 64, "fp16", ["causal"])


def test_report_agrees_with_the_assembly_in_the_cache(compiled: tuple[Path, dict[str, Any]]) -> None:
    cache, report = compiled
    texts = {path.parent: path.read_text() for path in cache.glob("*/*.amdgcn")}
    assert {Path(row["files"]) for row in report["kernels"]} == set(texts)
    for row in report["kernels"]:
        text = texts[Path(row["files"])]

        def stated(key: str, text: str = text) -> int:
            found = re.search(rf"\.{key}:\s+(\d+)", text)
            assert found
            return int(found[1])

        assert row["vgprs"] == stated("vgpr_count")
        assert row["agprs"] == stated("agpr_count")
        assert row["sgprs"] == stated("sgpr_count")
        assert row["vgpr_spills"] == stated("vgpr_spill_count")
        assert row["scratch_bytes"] == stated("private_segment_fixed_size")
        assert row["mfma"] == len(re.findall(r"^\s+v_mfma\w+", text, re.MULTILINE))
        assert row["wmma"] == 0
        size = re.search(r"codeLenInByte = (\d+)", text)
        assert size
        assert row["code_bytes"] == int(size[1])
        metadata = json.loads((Path(row["files"]) / f"{row['kernel']}.json").read_text())
        assert row["lds_bytes"] == metadata["shared"]
        assert row["config"]["num_warps"] == metadata["num_warps"]


def test_a_second_process_compiles_nothing(compiled: tuple[Path, dict[str, Any]]) -> None:
    """Other batch, heads and lengths; a package of another name in another place, as the flash_attn wheel installs it."""
    cache, _ = compiled
    elsewhere = cache.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(KERNELS, elsewhere / "flash_attn", ignore=shutil.ignore_patterns("__pycache__"))
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    code = """
import torch, flash_attn
from flash_attn.standin import standing_in
with standing_in("gfx942") as driver:
    q, k, v = (torch.randn(3, 208, 5, 64, dtype=torch.float16).requires_grad_() for _ in range(3))
    flash_attn.flash_attn_func(q, k, v, causal=True, softmax_scale=0.3).sum().backward()
print(*sorted({launch.function for launch in driver.launches}))
"""
    environment = dict(os.environ, TRITON_CACHE_DIR=str(cache), FA_DOCTOR_KERNELS="triton", PYTHONPATH=str(elsewhere))
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["delta_kernel", "dkdv_kernel", "dq_kernel", "forward_kernel"]
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_a_target_that_cannot_be_served_says_why(tmp_path: Path) -> None:
    report = compile_kernels(
        tmp_path, "--arch", "gfx906", "--head-dim", "64", "--dtype", "fp16", "--pass", "forward", "--feature", "none",
        expected=1,
    )  # fmt: skip
    (row,) = report["kernels"]
    assert "gfx906" in row["error"]
    assert row["vgprs"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--arch", "MI300X"], "is no GPU target"),
        (["--arch", "gfx942", "--feature", "speed"], "no feature 'speed'"),
        (["--arch", "gfx942", "--python", "/nowhere/python"], "no executable"),
    ],
)
def test_wrong_use(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    extra = [] if "--python" in arguments else ["--python", sys.executable]
    assert run_cli(["kernels", "compile", *arguments, *extra]) == 2
    assert said in capsys.readouterr().err
