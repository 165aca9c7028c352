"""Writes new keys and values into the cache, the keys rotated, each token at its place."""

# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl

from .compat import FUSED, device_guard
from .primitives import narrow
from .rotary import pair_offsets, rotate

__all__ = ["append_to_cache"]


@triton.jit(do_not_specialize=["heads", "page_size", "seqlen_new", "seqlen_cache", "seqlen_ro", "stride_table"])
def append_kernel(
    K_NEW,
    V_NEW,
    K,
    V,
    CACHE_SEQLENS,  # (batch,)
    CACHE_BATCH_IDX,  # (batch,) or None
    BLOCK_TABLE,  # (batch, pages) or None
    COS,  # (seqlen_ro, ROTARY_DIM / 2) or None
    SIN,
    heads,
    page_size,
    seqlen_new,
    seqlen_cache,
    seqlen_ro,
    stride_knb,
    stride_knm,
    stride_knh,
    stride_vnb,
    stride_vnm,
    stride_vnh,
    stride_kb,
    stride_kn,
    stride_kh,
    stride_vb,
    stride_vn,
    stride_vh,
    stride_table,
    stride_cos,
    stride_sin,
    HEAD_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """One program appends BLOCK_R rows of one sequence; a row is one head of one new token."""
    # -- which rows, and their positions in the cache --
    batch = tl.program_id(1)
    o_row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    o_token = o_row // heads
    o_head = o_row % heads
    o_position = tl.load(CACHE_SEQLENS + batch) + o_token
    # A token that does not fit is dropped: writing it would destroy another sequence's keys.
    m_row = (o_token < seqlen_new) & (o_position >= 0) & (o_position < seqlen_cache)

    # -- where they go --
    if BLOCK_TABLE is not None:
        p_page = BLOCK_TABLE + batch.to(tl.int64) * stride_table + o_position // page_size
        o_block = tl.load(p_page, mask=m_row, other=0).to(tl.int64)
        o_slot = (o_position % page_size).to(tl.int64)
    else:
        row_of_cache = batch
        if CACHE_BATCH_IDX is not None:
            row_of_cache = tl.load(CACHE_BATCH_IDX + batch)
        o_block = row_of_cache.to(tl.int64)
        o_slot = o_position.to(tl.int64)
    p_k = K + o_block * stride_kb + o_slot * stride_kn + o_head * stride_kh
    p_v = V + o_block * stride_vb + o_slot * stride_vn + o_head * stride_vh
    o_source = o_token.to(tl.int64)
    p_kn = K_NEW + batch.to(tl.int64) * stride_knb + o_source * stride_knm + o_head * stride_knh
    p_vn = V_NEW + batch.to(tl.int64) * stride_vnb + o_source * stride_vnm + o_head * stride_vnh

    # -- values and the unrotated dimensions of keys are copied, [BLOCK_R, BLOCK_D] --
    o_d = tl.arange(0, BLOCK_D)
    m_all = m_row[:, None] & (o_d < HEAD_DIM)[None, :]
    v = tl.load(p_vn[:, None] + o_d[None, :], mask=m_all, other=0.0)
    tl.store(p_v[:, None] + o_d[None, :], v, mask=m_all)
    if ROTARY_DIM < HEAD_DIM:
        m_rest = m_all & (o_d >= ROTARY_DIM)[None, :]
        rest = tl.load(p_kn[:, None] + o_d[None, :], mask=m_rest, other=0.0)
        tl.store(p_k[:, None] + o_d[None, :], rest, mask=m_rest)

    # -- the other dimensions of keys are turned by the token's angle, [BLOCK_R, BLOCK_HALF] --
    if ROTARY_DIM > 0:
        o_half = tl.arange(0, BLOCK_HALF)
        m_pair = m_row[:, None] & (o_half < ROTARY_DIM // 2)[None, :]
        m_angle = m_pair & (o_position < seqlen_ro)[:, None]
        cos = tl.load(COS + o_position[:, None] * stride_cos + o_half[None, :], mask=m_angle, other=1.0)
        sin = tl.load(SIN + o_position[:, None] * stride_sin + o_half[None, :], mask=m_angle, other=0.0)
        o_first, o_second = pair_offsets(o_half, ROTARY_DIM, INTERLEAVED)
        k0 = tl.load(p_kn[:, None] + o_first[None, :], mask=m_pair, other=0.0).to(tl.float32)
        k1 = tl.load(p_kn[:, None] + o_second[None, :], mask=m_pair, other=0.0).to(tl.float32)
        y0, y1 = rotate(k0, k1, cos.to(tl.float32), sin.to(tl.float32))
        tl.store(p_k[:, None] + o_first[None, :], narrow(y0, K.dtype.element_ty), mask=m_pair)
        tl.store(p_k[:, None] + o_second[None, :], narrow(y1, K.dtype.element_ty), mask=m_pair)


def append_to_cache(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    cache_seqlens: torch.Tensor,
    cache_batch_idx: torch.Tensor | None,
    block_table: torch.Tensor | None,
    rotary_cos: torch.Tensor | None,
    rotary_sin: torch.Tensor | None,
    rotary_interleaved: bool,
) -> None:
    """Writes k and v (batch, seqlen_new, heads_k, head_dim) into the cache at cache_seqlens onwards, keys rotated."""
    batch, seqlen_new, heads, head_dim = k.shape
    if k.numel() == 0:
        return
    page_size = 0 if block_table is None else k_cache.shape[1]
    seqlen_cache = k_cache.shape[1] if block_table is None else block_table.shape[1] * page_size
    rotary_dim = 0 if rotary_cos is None else 2 * rotary_cos.shape[1]
    block_d = triton.next_power_of_2(head_dim)
    block_r = max(8, min(64, 4096 // block_d))
    with device_guard(k):
        append_kernel[(triton.cdiv(seqlen_new * heads, block_r), batch)](
            k,
            v,
            k_cache,
            v_cache,
            cache_seqlens,
            cache_batch_idx,
            block_table,
            rotary_cos,
            rotary_sin,
            heads,
            page_size,
            seqlen_new,
            seqlen_cache,
            0 if rotary_cos is None else rotary_cos.shape[0],
            *k.stride()[:3],
            *v.stride()[:3],
            *k_cache.stride()[:3],
            *v_cache.stride()[:3],
            0 if block_table is None else block_table.stride(0),
            0 if rotary_cos is None else rotary_cos.stride(0),
            0 if rotary_sin is None else rotary_sin.stride(0),
            HEAD_DIM=head_dim,
            ROTARY_DIM=rotary_dim,
            INTERLEAVED=rotary_interleaved,
            BLOCK_R=block_r,
            BLOCK_D=block_d,
            BLOCK_HALF=max(1, triton.next_power_of_2(max(1, rotary_dim // 2))),
            num_warps=4,
            **FUSED,
        )
