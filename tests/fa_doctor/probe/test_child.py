"""The child of the probe: right kernels pass, and every wrong one is rejected."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def test_the_step_names_are_those_of_the_child() -> None:
    pytest.importorskip("torch")
    from fa_doctor.probe import gather
    from fa_doctor.probe.child import features, smoke

    assert gather.SMOKE_STEPS == smoke.STEPS
    assert gather.FEATURE_STEPS == features.STEPS


class Ignoring:
    """A flash_attn that takes softcap and window_size and ignores them, refuses ALiBi, and drops nothing."""

    __version__ = "2.8.3"

    @staticmethod
    def flash_attn_func(q: Any, k: Any, v: Any, **options: Any) -> Any:
        import torch

        from fa_doctor.probe.child.reference import Case, attention

        if options.get("alibi_slopes") is not None:
            raise NotImplementedError("ALiBi is not supported")
        case = Case("x", causal=bool(options.get("causal")))
        return attention(torch, q.float(), k.float(), v.float(), case, None).to(q.dtype)

    @staticmethod
    def flash_attn_varlen_func(q: Any, k: Any, v: Any, *_: Any, **options: Any) -> Any:
        return Ignoring.flash_attn_func(q[None], k[None], v[None], **options)[0]


def test_what_a_library_ignores_refuses_or_gets_wrong_is_told_apart() -> None:
    torch = pytest.importorskip("torch")
    from fa_doctor.probe.child.features import try_features

    states = {name: found["state"] for name, found in try_features(torch, Ignoring, torch.device("cpu"), 3).items()}
    assert states == {
        "plain": "right",
        "causal": "right",
        "window_size": "ignored",
        "softcap": "ignored",
        "alibi_slopes": "raises",
        "grouped queries": "right",
        "backward": "right",
        "varlen": "wrong",  # sequences of one call see each other
        "dropout": "ignored",
        "paged KV cache": "missing",
    }


def test_the_bundled_kernels_have_every_feature() -> None:
    torch = pytest.importorskip("torch")
    import fa_doctor.kernels as kernels
    from fa_doctor.probe.child.features import try_features

    found = try_features(torch, kernels, torch.device("cpu"), 5)
    assert {name: result["state"] for name, result in found.items()} == dict.fromkeys(found, "right"), found


def test_one_wrong_element_in_a_million_is_found_and_named() -> None:
    torch = pytest.importorskip("torch")
    from fa_doctor.probe.child.reference import compare

    exact = torch.randn(1, 1000, 10, 100, dtype=torch.float64)
    actual = exact.clone()
    assert compare(torch, "out", actual, exact, 1e-3) == 0
    actual[0, 417, 3, 99] += 0.5
    with pytest.raises(AssertionError, match=r"1 of 1000000 elements are wrong; the worst, at \[0, 417, 3, 99\]"):
        compare(torch, "out", actual, exact, 1e-3)
    actual[0, 417, 3, 99] = float("nan")
    with pytest.raises(AssertionError, match="nan"):
        compare(torch, "out", actual, exact, 1e-3)
    with pytest.raises(AssertionError, match="shape"):
        compare(torch, "out", actual[:, :1], exact, 1e-3)


COMPILES = """
import os, json
import torch
import fa_doctor.kernels as kernels
from fa_doctor.kernels import launching
from fa_doctor.kernels.standin import standing_in
from fa_doctor.probe.child.prepare import compile_side_by_side
launching.plans_for_cpu = True  # as of calls on a GPU
from fa_doctor.probe.child.trials import Case, DecodeTrial, DenseTrial, VarlenTrial
os.sched_getaffinity = lambda pid: {0, 1, 2, 3}
dense = DenseTrial(torch, Case("d", causal=True, rows=70, cols=70, head_dim=16), 1)
trials = [dense, VarlenTrial(torch, 1, False), DecodeTrial(torch, 1, False)]
files = lambda: len(os.listdir(os.environ["TRITON_CACHE_DIR"]))
with standing_in("gfx942") as driver:
    told = compile_side_by_side(torch, kernels, torch.device("cpu"), trials)
    ahead, launched = files(), len(driver.launches) + len(launching._plans)
    for trial in trials:
        trial.call(kernels, torch.device("cpu"))
    print(json.dumps([told, ahead, launched, files(), sorted({launch.function for launch in driver.launches})]))
"""


def test_compiling_side_by_side_launches_nothing_and_leaves_nothing_to_compile(tmp_path: Path) -> None:
    """For an AMD GPU that is not here, with Triton's own compiler and cache."""
    pytest.importorskip("triton")
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0", "FA_DOCTOR_KERNELS": "triton"}
    done = subprocess.run([sys.executable, "-c", COMPILES], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    told, ahead, launched, after, functions = json.loads(done.stdout)
    assert told == {"threads": 4, "kernels": 7, "failed": []}
    assert ahead == after > 0
    assert launched == 0
    assert functions == [
        "append_kernel", "decode_kernel", "delta_kernel", "dkdv_kernel", "dq_kernel", "forward_kernel",
    ]  # fmt: skip


def test_the_softcap_of_the_origins_call_makes_a_difference_that_cannot_be_missed() -> None:
    torch = pytest.importorskip("torch")
    from fa_doctor.probe.child.reference import Case, attention
    from fa_doctor.probe.child.trials import OriginTrial, _exact_and_allowed

    for big in (False, True):
        for seed in range(5):
            trial = OriginTrial(torch, seed, big)
            exact, allowed = _exact_and_allowed(torch, trial.tensors, trial.case)
            q, k, v = (x.double() for x in trial.tensors[:3])
            plain = attention(torch, q, k, v, Case("", causal=True), None)
            assert float((plain - exact[0]).abs().max()) > 4 * allowed["out"], (big, seed)
