"""Faults of kernels, caches and memory, each met by a real child: found, and named for what it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fa_doctor.checks.kernels import sdpa, smoke
from fa_doctor.diagnosis.model import Status, Verdict
from fa_doctor.facts.gpus import Gpu, Gpus
from fa_doctor.facts.health import Health, Usage
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.packages import Torch
from fa_doctor.facts.probes import Ending, Probe, Step, StepState
from fa_doctor.host import LiveHost
from fa_doctor.probe import launch as launch_module
from fa_doctor.probe.gather import SDPA_STEP, SMOKE_STEPS
from fa_doctor.probe.launch import launch

# Kernels whose answer is right but for one thing. They compute by the definition: what is tried here is who notices.
FAULTY = """
import os
from fa_doctor.kernels import flash_attn_varlen_func, flash_attn_with_kvcache
from fa_doctor.kernels import flash_attn_func as right

def flash_attn_func(*args, **options):
    out = right(*args, **options)
    fault = os.environ["FAULT"]
    if fault == "nan":
        return out * float("nan")
    if fault == "zeros":
        return out * 0
    wrong = out.clone()
    wrong.view(-1)[out.numel() // 3] += 0.5
    return wrong
"""


def judged(probe: Probe, check: Any = smoke) -> Verdict:
    gpus = Gpus((Gpu(0, "gfx942"),), 1)
    machine = Machine(
        "live",
        "x",
        gpus=gpus,
        torch=Torch("2.9.1+rocm6.4", "/t", "rocm"),
        health=Health(users=(Usage(4711, "vllm"),)),
        probes=(probe,),
    )
    (verdict,) = check(machine)
    assert isinstance(verdict, Verdict)
    return verdict


def test_nan_zeros_and_one_wrong_element_are_found_by_the_real_child(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    (tmp_path / "__init__.py").write_text(FAULTY)

    def run(fault: str) -> Probe:
        env = {"FAULT": fault, "FA_DOCTOR_KERNELS": "reference"}
        (probe,) = launch(LiveHost(), sys.executable, "smoke", SMOKE_STEPS, [None], 120, kernels=str(tmp_path), env=env)
        return probe

    with ThreadPoolExecutor(3) as pool:
        found = dict(zip(("nan", "zeros", "one"), pool.map(run, ("nan", "zeros", "one")), strict=True))
    for name, probe in found.items():
        assert probe.failed is not None, (name, probe)
        assert probe.failed.name == "attention forward", (name, probe.failed)
        assert judged(probe).cause == "numerics-wrong"
    assert "is nan in place of" in found["nan"].failed.error  # type: ignore[union-attr]
    assert "elements are wrong" in found["zeros"].failed.error  # type: ignore[union-attr]
    assert ": 1 of 8448 elements are wrong" in found["one"].failed.error  # type: ignore[union-attr]


def test_one_wrong_element_among_a_million_is_found_at_the_size_that_a_gpu_is_tried_with() -> None:
    torch = pytest.importorskip("torch")
    from fa_doctor.probe.child.trials import DenseTrial, cases

    trial = DenseTrial(torch, cases(True)[0], 7)
    exact, _ = trial.reference.get()
    assert exact[0].numel() > 1_000_000

    class Kernels:
        @staticmethod
        def flash_attn_func(*_: Any, **__: Any) -> Any:
            return exact[0].to(torch.bfloat16) + bump

    bump = torch.zeros_like(exact[0], dtype=torch.bfloat16)
    trial.forward(Kernels, torch.device("cpu"))
    bump[3, 200, 5, 77] = 0.25
    with pytest.raises(AssertionError, match=r": 1 of 1314816 elements are wrong; the worst, at \[3, 200, 5, 77\]"):
        trial.forward(Kernels, torch.device("cpu"))


# Compiles a kernel as the smoke test's step does, for a GPU that is not here, so that Triton's cache is used.
COMPILES = """
import json, os, sys
sys.path.insert(0, ROOT)
from fa_doctor.probe.child.reporter import Reporter, StepFailed
report = Reporter(int(os.environ["FA_DOCTOR_REPORT_FD"]))
try:
    with report.step("run a one-line kernel"):
        import torch
        from fa_doctor.kernels.standin import standing_in
        from fa_doctor.probe.child.one_line import add_one
        with standing_in("gfx942"):
            x = torch.zeros(300)
            add_one[(3,)](x, x, 300, BLOCK=128, enable_fp_fusion=True)
except StepFailed:
    sys.exit(1)
"""


@pytest.mark.parametrize(
    ("options", "cause"),
    [("size=8k", "disk-full"), ("ro,size=1m", "triton-cache-unwritable")],
    ids=["full", "read-only"],
)
def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, cause: str
) -> None:
    pytest.importorskip("triton")
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    cache, child = tmp_path / "triton-cache", tmp_path / "child"
    cache.mkdir()
    child.mkdir()
    mount = f"mount -t tmpfs -o {options} none {cache}"
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("file systems cannot be mounted here")
    (child / "__main__.py").write_text(COMPILES.replace("ROOT", repr(str(Path(__file__).parents[3]))))
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nexec {" ".join(namespace)} sh -c \'{mount} && exec "$@"\' sh {sys.executable} "$@"\n'
    )
    python.chmod(0o755)

    @launch_module.contextlib.contextmanager
    def folders():  # type: ignore[no-untyped-def]
        yield child, child

    monkeypatch.setattr(launch_module, "package_folders", folders)
    env = {"TRITON_CACHE_DIR": str(cache), "TRITON_INTERPRET": "0"}
    (probe,) = launch(LiveHost(), str(python), "smoke", SMOKE_STEPS, [0], 120, env=env)
    assert probe.failed is not None
    assert probe.failed.state == StepState.FAILED, (probe.failed, probe.output)
    verdict = judged(probe)
    assert verdict.cause == cause, (probe.failed.error, verdict)
    assert any("TRITON_CACHE_DIR" in command for fix in verdict.fixes for command in fix.commands)


def on_a_pretended_gpu(free_bytes: int, timeout_s: float = 240, **more: str) -> Probe:
    """The real smoke test of a GPU, in a child whose torch says that there is one with so much memory left.

    The kernels compute by the definition, on the CPU: see pretended_gpu/sitecustomize.py.
    """
    pytest.importorskip("triton")
    env = {
        "PYTHONPATH": str(Path(__file__).parent / "pretended_gpu"),
        "PRETENDED_BYTES": str(free_bytes),
        "FA_DOCTOR_KERNELS": "reference",
        "TRITON_INTERPRET": "1",
        **more,
    }
    (probe,) = launch(LiveHost(), sys.executable, "smoke", SMOKE_STEPS, [0], timeout_s, env=env)
    return probe


def test_the_whole_smoke_test_of_a_gpu_goes_well_where_nothing_is_wrong() -> None:
    probe = on_a_pretended_gpu(4 << 30)
    assert probe.failed is None, (probe.failed, probe.output)
    assert probe.complete
    assert probe.details("find the device")["gfx"] == "gfx942"
    assert len(probe.details("attention forward")["errors"]) == 3
    assert 0.08 < probe.details("dropout, causal and softcap together")["dropped"] < 0.12
    assert set(probe.details(SDPA_STEP)["backends"]) == {"chosen", "flash", "efficient"}
    assert judged(probe).status is Status.PASS


@pytest.mark.parametrize(
    ("mebibytes", "step"), [(1, "allocate, copy and multiply"), (12, "attention forward")], ids=["1 MB", "12 MB"]
)
def test_a_gpu_without_free_memory_is_not_called_broken(mebibytes: int, step: str) -> None:
    probe = on_a_pretended_gpu(mebibytes << 20)
    assert probe.failed is not None
    assert (probe.failed.name, probe.failed.state) == (step, StepState.FAILED), probe.failed
    assert "OutOfMemoryError: HIP out of memory" in probe.failed.error
    verdict = judged(probe)
    assert verdict.cause == "vram-out-of-memory"
    assert any("4711 (vllm)" in evidence.text for evidence in verdict.evidence)
    assert any("showmeminfo" in command for fix in verdict.fixes for command in fix.commands)


@pytest.mark.parametrize(
    ("function", "step", "status"),
    [("import_torch", "import torch", Status.UNKNOWN), ("mem_get_info", "allocate, copy and multiply", Status.FAIL)],
)
def test_where_a_child_hangs_is_told_and_a_slow_import_is_not_laid_on_the_gpu(
    function: str, step: str, status: Status
) -> None:
    probe = on_a_pretended_gpu(1 << 30, timeout_s=12, PRETENDED_HANG=function)
    assert probe.failed is not None
    assert (probe.failed.name, probe.failed.state) == (step, StepState.HUNG), (probe.failed, probe.output)
    verdict = judged(probe)
    assert verdict.status is status
    assert "12 s" in verdict.title + verdict.detail
    assert any(f"in {function}" in evidence.text for evidence in verdict.evidence)
    assert (verdict.cause == "gpu-hang-or-reset") is (status is Status.FAIL)


def test_memory_that_the_runtime_itself_lacks_is_told_too() -> None:
    """Words of HIP, met before PyTorch's allocator is asked: where a context or a code object finds no room."""
    error = (
        "AcceleratorError: HIP error: out of memory\nHIP kernel errors might be asynchronously reported at some other API "
        "call, so the stacktrace below might be incorrect.\nFor debugging consider passing AMD_SERIALIZE_KERNEL=3"
    )
    steps = [
        Step(name, StepState.OK if number < 2 else StepState.NOT_REACHED) for number, name in enumerate(SMOKE_STEPS)
    ]
    steps[2] = Step(SMOKE_STEPS[2], StepState.FAILED, error=error, trace=f"Traceback (most recent call last):\n{error}")
    assert judged(Probe("smoke", 0, tuple(steps), Ending(1), "")).cause == "vram-out-of-memory"


def whole(backends: dict[str, Any] | None, state: str = StepState.OK) -> Probe:
    """A smoke test that went well up to PyTorch's own attention."""
    last = Step(SDPA_STEP, state, details={"backends": backends} if backends is not None else {})
    return Probe("smoke", 0, (*(Step(name, StepState.OK) for name in SMOKE_STEPS[:-1]), last), Ending(0), "")


def test_what_pytorch_gets_wrong_is_pytorchs() -> None:
    right, wrong, refuses = ({"state": state, "text": "..."} for state in ("right", "wrong", "raises"))
    plain = {"plain": right, "causal": right}
    assert judged(whole({"chosen": plain, "flash": plain}), sdpa).status is Status.PASS
    bad = whole({"chosen": plain, "flash": {"plain": right, "causal": wrong}})
    verdict = judged(bad, sdpa)
    assert (verdict.status, verdict.cause) == (Status.FAIL, "numerics-wrong")
    assert "causal (flash)" in verdict.title
    assert judged(bad).status is Status.PASS
    fallback = judged(whole({"chosen": plain, "flash": {"plain": refuses}, "efficient": {"plain": refuses}}), sdpa)
    assert (fallback.status, fallback.cause) == (Status.WARN, "slow-fallback")
    died = whole(None, StepState.DIED)
    assert judged(died, sdpa).status is Status.FAIL
    assert judged(died).status is Status.PASS


def test_every_feature_of_pytorchs_attention_is_tried() -> None:
    torch = pytest.importorskip("torch")
    from fa_doctor.probe.child.sdpa import reference_of, try_sdpa

    found = try_sdpa(torch, torch.device("cpu"), 3, reference_of(torch, 3))
    assert set(found) == {"chosen", "flash", "efficient"}
    states = {name: result["state"] for name, result in found["chosen"].items()}
    assert states == dict.fromkeys(("plain", "causal", "mask", "grouped queries", "dropout"), "right"), found["chosen"]
    assert found["efficient"]["plain"]["state"] == "raises"  # there is none for CPUs
