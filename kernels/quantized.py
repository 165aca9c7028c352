"""Attention on 8-bit floating point and integers: quantising, and the forward pass. Inference only."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton

from .call import Call
from .compat import FUSED, device_guard, target_name, use_kernels
from .config import choose
from .quantized_forward import quantized_kernel
from .reference import attention
from .validation import check_options, check_slopes

__all__ = ["dequantize", "flash_attn_quantized_func", "quantize"]

# Names that the kernel knows the types by, and the largest number of each.
_FORMATS: dict[torch.dtype, tuple[str, float]] = {
    torch.float8_e4m3fn: ("e4m3fn", 448.0),
    torch.float8_e5m2: ("e5m2", 57344.0),
    torch.float8_e4m3fnuz: ("e4m3fnuz", 240.0),
    torch.float8_e5m2fnuz: ("e5m2fnuz", 57344.0),
    torch.int8: ("int8", 127.0),
}
_WIDE_VALUES = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


def quantize(x: torch.Tensor, dtype: torch.dtype, block_size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """x (B, S, H, D) as numbers of an 8-bit type and float32 scales: x = numbers * scale.

    One scale a head, (B, H); with block_size one for each so many tokens of a head, (B, H, ceil(S / block_size)). A scale
    makes the largest magnitude that it serves the largest number of the type. dtype: torch.float8_e4m3fn, float8_e5m2,
    float8_e4m3fnuz, float8_e5m2fnuz or int8. Raises ValueError for another.
    """
    if dtype not in _FORMATS:
        raise ValueError(f"dtype must be one of {', '.join(str(d) for d in _FORMATS)}: got {dtype}")
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"x must be floating point (B, S, H, D): got {x.dtype} {tuple(x.shape)}")
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be positive: got {block_size}")
    largest = _FORMATS[dtype][1]
    batch, seqlen, heads, _ = x.shape
    length = max(seqlen, 1) if block_size is None else block_size
    blocks = max(1, math.ceil(seqlen / length))
    peak = x.new_zeros((batch, blocks * length, heads), dtype=torch.float32)
    peak[:, :seqlen] = x.abs().amax(-1).float()
    peak = peak.view(batch, blocks, length, heads).amax(2).transpose(1, 2)  # (B, H, blocks)
    scale = torch.where(peak > 0, peak / largest, 1.0)
    scaled = x.float() / _spread(scale, seqlen, length)
    numbers = scaled.round().clamp(-largest, largest) if dtype == torch.int8 else scaled.clamp(-largest, largest)
    return numbers.to(dtype), (scale.squeeze(-1) if block_size is None else scale).contiguous()


def dequantize(x: torch.Tensor, scale: torch.Tensor, block_size: int | None = None) -> torch.Tensor:
    """What `quantize` stands for: x (B, S, H, D) times its scales, in float32."""
    length = max(x.shape[1], 1) if block_size is None else block_size
    return x.float() * _spread(scale if scale.dim() == 3 else scale[..., None], x.shape[1], length)


def _spread(scale: torch.Tensor, seqlen: int, length: int) -> torch.Tensor:
    """Scales (B, H, blocks) of `length` tokens each, token by token: (B, S, H, 1)."""
    return scale.repeat_interleave(length, dim=2)[:, :, :seqlen].transpose(1, 2)[..., None]


def flash_attn_quantized_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_descale: torch.Tensor | None = None,
    k_descale: torch.Tensor | None = None,
    v_descale: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    block_size: int | None = None,
    out_dtype: torch.dtype | None = None,
    return_softmax_lse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attention of 8-bit q with 8-bit k and v: softmax(cap(q k^T q_descale k_descale scale) + alibi) v v_descale.

    q: (B, Sq, H, D); k: (B, Sk, Hk, D), both of one type, an fp8 type or int8; H a multiple of Hk, D at most 256.
    v: (B, Sk, Hk, D), of an fp8 type or int8, or float16 or bfloat16: keys tolerate 8 bits better than values do.
    q_descale (B, H), k_descale, v_descale (B, Hk): float32, what the stored numbers are to be multiplied by; default 1.
        With block_size, q_descale (B, H, ceil(Sq / block_size)) and k_descale (B, Hk, ceil(Sk / block_size)) hold one
        scale for each so many tokens; v_descale stays one a head. `quantize` makes all of them.
    causal, window_size, softcap, alibi_slopes, softmax_scale: as flash_attn_func, masks aligned to the bottom right.
    out_dtype: float16, bfloat16 (default) or float32.

    Returns out (B, Sq, H, D); with return_softmax_lse also (B, H, Sq) float32, the natural log of each row's softmax
    sum, +inf for a row that sees no key (its output is 0). Forward only. Raises ValueError for arguments that do not fit.

    Where the GPU multiplies the type itself (fp8: Hopper, gfx942 for the fnuz types, gfx950, gfx12; int8: all), it does;
    on AMD GPUs probabilities are rounded to fp8 then, if v is fp8. Elsewhere (fp8 on gfx90a and RDNA3, say) the numbers
    become float16 inside of the kernel, exactly: less memory traffic, no faster arithmetic.
    """
    batch, seqlen_q, heads, head_dim = _check(q, k, v, out_dtype)
    heads_k, seqlen_k = k.shape[2], k.shape[1]
    scale = head_dim**-0.5 if softmax_scale is None else float(softmax_scale)
    check_options(0.0, softcap, scale)
    check_slopes(alibi_slopes, batch, heads, q.device)
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be positive: got {block_size}")
    blocks_q, blocks_k = ((math.ceil(s / block_size) if block_size else 1) for s in (seqlen_q, seqlen_k))
    q_descale = _descale("q_descale", q_descale, q, heads, blocks_q if block_size else None)
    k_descale = _descale("k_descale", k_descale, q, heads_k, blocks_k if block_size else None)
    v_descale = _descale("v_descale", v_descale, q, heads_k, None)
    left, right = int(window_size[0]), 0 if causal else int(window_size[1])
    dtype = torch.bfloat16 if out_dtype is None else out_dtype

    if not use_kernels(q):
        real_k = dequantize(k, k_descale, block_size)
        real_v = dequantize(v, v_descale)
        real_q = dequantize(q, q_descale, block_size)
        out, lse, _ = attention(
            real_q,
            real_k,
            real_v,
            softmax_scale=scale,
            window_size=(left, right),
            softcap=softcap,
            alibi_slopes=alibi_slopes,
        )
        return (out.to(dtype), lse) if return_softmax_lse else out.to(dtype)

    out = torch.empty((batch, seqlen_q, heads, head_dim), dtype=dtype, device=q.device)
    lse = torch.empty((batch, heads, seqlen_q), dtype=torch.float32, device=q.device)
    if out.numel():
        _launch(
            q,
            k,
            v,
            out,
            lse,
            q_descale,
            k_descale,
            v_descale,
            alibi_slopes,
            (blocks_q, blocks_k, block_size or 1),
            (max(left, -1), max(right, -1)),
            scale,
            softcap,
            block_size is not None,
        )
    return (out, lse) if return_softmax_lse else out


def _check(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out_dtype: torch.dtype | None
) -> tuple[int, int, int, int]:
    """q's shape, or a ValueError that says what does not fit."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4:
            raise ValueError(f"{name} must be (batch, seqlen, heads, head_dim): got shape {tuple(x.shape)}")
        if x.device != q.device:
            raise ValueError(f"{name} must be on q's device {q.device}: got {x.device}")
        if x.stride(-1) != 1:
            raise ValueError(f"{name} must have a contiguous last dimension")
    if q.dtype not in _FORMATS or k.dtype != q.dtype:
        raise ValueError(f"q and k must have one 8-bit type (fp8 or int8): got {q.dtype} and {k.dtype}")
    if v.dtype not in _FORMATS and v.dtype not in _WIDE_VALUES:
        raise ValueError(f"v must be fp8, int8, float16 or bfloat16: got {v.dtype}")
    if out_dtype not in (None, torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"out_dtype must be float16, bfloat16 or float32: got {out_dtype}")
    batch, seqlen_q, heads, head_dim = q.shape
    if k.shape != v.shape or k.shape[0] != batch or k.shape[3] != head_dim:
        raise ValueError(
            f"k and v must be ({batch}, seqlen_k, heads_k, {head_dim}): got {tuple(k.shape)} and {tuple(v.shape)}"
        )
    if not 1 <= head_dim <= 256:
        raise ValueError(f"head_dim must be 1 to 256: got {head_dim}")
    if k.shape[2] == 0 or heads % k.shape[2]:
        raise ValueError(f"heads of q must be a multiple of heads of k: got {heads} and {k.shape[2]}")
    return batch, seqlen_q, heads, head_dim


def _descale(name: str, scale: torch.Tensor | None, q: torch.Tensor, heads: int, blocks: int | None) -> torch.Tensor:
    """A scale of the expected shape on q's device, ones where none is given."""
    shape = (q.shape[0], heads) if blocks is None else (q.shape[0], heads, blocks)
    if scale is None:
        return torch.ones(shape, dtype=torch.float32, device=q.device)
    if tuple(scale.shape) != shape or scale.dtype != torch.float32 or scale.device != q.device:
        raise ValueError(
            f"{name} must be float32 {shape} on {q.device}: got {scale.dtype} {tuple(scale.shape)} on {scale.device}"
        )
    return scale.contiguous()


def native(target: str, dtype: torch.dtype) -> bool:
    """Whether the matrix unit of a target multiplies the type itself, through Triton's tl.dot.

    CUDA: PTX ISA, mma (fp8 from sm_89, int8 from sm_75). AMD: instruction set documents of CDNA 3 (fnuz fp8), CDNA 4 and
    RDNA 4 (OCP fp8), int8 from CDNA 1 and RDNA 3.
    """
    fnuz = dtype in (torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
    if target.startswith("sm_"):
        return not fnuz and int(target[3:]) >= (75 if dtype == torch.int8 else 89)
    if dtype == torch.int8:
        return target.startswith(("gfx9", "gfx11", "gfx12"))
    return target == "gfx942" if fnuz else target.startswith(("gfx950", "gfx12"))


def _launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    q_descale: torch.Tensor,
    k_descale: torch.Tensor,
    v_descale: torch.Tensor,
    slopes: torch.Tensor | None,
    blocks: tuple[int, int, int],
    window: tuple[int, int],
    scale: float,
    softcap: float,
    block_scales: bool,
) -> None:
    batch, seqlen_q, heads, head_dim = q.shape
    heads_k, seqlen_k = k.shape[2], k.shape[1]
    left, right = window
    target = target_name(q)
    direct = native(target, q.dtype) and (v.dtype in _WIDE_VALUES or v.dtype == torch.int8 or native(target, v.dtype))
    used = {"native": direct, "wide_values": v.dtype in _WIDE_VALUES, "int8": q.dtype == torch.int8}
    chosen = choose(target, "quantized", head_dim, q.dtype, frozenset(name for name, has in used.items() if has))
    stored: list[Any] = [x.view(torch.uint8) if x.dtype.is_floating_point and x.itemsize == 1 else x for x in (q, k, v)]
    v_format = _WIDE_VALUES[v.dtype] if v.dtype in _WIDE_VALUES else _FORMATS[v.dtype][0]
    with device_guard(q):
        quantized_kernel[(triton.cdiv(seqlen_q, chosen.block_m) * heads * batch,)](
            *stored, out, lse, q_descale, k_descale, v_descale, slopes,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            slopes.stride(0) if slopes is not None and slopes.dim() == 2 else 0,
            heads, heads // heads_k, seqlen_q, seqlen_k, *blocks, left, right,
            scale * math.log2(math.e), softcap,
            HEAD_DIM=head_dim, BLOCK_D=max(32, Call.block_d(head_dim)),
            BLOCK_M=chosen.block_m, BLOCK_N=chosen.block_n,
            FORMAT=_FORMATS[q.dtype][0], V_FORMAT=v_format, NATIVE=direct, NATIVE_VALUES=direct and target.startswith("gfx"), BLOCK_SCALES=block_scales,
            LEFT=left >= 0, RIGHT=right >= 0, SOFTCAP=softcap > 0,
            num_warps=chosen.num_warps, num_stages=chosen.num_stages, **FUSED, **chosen.options,
        )  # fmt: skip
