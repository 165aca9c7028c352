"""The kernels against the reference in float64, over the matrix of features, in Triton's interpreter.

The criterion is flash-attn's own: the error may be at most twice that of plain PyTorch attention in the same type.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fa_doctor.kernels import flash_attn_func, reference

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def make(dtype: torch.dtype, *shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keep: Any = None, **options: Any) -> torch.Tensor:
    """Attention as PyTorch users write it, every step in the type of the inputs: the yardstick of the error."""
    scale = options.get("softmax_scale") or q.shape[-1] ** -0.5
    group = q.shape[2] // k.shape[2]
    kr, vr = (x.repeat_interleave(group, dim=2).transpose(1, 2) for x in (k, v))
    scores = (q * scale).transpose(1, 2) @ kr.transpose(-1, -2)
    if options.get("softcap", 0.0) > 0:
        scores = torch.tanh(scores / options["softcap"]) * options["softcap"]
    if options.get("alibi_slopes") is not None:
        scores = scores + reference.alibi_bias(options["alibi_slopes"], q.shape[1], k.shape[1]).to(scores.dtype)
    seen = reference.visible(
        q.shape[1],
        k.shape[1],
        causal=options.get("causal", False),
        window_size=options.get("window_size", (-1, -1)),
    )
    probs = torch.softmax(scores.masked_fill(~seen, float("-inf")), -1).masked_fill(~seen.any(-1, keepdim=True), 0.0)
    if keep is not None:
        probs = probs.masked_fill(~keep, 0.0) / (1 - options["dropout_p"])
    return (probs @ vr).transpose(1, 2)


def assert_as_exact(
    got: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...], yardstick: tuple[torch.Tensor, ...]
) -> None:
    for name, a, b, c in zip(("out", "dq", "dk", "dv"), got, exact, yardstick, strict=True):
        error, allowed = (a.double() - b).abs().max().item(), (c.double() - b).abs().max().item()
        # one unit in the last place of the largest value: below that the yardstick's error is luck
        floor = torch.finfo(a.dtype).eps * b.abs().max().item()
        assert error <= 2 * allowed + floor, f"{name}: error {error:.2e}, PyTorch in the same type {allowed:.2e}"


def check_dense(
    dtype: torch.dtype, batch: int, sq: int, sk: int, heads: int, heads_k: int, dim: int, **options: Any
) -> None:
    q, g = make(dtype, batch, sq, heads, dim, seed=1), make(dtype, batch, sq, heads, dim, seed=4).detach()
    k, v = make(dtype, batch, sk, heads_k, dim, seed=2), make(dtype, batch, sk, heads_k, dim, seed=3)
    torch.manual_seed(11)
    out = flash_attn_func(q, k, v, **options)
    got = (out, *torch.autograd.grad(out, (q, k, v), g))
    keep = None
    if options.get("dropout_p"):
        torch.manual_seed(11)
        rng_state = torch.randint(0, 2**62, (2,))
        keep = reference.dropout_keep(rng_state, options["dropout_p"], batch, heads, sq, sk)
    exact_in = tuple(x.detach().double().requires_grad_() for x in (q, k, v))
    out64, _, _ = reference.attention(*exact_in, keep=keep, **options)
    exact = (out64, *torch.autograd.grad(out64, exact_in, g.double()))
    out_plain = plain(q, k, v, keep=keep, **options)
    yardstick = (out_plain, *torch.autograd.grad(out_plain, (q, k, v), g))
    assert_as_exact(got, exact, yardstick)


SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window_size": (17, 5)},
    "window-left-causal": {"window_size": (20, -1), "causal": True},
    "softcap": {"softcap": 3.0},
    "alibi": {"alibi_slopes": SLOPES},
    "alibi-batch": {"alibi_slopes": torch.stack([SLOPES, SLOPES.flip(0)]), "causal": True},
    "dropout": {"dropout_p": 0.3},
    "scale-negative": {"softmax_scale": -0.25},
    "origin": {"dropout_p": 0.1, "causal": True, "softcap": 16.0},
    "all": {"dropout_p": 0.2, "window_size": (30, 9), "softcap": 5.0, "alibi_slopes": SLOPES},
}


@pytest.mark.parametrize("name", FEATURES)
def test_features(name: str) -> None:
    check_dense(torch.float32, 2, 45, 70, 4, 2, 32, **FEATURES[name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [16, 40, 59, 64, 128])
def test_types_and_head_dimensions(dtype: torch.dtype, dim: int) -> None:
    check_dense(dtype, 1, 33, 40, 2, 1, dim, causal=True)
