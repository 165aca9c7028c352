"""Rotary position embedding: the kernel, its plain PyTorch definition and the interface of flash_attn.layers.rotary.

A pair (x0, x1) of a token at position p is turned by the angle of that pair and position:

    y0 = x0 cos - x1 sin,    y1 = x0 sin + x1 cos

The pairs are neighbours (interleaved, GPT-J) or half a rotary dimension apart (GPT-NeoX, Llama). The transposed
rotation, which is the gradient, is the same with sin negated. Su et al., https://arxiv.org/abs/2104.09864.
"""

# mypy: ignore-errors
from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import triton
import triton.language as tl

from .compat import FUSED, device_guard, use_kernels
from .primitives import narrow

__all__ = [
    "apply_rotary",
    "apply_rotary_emb",
    "apply_rotary_emb_func",
    "apply_rotary_emb_torch",
]


@triton.jit
def rotate(x0, x1, cos, sin):
    """Turns each pair (x0, x1) by the angle whose cosine and sine are given."""
    return x0 * cos - x1 * sin, x0 * sin + x1 * cos


@triton.jit
def pair_offsets(o_half, ROTARY_DIM: tl.constexpr, INTERLEAVED: tl.constexpr):
    """Where in a head the two members of pair `o_half` stand."""
    if INTERLEAVED:
        return 2 * o_half, 2 * o_half + 1
    else:
        return o_half, o_half + ROTARY_DIM // 2


@triton.jit(do_not_specialize=["seqlen", "heads", "seqlen_ro", "position"])
def rotary_kernel(
    X,
    OUT,
    COS,
    SIN,
    POSITIONS,  # (batch,) position of each sequence's first token, or None
    CU_SEQLENS,  # (batch + 1,) or None
    seqlen,
    heads,
    seqlen_ro,
    position,  # of the first token, where POSITIONS is None
    stride_xb,
    stride_xm,
    stride_xh,
    stride_xd,
    stride_ob,
    stride_om,
    stride_oh,
    stride_od,
    stride_cos,
    stride_sin,
    HEAD_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    CONJUGATE: tl.constexpr,
    INPLACE: tl.constexpr,
    SAME_POSITION: tl.constexpr,  # every token of a sequence stands at its first position
    BLOCK_R: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_REST: tl.constexpr,
):
    """One program turns BLOCK_R rows; a row is one head of one token, heads of a token side by side."""
    # -- which rows --
    batch = tl.program_id(1)
    if CU_SEQLENS is not None:
        first = tl.load(CU_SEQLENS + batch)
        seqlen = tl.load(CU_SEQLENS + batch + 1) - first
        X += first.to(tl.int64) * stride_xm
        OUT += first.to(tl.int64) * stride_om
    else:
        X += batch.to(tl.int64) * stride_xb
        OUT += batch.to(tl.int64) * stride_ob
    o_row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    o_token = o_row // heads
    o_head = o_row % heads
    m_row = o_token < seqlen
    # int64: tokens of one sequence times the row stride may pass 2^31.
    p_x = X + o_token.to(tl.int64) * stride_xm + o_head.to(tl.int64) * stride_xh
    p_out = OUT + o_token.to(tl.int64) * stride_om + o_head.to(tl.int64) * stride_oh

    # -- angles, [BLOCK_R, BLOCK_HALF]; beyond the table a token is left as it is --
    if POSITIONS is not None:
        position = tl.load(POSITIONS + batch)
    o_angle = position + o_token * (0 if SAME_POSITION else 1)
    o_half = tl.arange(0, BLOCK_HALF)
    m_pair = m_row[:, None] & (o_half < ROTARY_DIM // 2)[None, :]
    m_angle = m_pair & (o_angle < seqlen_ro)[:, None]
    cos = tl.load(COS + o_angle[:, None] * stride_cos + o_half[None, :], mask=m_angle, other=1.0).to(tl.float32)
    sin = tl.load(SIN + o_angle[:, None] * stride_sin + o_half[None, :], mask=m_angle, other=0.0).to(tl.float32)
    if CONJUGATE:
        sin = -sin

    # -- turn the pairs, [BLOCK_R, BLOCK_HALF] each --
    o_first, o_second = pair_offsets(o_half, ROTARY_DIM, INTERLEAVED)
    x0 = tl.load(p_x[:, None] + o_first[None, :] * stride_xd, mask=m_pair, other=0.0).to(tl.float32)
    x1 = tl.load(p_x[:, None] + o_second[None, :] * stride_xd, mask=m_pair, other=0.0).to(tl.float32)
    y0, y1 = rotate(x0, x1, cos, sin)
    if INPLACE:
        # A tile smaller than the program's threads is held by several of them: none may store before all have loaded.
        tl.debug_barrier()
    tl.store(p_out[:, None] + o_first[None, :] * stride_od, narrow(y0, OUT.dtype.element_ty), mask=m_pair)
    tl.store(p_out[:, None] + o_second[None, :] * stride_od, narrow(y1, OUT.dtype.element_ty), mask=m_pair)

    # -- dimensions beyond the rotary ones are copied, [BLOCK_R, BLOCK_REST] --
    if BLOCK_REST > 0:
        o_rest = ROTARY_DIM + tl.arange(0, BLOCK_REST)
        m_rest = m_row[:, None] & (o_rest < HEAD_DIM)[None, :]
        rest = tl.load(p_x[:, None] + o_rest[None, :] * stride_xd, mask=m_rest, other=0.0)
        tl.store(p_out[:, None] + o_rest[None, :] * stride_od, rest, mask=m_rest)


def apply_rotary_emb_torch(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool = False
) -> torch.Tensor:
    """The definition, in plain PyTorch and the dtype of its operands.

    x: (batch, seqlen, heads, head_dim); cos, sin: (seqlen, rotary_dim / 2) or (batch, seqlen, rotary_dim / 2).
    Returns a new tensor like x whose first rotary_dim dimensions are turned.
    """
    rotary_dim = 2 * cos.shape[-1]
    if rotary_dim > x.shape[-1]:
        raise ValueError(f"rotary_dim must be at most head_dim: got {rotary_dim} and {x.shape[-1]}")
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)  # (..., seqlen, 1, rotary_dim / 2)
    turned, rest = x[..., :rotary_dim], x[..., rotary_dim:]
    if interleaved:
        x0, x1 = turned[..., ::2], turned[..., 1::2]
        turned = torch.stack((x0 * cos - x1 * sin, x0 * sin + x1 * cos), dim=-1).flatten(-2)
    else:
        x0, x1 = turned.chunk(2, dim=-1)
        turned = torch.cat((x0 * cos - x1 * sin, x0 * sin + x1 * cos), dim=-1)
    return torch.cat((turned, rest), dim=-1)


def apply_rotary(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    seqlen_offsets: int | torch.Tensor = 0,
    cu_seqlens: torch.Tensor | None = None,
    max_seqlen: int | None = None,
    interleaved: bool = False,
    inplace: bool = False,
    conjugate: bool = False,
    same_position: bool = False,
) -> torch.Tensor:
    """Turns the first rotary_dim dimensions of x; no autograd (see apply_rotary_emb).

    x: (batch, seqlen, heads, head_dim), or (total_tokens, heads, head_dim) with cu_seqlens (batch + 1,) int32 and
    max_seqlen. cos, sin: (seqlen_ro, rotary_dim / 2). seqlen_offsets: position of the first token, one for all or
    (batch,) int32/int64. conjugate: turn back. same_position: all tokens of a sequence stand at its first position.
    Returns x itself with inplace, else a new tensor. ValueError for arguments that do not fit.
    """
    seqlen = _check(x, cos, sin, seqlen_offsets, cu_seqlens, max_seqlen, same_position)
    positions = seqlen_offsets.contiguous() if isinstance(seqlen_offsets, torch.Tensor) else None
    position = 0 if isinstance(seqlen_offsets, torch.Tensor) else int(seqlen_offsets)
    cos, sin = (t if t.stride(-1) == 1 else t.contiguous() for t in (cos, sin))
    arguments = (cos, sin, positions, cu_seqlens, position, seqlen, interleaved, conjugate, same_position)
    compiling = torch.compiler.is_compiling()
    if inplace:
        (_turn_in_place_operator if compiling else _turn_in_place)(x, *arguments)
        return x
    return (_turn_operator if compiling else _turn)(x, *arguments)


def _turn(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    position: int,
    seqlen: int,
    interleaved: bool,
    conjugate: bool,
    same_position: bool,
) -> torch.Tensor:
    """x turned, in a new tensor. Arguments are checked; positions, where given, takes the place of position."""
    out = torch.empty_like(x)
    _launch(x, out, cos, sin, positions, cu_seqlens, position, seqlen, interleaved, conjugate, same_position)
    return out


def _turn_in_place(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    position: int,
    seqlen: int,
    interleaved: bool,
    conjugate: bool,
    same_position: bool,
) -> None:
    _launch(x, x, cos, sin, positions, cu_seqlens, position, seqlen, interleaved, conjugate, same_position)


# torch.compile sees one opaque operator each, instead of tracing into the launch. The same files may be imported twice
# in one process, as fa_doctor.kernels and as flash_attn: each copy names its own operators.
_NAMESPACE = (__package__ or "kernels").replace(".", "_")
_turn_operator = torch.library.custom_op(f"{_NAMESPACE}::rotary", _turn, mutates_args=())
_turn_in_place_operator = torch.library.custom_op(f"{_NAMESPACE}::rotary_", _turn_in_place, mutates_args=("x",))


@_turn_operator.register_fake
def _turn_fake(x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    return torch.empty_like(x)


def _launch(
    x: torch.Tensor,
    out: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    position: int,
    seqlen: int,
    interleaved: bool,
    conjugate: bool,
    same_position: bool,
) -> None:
    """Writes x turned into out, which may be x."""
    if x.numel() == 0:
        return
    if not use_kernels(x):
        offsets = position if positions is None else positions
        out.copy_(_reference(x, cos, sin, offsets, cu_seqlens, interleaved, conjugate, same_position))
        return
    heads, head_dim = x.shape[-2:]
    rotary_dim = 2 * cos.shape[1]
    packed = cu_seqlens is not None
    batch = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    rest = 0 if out is x or rotary_dim == head_dim else triton.next_power_of_2(head_dim - rotary_dim)
    block_half = triton.next_power_of_2(max(rotary_dim // 2, 1))
    block_r = max(8, min(64, 2048 // block_half))
    with device_guard(x):
        rotary_kernel[(triton.cdiv(seqlen * heads, block_r), batch)](
            x,
            out,
            cos,
            sin,
            positions,
            cu_seqlens,
            seqlen,
            heads,
            cos.shape[0],
            position,
            0 if packed else x.stride(0),
            *x.stride()[-3:],
            0 if packed else out.stride(0),
            *out.stride()[-3:],
            cos.stride(0),
            sin.stride(0),
            HEAD_DIM=head_dim,
            ROTARY_DIM=rotary_dim,
            INTERLEAVED=interleaved,
            CONJUGATE=conjugate,
            INPLACE=out is x,
            SAME_POSITION=same_position,
            BLOCK_R=block_r,
            BLOCK_HALF=block_half,
            BLOCK_REST=rest,
            num_warps=4,
            **FUSED,
        )


def _check(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    seqlen_offsets: int | torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    max_seqlen: int | None,
    same_position: bool,
) -> int:
    """The longest sequence, or a ValueError that says what does not fit."""
    if cu_seqlens is None:
        if x.dim() != 4:
            raise ValueError(f"x must be (batch, seqlen, heads, head_dim): got {tuple(x.shape)}")
        batch, seqlen = x.shape[:2]
    else:
        if max_seqlen is None:
            raise ValueError("max_seqlen must be given with cu_seqlens")
        if x.dim() != 3:
            raise ValueError(f"with cu_seqlens, x must be (total_tokens, heads, head_dim): got {tuple(x.shape)}")
        if cu_seqlens.dtype != torch.int32 or cu_seqlens.dim() != 1 or not cu_seqlens.is_contiguous():
            raise ValueError("cu_seqlens must be a contiguous int32 tensor of shape (batch + 1,)")
        batch, seqlen = cu_seqlens.shape[0] - 1, int(max_seqlen)
    if cos.dim() != 2 or cos.shape != sin.shape:
        raise ValueError(
            f"cos and sin must both be (seqlen_ro, rotary_dim / 2): got {tuple(cos.shape)}, {tuple(sin.shape)}"
        )
    if 2 * cos.shape[1] > x.shape[-1]:
        raise ValueError(f"rotary_dim must be at most head_dim: got {2 * cos.shape[1]} and {x.shape[-1]}")
    if x.shape[-1] > 256:
        raise ValueError(f"head_dim must be at most 256: got {x.shape[-1]}")
    if any(t.device != x.device for t in (cos, sin)):
        raise ValueError(f"x, cos and sin must be on one device: got {x.device}, {cos.device}, {sin.device}")
    if isinstance(seqlen_offsets, torch.Tensor):
        if seqlen_offsets.shape != (batch,) or seqlen_offsets.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"seqlen_offsets must be an int32 or int64 tensor of shape ({batch},): "
                f"got {seqlen_offsets.dtype} {tuple(seqlen_offsets.shape)}"
            )
    elif seqlen_offsets < 0 or seqlen_offsets + (1 if same_position else seqlen) > cos.shape[0]:
        raise ValueError(
            f"cos and sin hold {cos.shape[0]} positions: got tokens {seqlen_offsets} to {seqlen_offsets + seqlen}"
        )
    if not same_position and seqlen > cos.shape[0]:
        raise ValueError(f"cos and sin must hold at least seqlen positions: got {cos.shape[0]} for {seqlen}")
    return seqlen


def _reference(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    seqlen_offsets: int | torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    interleaved: bool,
    conjugate: bool,
    same_position: bool,
) -> torch.Tensor:
    """apply_rotary sequence by sequence through apply_rotary_emb_torch, in float32."""
    if cu_seqlens is None:
        sequences = list(x)
    else:
        ends = cu_seqlens.tolist()
        sequences = [x[a:b] for a, b in pairwise(ends)]
    first = seqlen_offsets.tolist() if isinstance(seqlen_offsets, torch.Tensor) else [seqlen_offsets] * len(sequences)
    out = []
    for tokens, start in zip(sequences, first, strict=True):
        steps = torch.zeros if same_position else torch.arange
        at = steps(tokens.shape[0], dtype=torch.long, device=x.device) + start
        inside = at < cos.shape[0]
        at = at.clamp(max=cos.shape[0] - 1)
        wide = torch.promote_types(x.dtype, torch.float32)
        c = torch.where(inside[:, None], cos[at].to(wide), 1.0)
        s = torch.where(inside[:, None], sin[at].to(wide), 0.0)
        out.append(apply_rotary_emb_torch(tokens.to(wide), c, -s if conjugate else s, interleaved))
    return torch.cat(out) if cu_seqlens is not None else torch.stack(out)


class _ApplyRotaryEmb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.options = options
        # In place, x is not marked dirty: as with flash-attn, a leaf that requires a gradient may be turned in place.
        return apply_rotary(x, cos, sin, **options)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        # Never in place: autograd may hand the same gradient tensor to others.
        turned_back = apply_rotary(grads[0], cos, sin, **{**ctx.options, "inplace": False}, conjugate=True)
        return turned_back, None, None, None


def apply_rotary_emb(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: int | torch.Tensor = 0,
    cu_seqlens: torch.Tensor | None = None,
    max_seqlen: int | None = None,
) -> torch.Tensor:
    """Rotary embedding of the first rotary_dim dimensions of x, differentiable with respect to x.

    x: (batch, seqlen, heads, head_dim), or (total_tokens, heads, head_dim) with cu_seqlens (batch + 1,) and max_seqlen.
    cos, sin: (seqlen_ro, rotary_dim / 2). interleaved: pairs are neighbours (GPT-J) rather than halves (GPT-NeoX).
    inplace: writes into x and returns it. seqlen_offsets: position of each sequence's first token, int or (batch,).
    Returns a tensor like x. Raises ValueError for arguments that do not fit.
    """
    options = {
        "interleaved": interleaved,
        "inplace": inplace,
        "seqlen_offsets": seqlen_offsets,
        "cu_seqlens": cu_seqlens,
        "max_seqlen": max_seqlen,
    }
    return _ApplyRotaryEmb.apply(x, cos, sin, options)


apply_rotary_emb_func = apply_rotary_emb
