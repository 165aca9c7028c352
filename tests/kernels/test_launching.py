"""A call of known shapes launches what Triton itself would launch, without being asked how."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fa_doctor.kernels import flash_attn_func  # noqa: E402


@pytest.mark.timeout(280)
@pytest.mark.parametrize("arch", ["gfx942", pytest.param("sm_90", marks=pytest.mark.slow)])
def test_a_second_call_launches_the_same(arch: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}  # this folder's tests set it
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("launch_cases.py")), arch],
        env=environment, capture_output=True, text=True, timeout=270, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 12


def inputs() -> list[torch.Tensor]:
    return [torch.randn(1, 5, 2, 8).requires_grad_() for _ in range(3)]


def test_a_second_derivative_is_refused() -> None:
    q, k, v = inputs()
    (dq,) = torch.autograd.grad(flash_attn_func(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dq.sum().backward()


def test_a_forward_mode_derivative_is_refused() -> None:
    q, k, v = (x.detach() for x in inputs())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(q, torch.ones_like(q))
        with pytest.raises(NotImplementedError):
            flash_attn_func(dual, k, v)


def test_no_gradient_is_recorded_where_none_is_wanted() -> None:
    q, k, v = inputs()
    with torch.no_grad():
        assert not flash_attn_func(q, k, v).requires_grad
    assert not flash_attn_func(q.detach(), k.detach(), v.detach()).requires_grad
    assert flash_attn_func(q.detach(), k.detach(), v).requires_grad
