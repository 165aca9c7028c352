"""8-bit attention: against float64 on the numbers that the bytes stand for, and the whole way from wide tensors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fa_doctor.kernels.compat import interpreting
from fa_doctor.kernels.quantized import dequantize, flash_attn_quantized_func, quantize

DEVICE = "cuda" if torch.cuda.is_available() and not interpreting() else "cpu"
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
NARROW = [*FP8, torch.int8]


def name(x: object) -> str | None:
    return str(x).removeprefix("torch.") if isinstance(x, torch.dtype) else None


def exact(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Textbook attention in float64: out (B, S, H, D) and log-sum-exp (B, H, S)."""
    group = q.shape[2] // k.shape[2]
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    at = torch.arange(q.shape[2], device=q.device)[:, None] + k.shape[2] - q.shape[2]
    key = torch.arange(k.shape[2], device=q.device)[None, :]
    if alibi_slopes is not None:
        scores = scores - alibi_slopes.double().view(-1, q.shape[1], 1, 1) * (at - key).abs()
    left, right = window_size[0], 0 if causal else window_size[1]
    hidden = torch.zeros_like(at - key, dtype=torch.bool)
    if left >= 0:
        hidden |= key < at - left
    if right >= 0:
        hidden |= key > at + right
    scores = scores.masked_fill(hidden, -math.inf)
    lse = torch.logsumexp(scores, -1)
    out = torch.softmax(scores, -1).nan_to_num(0.0) @ v
    return out.transpose(1, 2), torch.where(lse == -math.inf, math.inf, lse)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def relative_rms(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x.double() - y.double()).square().mean().sqrt() / y.double().square().mean().sqrt())


@pytest.mark.parametrize("dtype", NARROW, ids=name)
def test_every_byte_means_what_torch_says(dtype: torch.dtype) -> None:
    """One key: the output is the value. All 256 bytes go through the kernel, NaN and infinities included."""
    v = torch.arange(256, dtype=torch.int16, device=DEVICE).to(torch.uint8).view(dtype).view(1, 1, 8, 32)
    ones = torch.ones(1, 1, 8, 32, device=DEVICE).to(dtype)
    out = flash_attn_quantized_func(ones, ones, v, out_dtype=torch.float32)
    assert isinstance(out, torch.Tensor)
    torch.testing.assert_close(out, v.float(), rtol=0, atol=0, equal_nan=True)


def check_numbers(dtype: torch.dtype, block_size: int | None, fp8_probabilities: bool) -> None:
    """The bytes' own numbers, attended to: as exact as float16 arithmetic, or as fp8 probabilities, allow."""
    q, q_scale = quantize(randn(2, 37, 4, 64), dtype, block_size)
    k, k_scale = quantize(randn(2, 51, 2, 64, seed=1), dtype, block_size)
    v, v_scale = quantize(randn(2, 51, 2, 64, seed=2), dtype)
    out, lse = flash_attn_quantized_func(
        q, k, v, q_scale, k_scale, v_scale, causal=True, block_size=block_size, out_dtype=torch.float32,
        return_softmax_lse=True,
    )  # fmt: skip
    real = dequantize(q, q_scale, block_size), dequantize(k, k_scale, block_size), dequantize(v, v_scale)
    expected, expected_lse = exact(*real, causal=True)
    # Probabilities are rounded to float16 (2^-11) or to e4m3 (2^-4).
    assert relative_rms(out, expected) < (2**-5 if fp8_probabilities else 2**-10)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", NARROW, ids=name)
@pytest.mark.parametrize("block_size", [None, 16], ids=["per-head", "per-block"])
def test_numbers(dtype: torch.dtype, block_size: int | None) -> None:
    check_numbers(dtype, block_size, False)


# What test_amd_decoding.py runs elsewhere: on gfx942 the matrix unit takes the fnuz types themselves.
EMULATED = {
    "float8_e4m3fnuz": lambda: check_numbers(torch.float8_e4m3fnuz, 16, True),
    "float8_e4m3fn": lambda: check_numbers(torch.float8_e4m3fn, None, False),
    "int8": lambda: check_numbers(torch.int8, 16, False),
}


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window_size": (9, 3)},
    "softcap": {"softcap": 2.0},
    "alibi": {"alibi_slopes": torch.tensor([0.1, 0.2, 0.4, 0.01])},
    "alibi-batch": {"alibi_slopes": torch.rand(2, 4), "causal": True},
}


SHAPES = [
    (5, 70, 32, None),
    (40, 17, 80, torch.float16),
    (1, 33, 256, torch.bfloat16),
]  # seqlen_q, seqlen_k, head_dim, v


@pytest.mark.parametrize("shape", SHAPES, ids=["5x70x32-int8", "40x17x80-fp16", "1x33x256-bf16"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_options_and_shapes(shape: tuple[int, int, int, torch.dtype | None], options: dict[str, Any]) -> None:
    seqlen_q, seqlen_k, head_dim, wide = shape
    options = {key: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for key, x in options.items()}
    q, q_scale = quantize(randn(2, seqlen_q, 4, head_dim), torch.int8)
    k, k_scale = quantize(randn(2, seqlen_k, 1, head_dim, seed=1), torch.int8)
    full = randn(2, seqlen_k, 1, head_dim, seed=2)
    v, v_scale = quantize(full, torch.int8) if wide is None else (full.to(wide), None)
    out = flash_attn_quantized_func(q, k, v, q_scale, k_scale, v_scale, **options)
    assert isinstance(out, torch.Tensor)
    assert out.dtype == torch.bfloat16
    real_v = v.float() if v_scale is None else dequantize(v, v_scale)
    expected, _ = exact(dequantize(q, q_scale), dequantize(k, k_scale), real_v, **options)
    assert torch.isfinite(out).all()
    assert (out.double() - expected).abs().max() <= 2**-7 * expected.abs().max()


def test_block_scales_serve_tokens_of_very_different_size() -> None:
    """One token a thousand times the others takes the digits of its whole head, but only of its own block."""
    q, v = randn(1, 8, 1, 64), randn(1, 128, 1, 64, seed=2)
    k = randn(1, 128, 1, 64, seed=1)
    k[:, 5] *= 1000
    q8, q_scale = quantize(q, torch.int8, 32)
    k8, k_scale = quantize(k, torch.int8, 32)
    one8, one_scale = quantize(k, torch.int8)
    keys = slice(32, None)
    assert relative_rms(dequantize(k8, k_scale, 32)[:, keys], k[:, keys]) < 0.01
    assert relative_rms(dequantize(one8, one_scale)[:, keys], k[:, keys]) > 0.5
    out = flash_attn_quantized_func(
        q8, k8, v.half(), q_scale, k_scale, window_size=(60, 0), block_size=32, out_dtype=torch.float32
    )
    assert isinstance(out, torch.Tensor)
    assert relative_rms(out, exact(q, k, v, window_size=(60, 0))[0]) < 0.02


def test_no_keys_gives_zero_and_infinity() -> None:
    q = torch.ones(1, 3, 2, 32, device=DEVICE, dtype=torch.int8)
    k = torch.ones(1, 0, 2, 32, device=DEVICE, dtype=torch.int8)
    out, lse = flash_attn_quantized_func(q, k, k, return_softmax_lse=True)
    assert torch.equal(out, torch.zeros_like(out))
    assert torch.equal(lse, torch.full_like(lse, math.inf))


@pytest.mark.parametrize("dtype", NARROW, ids=name)
def test_quantize_uses_the_whole_range_and_keeps_zeros(dtype: torch.dtype) -> None:
    x = randn(2, 20, 3, 16)
    x[0, :, 1] = 0
    numbers, scale = quantize(x, dtype, 8)
    assert scale.shape == (2, 3, 3)
    back = dequantize(numbers, scale, 8)
    assert torch.equal(back[0, :, 1], torch.zeros_like(back[0, :, 1]))
    step = 2**-7 if dtype == torch.int8 else torch.finfo(dtype).eps
    assert relative_rms(back, x) < step
    peak = x[1, :8, 0].abs().amax()
    assert torch.isclose(back[1, :8, 0].abs().amax(), peak, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8], ids=name)
def test_reference_agrees(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    q, q_scale = quantize(randn(1, 9, 2, 32), dtype, 4)
    k, k_scale = quantize(randn(1, 12, 1, 32, seed=1), dtype, 4)
    v, v_scale = quantize(randn(1, 12, 1, 32, seed=2), dtype)
    arguments = (q, k, v, q_scale, k_scale, v_scale)
    kernels = flash_attn_quantized_func(*arguments, causal=True, block_size=4)
    monkeypatch.setenv("FA_DOCTOR_KERNELS", "reference")
    reference = flash_attn_quantized_func(*arguments, causal=True, block_size=4)
    torch.testing.assert_close(kernels, reference, rtol=2**-4 if DEVICE == "cuda" else 2**-7, atol=2e-2)


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "wide-q": ("8-bit type", {"q": torch.zeros(1, 4, 2, 32)}),
    "two-types": ("8-bit type", {"q": torch.zeros(1, 4, 2, 32, dtype=torch.float8_e5m2)}),
    "v-type": ("v must be", {"v": torch.zeros(1, 4, 1, 32)}),
    "dimensions": ("k must be", {"k": torch.zeros(4, 1, 32, dtype=torch.int8)}),
    "heads": ("multiple of heads", {"q": torch.zeros(1, 4, 3, 32, dtype=torch.int8), "k": torch.zeros(1, 4, 2, 32, dtype=torch.int8), "v": torch.zeros(1, 4, 2, 32, dtype=torch.int8)}),
    "scale-shape": ("q_descale must be", {"q_descale": torch.ones(1, 3)}),
    "scale-dtype": ("k_descale must be", {"k_descale": torch.ones(1, 1, dtype=torch.float64)}),
    "block-scale-shape": ("k_descale must be", {"k_descale": torch.ones(1, 1, 2), "block_size": 4}),
    "block-size": ("block_size", {"block_size": 0}),
    "out": ("out_dtype", {"out_dtype": torch.int8}),
    "softcap": ("softcap", {"softcap": math.inf}),
}  # fmt: skip


@pytest.mark.parametrize(("words", "change"), BAD.values(), ids=BAD.keys())
def test_bad_arguments(words: str, change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "q": torch.zeros(1, 4, 2, 32, dtype=torch.int8),
        "k": torch.zeros(1, 4, 1, 32, dtype=torch.int8),
        "v": torch.zeros(1, 4, 1, 32, dtype=torch.int8),
        **change,
    }
    with pytest.raises(ValueError, match=words):
        flash_attn_quantized_func(**arguments)


def test_quantize_refuses_other_types() -> None:
    with pytest.raises(ValueError, match="dtype must be"):
        quantize(torch.zeros(1, 2, 3, 4), torch.float16)
    with pytest.raises(ValueError, match="block_size"):
        quantize(torch.zeros(1, 2, 3, 4), torch.int8, 0)
