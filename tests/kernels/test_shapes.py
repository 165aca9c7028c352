"""Shapes and options that nobody chose: kernels in the interpreter against the reference, drawn by hypothesis."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fa_doctor.kernels import flash_attn_func, reference


@st.composite
def calls(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    heads_k = draw(st.integers(1, 2))
    shape = (
        draw(st.integers(1, 2)),  # batch
        draw(st.integers(1, 75)),  # queries
        draw(st.integers(1, 75)),  # keys
        heads_k * draw(st.integers(1, 3)),
        heads_k,
        draw(st.integers(1, 40)),  # head dimension
    )
    options: dict[str, Any] = {
        "causal": draw(st.booleans()),
        "window_size": (draw(st.integers(-1, 80)), draw(st.integers(-1, 80))),
        "softcap": draw(st.sampled_from([0.0, 0.0, 2.0, 30.0])),
        "softmax_scale": draw(st.sampled_from([None, 0.0, 0.5, -0.2])),
    }
    if draw(st.booleans()):
        options["alibi_slopes"] = torch.linspace(0.01, 1.0, shape[3])
    if draw(st.booleans()):
        options["dropout_p"] = draw(st.sampled_from([0.1, 0.5, 0.97, 1.0]))
    return shape, options


@settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(calls())
def test_any_shape(call: tuple[tuple[int, ...], dict[str, Any]]) -> None:
    (batch, sq, sk, heads, heads_k, dim), options = call
    generator = torch.Generator().manual_seed(7)
    q, k, v, g = (
        torch.randn(shape, generator=generator).requires_grad_()
        for shape in (
            (batch, sq, heads, dim),
            (batch, sk, heads_k, dim),
            (batch, sk, heads_k, dim),
            (batch, sq, heads, dim),
        )
    )
    torch.manual_seed(13)
    out, lse, _ = flash_attn_func(q, k, v, return_attn_probs=True, **options)
    got = torch.autograd.grad(out, (q, k, v), g)
    keep = None
    if "dropout_p" in options:
        torch.manual_seed(13)
        keep = reference.dropout_keep(torch.randint(0, 2**62, (2,)), options["dropout_p"], batch, heads, sq, sk)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out64, lse64, _ = reference.attention(*exact, keep=keep, **options)
    expected = torch.autograd.grad(out64, exact, g.double())
    torch.testing.assert_close(lse.double(), lse64, rtol=1e-5, atol=1e-5)
    for a, b in zip((out, *got), (out64, *expected), strict=True):
        # float32 arithmetic; dropout of nearly everything makes what is left large
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-5 * max(1.0, b.abs().max().item()))
