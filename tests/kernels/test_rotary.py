"""Rotary embedding against its definition in float64, forward and gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fa_doctor.kernels.compat import interpreting
from fa_doctor.kernels.rotary import apply_rotary_emb, apply_rotary_emb_torch
from fa_doctor.kernels.rotary_layers import RotaryEmbedding, apply_rotary_emb_kv_, apply_rotary_emb_qkv_

# On a machine with a GPU: TRITON_INTERPRET=0 pytest tests/kernels
DEVICE = "cuda" if torch.cuda.is_available() and not interpreting() else "cpu"


def tables(seqlen: int, rotary_dim: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.rand(seqlen, rotary_dim // 2, generator=torch.Generator().manual_seed(1)) * 2 * math.pi
    return angle.cos().to(DEVICE, dtype), angle.sin().to(DEVICE, dtype)


def turned(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, first: int | list[int], interleaved: bool
) -> torch.Tensor:
    """x (batch, seqlen, heads, head_dim) times e^(i angle), in float64."""
    half = cos.shape[1]
    starts = first if isinstance(first, list) else [first] * x.shape[0]
    at = torch.stack([torch.arange(s, s + x.shape[1], device=x.device) for s in starts])  # (batch, seqlen)
    wave = torch.complex(cos.double(), sin.double())[at][:, :, None, :]
    y = x.double().clone()
    a = slice(0, 2 * half, 2) if interleaved else slice(0, half)
    b = slice(1, 2 * half, 2) if interleaved else slice(half, 2 * half)
    z = torch.complex(x.double()[..., a], x.double()[..., b]) * wave
    y[..., a], y[..., b] = z.real, z.imag
    return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
@pytest.mark.parametrize("rotary_dim", [16, 40, 64])
@pytest.mark.parametrize("inplace", [False, True], ids=["new", "inplace"])
def test_forward_and_gradient(inplace: bool, rotary_dim: int, interleaved: bool, dtype: torch.dtype) -> None:
    cos, sin = tables(40, rotary_dim, dtype)
    x = torch.randn(2, 9, 3, 64, device=DEVICE).to(dtype)
    upstream = torch.randn_like(x)
    offsets = torch.tensor([5, 31], dtype=torch.int32, device=DEVICE)
    given = x.clone().requires_grad_()
    out = apply_rotary_emb(given, cos, sin, interleaved, inplace, seqlen_offsets=offsets)
    tolerance = {"rtol": torch.finfo(dtype).eps, "atol": torch.finfo(dtype).eps}
    torch.testing.assert_close(out.double(), turned(x, cos, sin, [5, 31], interleaved), **tolerance)
    assert (out.data_ptr() == given.data_ptr()) == inplace
    if not inplace:
        assert torch.equal(given, x)
    out.backward(upstream)
    assert given.grad is not None
    torch.testing.assert_close(given.grad.double(), turned(upstream, cos, -sin, [5, 31], interleaved), **tolerance)


def test_packed_sequences_of_unequal_length() -> None:
    cos, sin = tables(20, 32)
    x = torch.randn(15, 2, 32, device=DEVICE)
    ends = torch.tensor([0, 4, 4, 15], dtype=torch.int32, device=DEVICE)
    out = apply_rotary_emb(x, cos, sin, seqlen_offsets=3, cu_seqlens=ends, max_seqlen=11)
    for a, b in ((0, 4), (4, 15)):
        torch.testing.assert_close(out[None, a:b].double(), turned(x[None, a:b], cos, sin, 3, False), rtol=0, atol=1e-6)


def test_definition_agrees_with_complex_numbers() -> None:
    cos, sin = tables(6, 8)
    x = torch.randn(1, 6, 2, 10, dtype=torch.float64, device=DEVICE)
    for interleaved in (False, True):
        out = apply_rotary_emb_torch(x, cos.double(), sin.double(), interleaved)
        torch.testing.assert_close(out, turned(x, cos, sin, 0, interleaved))


@pytest.mark.parametrize("grouped", [False, True], ids=["three", "grouped"])
@pytest.mark.parametrize("tables_for_k", [False, True], ids=["one-table", "two-tables"])
def test_qkv(grouped: bool, tables_for_k: bool) -> None:
    cos, sin = tables(16, 32)
    other = (sin, cos) if tables_for_k else (None, None)
    shape = (2, 7, 4 + 2 * 2, 32) if grouped else (2, 7, 3, 4, 32)
    qkv = torch.randn(*shape, device=DEVICE)
    q, k, v = (qkv[:, :, :4], qkv[:, :, 4:6], qkv[:, :, 6:]) if grouped else qkv.unbind(2)
    cos_k, sin_k = (other[0], other[1]) if other[0] is not None and other[1] is not None else (cos, sin)
    expected = [turned(q, cos, sin, 4, False), turned(k, cos_k, sin_k, 4, False), v.double()]
    joined = torch.cat(expected, 2) if grouped else torch.stack(expected, 2)
    given = qkv.clone().requires_grad_()
    out = apply_rotary_emb_qkv_(given, cos, sin, *other, seqlen_offsets=4, num_heads_q=4 if grouped else None)
    torch.testing.assert_close(out.double(), joined, rtol=0, atol=1e-6)
    assert out.data_ptr() == given.data_ptr()
    # A rotation keeps lengths, and its gradient is the rotation back: d(|y|^2 / 2) / dx = x, where one table serves.
    (out.double() ** 2 / 2).sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(given.grad, qkv, rtol=0, atol=1e-5)


def test_kv() -> None:
    cos, sin = tables(16, 16)
    kv = torch.randn(2, 7, 2, 3, 32, device=DEVICE)
    given = kv.clone().requires_grad_()
    out = apply_rotary_emb_kv_(given, cos, sin, interleaved=True)
    torch.testing.assert_close(out[:, :, 0].double(), turned(kv[:, :, 0], cos, sin, 0, True), rtol=0, atol=1e-6)
    assert torch.equal(out[:, :, 1], kv[:, :, 1])
    (out**2 / 2).sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(given.grad, kv, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale_base", [None, 512.0], ids=["plain", "xpos"])
def test_module_keeps_scores_relative(scale_base: float | None) -> None:
    """q at i and k at j score as q at i + 5 and k at j + 5 do: what rotary embedding is for."""
    rotary = RotaryEmbedding(32, scale_base=scale_base, device=DEVICE)
    qkv = torch.randn(1, 1, 3, 2, 32, device=DEVICE).expand(1, 40, 3, 2, 32)
    q, k, _ = rotary(qkv.clone()).unbind(2)
    scores = torch.einsum("bihd,bjhd->bhij", q, k)
    torch.testing.assert_close(scores[..., 5:, 5:], scores[..., :-5, :-5], rtol=1e-4, atol=1e-4)
    again, kv = rotary(qkv[:, :, 0].clone(), qkv[:, :, 1:].clone())
    torch.testing.assert_close(again, q)
    torch.testing.assert_close(kv[:, :, 0], k)


def test_module_grows_its_tables_and_asks_for_their_length() -> None:
    rotary = RotaryEmbedding(16, device=DEVICE)
    offsets = torch.tensor([3], device=DEVICE)
    with pytest.raises(ValueError, match="max_seqlen"):
        rotary(torch.randn(1, 4, 3, 1, 16, device=DEVICE), seqlen_offset=offsets)
    qkv = torch.randn(1, 4, 3, 1, 16, device=DEVICE)
    by_tensor = rotary(qkv.clone(), seqlen_offset=offsets, max_seqlen=7)
    torch.testing.assert_close(by_tensor, rotary(qkv.clone(), seqlen_offset=3))


def test_compiled_with_fullgraph() -> None:
    cos, sin = tables(16, 16)
    x = torch.randn(2, 5, 2, 16, device=DEVICE)
    compiled = torch.compile(apply_rotary_emb, fullgraph=True, backend="aot_eager")
    given = x.clone().requires_grad_()
    out = compiled(given, cos, sin)
    assert torch.equal(out, apply_rotary_emb(x, cos, sin))
    out.sum().backward()
    other = x.clone().requires_grad_()
    apply_rotary_emb(other, cos, sin).sum().backward()
    torch.testing.assert_close(given.grad, other.grad)


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "rotary-dim": ("rotary_dim", {"cos": torch.zeros(8, 17), "sin": torch.zeros(8, 17)}),
    "unequal-tables": ("cos and sin", {"sin": torch.zeros(9, 8)}),
    "too-short": ("8 positions", {"seqlen_offsets": 4}),
    "negative": ("positions", {"seqlen_offsets": -1}),
    "no-max-seqlen": ("max_seqlen", {"cu_seqlens": torch.zeros(2, dtype=torch.int32)}),
    "offsets-shape": ("seqlen_offsets", {"seqlen_offsets": torch.zeros(3, dtype=torch.int32)}),
    "offsets-dtype": ("seqlen_offsets", {"seqlen_offsets": torch.zeros(2)}),
    "dimensions": ("x must be", {"x": torch.zeros(2, 5, 32)}),
    "head-dim": ("head_dim", {"x": torch.zeros(2, 5, 1, 264)}),
}


@pytest.mark.parametrize(("words", "change"), BAD.values(), ids=BAD.keys())
def test_bad_arguments(words: str, change: dict[str, Any]) -> None:
    arguments = {"x": torch.zeros(2, 5, 2, 32), "cos": torch.zeros(8, 8), "sin": torch.zeros(8, 8), **change}
    with pytest.raises(ValueError, match=words):
        apply_rotary_emb(**arguments)
