"""Attention of a few queries to a long key/value cache: the split-KV kernel, and the kernel that combines the splits.

With one query a sequence, attention reads every key and value once and computes little: it can be as fast as memory is.
Two things make it so. All query heads that share a key/value head are rows of one tile, so that keys are read once for
all of them; and the keys of one sequence are cut into splits that run side by side, enough of them to fill the GPU.
Each split gives an output normalised by its own softmax sum, and the log of that sum; the second kernel weighs them
together, which is exact (Flash-Decoding, Dao et al. 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html).

Positions count from the start of the cache. A sequence of `total` keys has its queries at positions total - seqlen_q to
total - 1: that aligns the causal mask to the bottom right.
"""

# mypy: ignore-errors
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl

from .compat import device_guard
from .primitives import LN2, LOG2E, LOWEST, in_sight, matmul, narrow, scores_log2

__all__ = ["DecodeArguments", "choose_splits", "decode_attention"]

MAX_SPLITS = 128


@triton.jit
def key_pointers(
    X,  # first element of this head, of this sequence's row of the cache (of page 0, if paged)
    BLOCK_TABLE,  # this sequence's row of the table
    start,
    o_n,
    m_n,
    stride_page,
    stride_n,
    PAGED: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Pointers to keys start + 0 ... start + BLOCK_N - 1, [BLOCK_N]; int64 where the cache may pass 2^31 elements."""
    if not PAGED:
        return X + tl.cast(start, tl.int64) * stride_n + o_n * stride_n
    elif PAGE_SIZE % BLOCK_N == 0:
        # Tiles start at multiples of BLOCK_N, so the whole tile is in one page.
        page = tl.load(BLOCK_TABLE + start // PAGE_SIZE).to(tl.int64)
        return X + page * stride_page + (start % PAGE_SIZE) * stride_n + o_n * stride_n
    else:
        page = tl.load(BLOCK_TABLE + (start + o_n) // PAGE_SIZE, mask=m_n, other=0).to(tl.int64)
        return X + page * stride_page + ((start + o_n) % PAGE_SIZE) * stride_n


@triton.jit
def decode_kernel(
    Q,
    K,
    V,
    OUT,
    LSE,
    CACHE_SEQLENS,  # (batch,) or None: the cache is full
    CACHE_BATCH_IDX,  # (batch,) or None: row b of the cache is sequence b
    CACHE_LEFTPAD,  # (batch,) or None: 0
    BLOCK_TABLE,  # (batch, pages) or None: not paged
    ALIBI_SLOPES,  # (batch or 1, heads) or None
    scale_log2,
    softcap,
    seqlen_q,
    seqlen_cache,
    seqlen_new,
    left,
    right,
    num_splits,
    stride_qb,
    stride_qm,
    stride_qh,
    stride_kb,
    stride_kn,
    stride_kh,
    stride_vb,
    stride_vn,
    stride_vh,
    stride_os,
    stride_ob,
    stride_om,
    stride_oh,
    stride_ls,
    stride_lb,
    stride_lh,
    stride_table,
    stride_slopes,
    GROUP: tl.constexpr,  # query heads to a key/value head
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SPLIT: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program: BLOCK_M rows (a row is one query of one head of the group) against one split of the keys."""
    PAGED: tl.constexpr = BLOCK_TABLE is not None
    ALIBI: tl.constexpr = ALIBI_SLOPES is not None
    # -- which rows --
    split = tl.program_id(0) % num_splits
    first_row = (tl.program_id(0) // num_splits) * BLOCK_M
    head_k = tl.program_id(1)
    batch = tl.program_id(2)
    o_row = first_row + tl.arange(0, BLOCK_M)
    o_query = o_row // GROUP
    o_head = head_k * GROUP + o_row % GROUP
    m_row = o_query < seqlen_q
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < HEAD_DIM

    # -- which keys: [leftpad, total) of the cache, less what the window hides from every row of the tile --
    total = seqlen_cache
    if CACHE_SEQLENS is not None:
        # Never beyond the cache, whatever the lengths say.
        total = tl.minimum(tl.load(CACHE_SEQLENS + batch) + seqlen_new, seqlen_cache)
    leftpad = 0
    if CACHE_LEFTPAD is not None:
        leftpad = tl.load(CACHE_LEFTPAD + batch)
    shift = total - seqlen_q
    begin, end = leftpad, total
    if LEFT:
        begin = tl.maximum(begin, shift + first_row // GROUP - left)
    if RIGHT:
        last_query = tl.minimum((first_row + BLOCK_M - 1) // GROUP, seqlen_q - 1)
        end = tl.minimum(end, shift + last_query + right + 1)
    # Tiles start at multiples of BLOCK_N, so that none crosses a page; each split takes as many.
    begin = begin // BLOCK_N * BLOCK_N
    tiles = tl.cdiv(tl.maximum(end - begin, 0), BLOCK_N)
    span = tl.cdiv(tiles, num_splits) * BLOCK_N
    begin += split * span
    end = tl.minimum(end, begin + span)

    # -- where they are --
    row_of_cache = batch
    if CACHE_BATCH_IDX is not None:
        row_of_cache = tl.load(CACHE_BATCH_IDX + batch)
    if PAGED:
        BLOCK_TABLE += batch.to(tl.int64) * stride_table
        K += head_k * stride_kh
        V += head_k * stride_vh
    else:
        K += row_of_cache.to(tl.int64) * stride_kb + head_k * stride_kh
        V += row_of_cache.to(tl.int64) * stride_vb + head_k * stride_vh

    # -- queries, [BLOCK_M, BLOCK_D] --
    p_q = Q + batch.to(tl.int64) * stride_qb + o_query.to(tl.int64) * stride_qm + o_head * stride_qh
    q = tl.load(p_q[:, None] + o_d[None, :], mask=m_row[:, None] & m_d[None, :], other=0.0)
    slope = tl.zeros([BLOCK_M], tl.float32)
    if ALIBI:
        slope = tl.load(ALIBI_SLOPES + batch * stride_slopes + o_head, mask=m_row, other=0.0) * LOG2E

    row_max = tl.full([BLOCK_M], LOWEST, tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    o_n = tl.arange(0, BLOCK_N)
    for start in range(begin, end, BLOCK_N):
        n = start + o_n
        # What the cache holds outside of [leftpad, total) may be NaN, and 0 * NaN is NaN: it must not be loaded.
        m_n = (n >= leftpad) & (n < total)

        # -- scores, [BLOCK_M, BLOCK_N], in units of log 2 --
        p_k = key_pointers(K, BLOCK_TABLE, start, o_n, m_n, stride_kb, stride_kn, PAGED, PAGE_SIZE, BLOCK_N)
        k = tl.load(p_k[:, None] + o_d[None, :], mask=m_n[:, None] & m_d[None, :], other=0.0)
        s = matmul(q, tl.trans(k), tl.zeros([BLOCK_M, BLOCK_N], tl.float32), EXACT)
        s = scores_log2(
            s, o_query[:, None], n[None, :], shift, scale_log2, softcap, slope[:, None], SOFTCAP, ALIBI, EXACT
        )
        seen = in_sight(o_query[:, None], n[None, :], shift, left, right, 0, total, LEFT, RIGHT, False)
        s = tl.where(seen & m_n[None, :], s, float("-inf"))

        # -- softmax so far: rescale by what the new maximum makes of the old one --
        new_max = tl.maximum(row_max, tl.max(s, 1))
        p = tl.exp2(s - new_max[:, None])
        shrink = tl.exp2(row_max - new_max)
        row_sum = row_sum * shrink + tl.sum(p, 1)
        row_max = new_max

        # -- weighted values, [BLOCK_M, BLOCK_D] --
        p_v = key_pointers(V, BLOCK_TABLE, start, o_n, m_n, stride_vb, stride_vn, PAGED, PAGE_SIZE, BLOCK_N)
        v = tl.load(p_v[:, None] + o_d[None, :], mask=m_n[:, None] & m_d[None, :], other=0.0)
        acc = matmul(narrow(p, v.dtype), v, acc * shrink[:, None], EXACT)

    # -- output and log of the softmax sum; a row without keys gives 0, and +inf as flash-attn does, -inf as a part --
    empty = row_sum == 0.0
    safe_sum = tl.where(empty, 1.0, row_sum)
    out = acc / safe_sum[:, None]
    lse = tl.where(empty, float("-inf") if SPLIT else float("inf"), (row_max + tl.log2(safe_sum)) * LN2)
    p_out = OUT + split.to(tl.int64) * stride_os + batch.to(tl.int64) * stride_ob
    p_out += o_query.to(tl.int64) * stride_om + o_head * stride_oh
    tl.store(p_out[:, None] + o_d[None, :], narrow(out, OUT.dtype.element_ty), mask=m_row[:, None] & m_d[None, :])
    p_lse = LSE + split.to(tl.int64) * stride_ls + batch.to(tl.int64) * stride_lb + o_head * stride_lh + o_query
    tl.store(p_lse, lse, mask=m_row)


@triton.jit
def combine_kernel(
    PARTS,  # (splits, batch, heads, seqlen_q, head_dim) float32
    PARTS_LSE,  # (splits, batch, heads, seqlen_q) float32
    OUT,
    LSE,  # (batch, heads, seqlen_q)
    num_splits,
    seqlen_q,
    rows,  # batch * heads * seqlen_q
    stride_ob,
    stride_om,
    stride_oh,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program: one row. out = sum of part_s exp(lse_s - lse), lse = log of the sum of exp(lse_s)."""
    row = tl.program_id(0).to(tl.int64)
    query = row % seqlen_q
    head = row // seqlen_q % HEADS
    batch = row // seqlen_q // HEADS

    # -- the common sum; splits without keys have -inf and weigh nothing --
    o_s = tl.arange(0, BLOCK_S)
    lse_s = tl.load(PARTS_LSE + o_s * rows + row, mask=o_s < num_splits, other=float("-inf"))
    top = tl.max(lse_s, 0)
    pivot = tl.where(top == float("-inf"), 0.0, top)
    total = tl.sum(tl.exp(lse_s - pivot), 0)
    empty = total == 0.0
    lse = pivot + tl.log(tl.where(empty, 1.0, total))
    tl.store(LSE + row, tl.where(empty, float("inf"), lse))

    # -- the weighted parts, [BLOCK_CHUNK, BLOCK_D] at a time --
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < HEAD_DIM
    out = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, num_splits, BLOCK_CHUNK):
        o_c = start + tl.arange(0, BLOCK_CHUNK)
        m_c = o_c < num_splits
        weight = tl.exp(tl.load(PARTS_LSE + o_c * rows + row, mask=m_c, other=float("-inf")) - lse)
        p_part = PARTS + (o_c * rows + row) * HEAD_DIM
        part = tl.load(p_part[:, None] + o_d[None, :], mask=m_c[:, None] & m_d[None, :], other=0.0)
        out += tl.sum(part * weight[:, None], 0)
    p_out = OUT + batch * stride_ob + query * stride_om + head * stride_oh
    tl.store(p_out + o_d, narrow(out, OUT.dtype.element_ty), mask=m_d)


@dataclass(frozen=True)
class DecodeArguments:
    """What decode_attention needs beyond q and the cache; checked by the caller."""

    softmax_scale: float
    window_left: int = -1
    window_right: int = -1
    softcap: float = 0.0
    seqlen_new: int = 0
    cache_seqlens: torch.Tensor | None = None
    cache_batch_idx: torch.Tensor | None = None
    cache_leftpad: torch.Tensor | None = None
    block_table: torch.Tensor | None = None
    alibi_slopes: torch.Tensor | None = None
    num_splits: int = 0


@dataclass(frozen=True)
class Tile:
    """Tile sizes and compiler options of one launch."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def choose_tile(rows: int, head_dim: int, dtype: torch.dtype) -> Tile:
    """Tile for so many packed rows: decoding wants long key tiles, a longer query wants more rows to reuse them."""
    wide = dtype == torch.float32
    block_m = 16 if rows <= 16 else 32 if rows <= 32 else 64
    block_n = 64 if head_dim <= 128 else 32
    if wide:
        block_n //= 2
    return Tile(block_m, block_n, 4, 2)


@lru_cache(maxsize=1024)
def choose_splits(programs: int, tiles: int, units: int, occupancy: int = 2) -> int:
    """How many splits make the longest-running compute unit finish first.

    programs: independent programs before splitting; tiles: key tiles of a sequence; units: compute units of the GPU;
    occupancy: programs a compute unit runs at once. The cost of s splits, in tile times, is the number of waves of
    programs times what one of them does: ceil(tiles / s) tiles and a start-up worth about 2; more than one split costs
    a second kernel, whose work grows with s.
    """
    slots = units * occupancy

    def cost(splits: int) -> float:
        waves = math.ceil(programs * splits / slots)
        combine = 0.0 if splits == 1 else 4.0 + splits / 16.0
        return waves * (math.ceil(tiles / splits) + 2.0) + combine

    return min(range(1, max(1, min(MAX_SPLITS, tiles)) + 1), key=cost)


def compute_units(x: torch.Tensor) -> int:
    """Compute units (multiprocessors) of x's GPU; 1 for a CPU tensor."""
    return _gpu_compute_units(x.device.index) if x.is_cuda else 1


@lru_cache(maxsize=64)
def _gpu_compute_units(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def decode_attention(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, args: DecodeArguments
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of q (batch, seqlen_q, heads, head_dim) to the cache as it stands, appended keys included.

    k_cache, v_cache: (rows, seqlen_cache, heads_k, head_dim), or (pages, page_size, heads_k, head_dim) with a block
    table. Returns out like q, and the log of each row's softmax sum, (batch, heads, seqlen_q) float32, +inf where no
    key is seen.
    """
    batch, seqlen_q, heads, head_dim = q.shape
    heads_k = k_cache.shape[2]
    group = heads // heads_k
    page_size = 0 if args.block_table is None else k_cache.shape[1]
    seqlen_cache = k_cache.shape[1] if args.block_table is None else args.block_table.shape[1] * page_size
    out = torch.empty((batch, seqlen_q, heads, head_dim), dtype=q.dtype, device=q.device)
    lse = torch.empty((batch, heads, seqlen_q), dtype=torch.float32, device=q.device)
    if out.numel() == 0:
        return out, lse

    tile = choose_tile(seqlen_q * group, head_dim, q.dtype)
    blocks = triton.cdiv(seqlen_q * group, tile.block_m)
    reach = seqlen_cache
    if args.window_left >= 0 and args.window_right >= 0:
        reach = min(reach, args.window_left + args.window_right + seqlen_q)
    splits = args.num_splits or choose_splits(
        blocks * heads_k * batch, triton.cdiv(reach, tile.block_n), compute_units(q)
    )
    rows = batch * heads * seqlen_q
    if splits == 1:
        parts, parts_lse = out, lse
        strides_out = (0, out.stride(0), out.stride(1), out.stride(2))
    else:
        parts = torch.empty((splits, batch, heads, seqlen_q, head_dim), dtype=torch.float32, device=q.device)
        parts_lse = torch.empty((splits, batch, heads, seqlen_q), dtype=torch.float32, device=q.device)
        strides_out = (parts.stride(0), parts.stride(1), parts.stride(3), parts.stride(2))
    slopes, table = args.alibi_slopes, args.block_table
    block_d = max(16, triton.next_power_of_2(head_dim))
    with device_guard(q):
        decode_kernel[(blocks * splits, heads_k, batch)](
            q,
            k_cache,
            v_cache,
            parts,
            parts_lse,
            args.cache_seqlens,
            args.cache_batch_idx,
            args.cache_leftpad,
            table,
            slopes,
            args.softmax_scale * math.log2(math.e),
            args.softcap,
            seqlen_q,
            seqlen_cache,
            args.seqlen_new,
            args.window_left,
            args.window_right,
            splits,
            q.stride(0),
            q.stride(1),
            q.stride(2),
            k_cache.stride(0),
            k_cache.stride(1),
            k_cache.stride(2),
            v_cache.stride(0),
            v_cache.stride(1),
            v_cache.stride(2),
            *strides_out,
            rows if splits > 1 else 0,
            heads * seqlen_q,
            seqlen_q,
            0 if table is None else table.stride(0),
            0 if slopes is None or slopes.dim() == 1 else slopes.stride(0),
            GROUP=group,
            HEAD_DIM=head_dim,
            PAGE_SIZE=page_size,
            LEFT=args.window_left >= 0,
            RIGHT=args.window_right >= 0,
            SOFTCAP=args.softcap > 0,
            SPLIT=splits > 1,
            EXACT=q.dtype == torch.float32,
            BLOCK_M=tile.block_m,
            BLOCK_N=tile.block_n,
            BLOCK_D=block_d,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
        if splits > 1:
            combine_kernel[(rows,)](
                parts,
                parts_lse,
                out,
                lse,
                splits,
                seqlen_q,
                rows,
                out.stride(0),
                out.stride(1),
                out.stride(2),
                HEADS=heads,
                HEAD_DIM=head_dim,
                BLOCK_S=triton.next_power_of_2(splits),
                BLOCK_CHUNK=min(16, triton.next_power_of_2(splits)),
                BLOCK_D=block_d,
                num_warps=4,
            )
    return out, lse
