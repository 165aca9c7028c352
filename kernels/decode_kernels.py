"""The kernels of decoding: attention of a tile of queries to one split of a cache, and the sum of the splits.

Positions count from the start of the cache. A sequence of `total` keys has its queries at positions total - seqlen_q to
total - 1: that aligns the causal mask to the bottom right.
"""

# mypy: ignore-errors
import triton
import triton.language as tl

from .primitives import LN2, LOG2E, LOWEST, edge_block, in_sight, key_blocks, matmul, narrow, scores_log2

__all__ = ["combine_kernel", "decode_kernel"]


@triton.jit
def key_pointers(
    X,  # first element of this head in this sequence's row of the cache, or in page 0
    BlockTable,  # this sequence's row of the table
    first_col,
    lane_n,
    seen,
    stride_page,
    stride_n,
    page_size,
    PAGED: tl.constexpr,
    GATHER: tl.constexpr,
):
    """Start of a tile of keys and the offset of each key in it [BLOCK_N], 32 bits wherever they suffice.

    A tile starts at a multiple of its size, so it lies in one page where its size divides the page's; GATHER is for
    other pages: each key looks up its own.
    """
    if not PAGED:
        return X + tl.cast(first_col, tl.int64) * stride_n, lane_n * stride_n
    elif GATHER == 0:
        page = tl.load(BlockTable + first_col // page_size).to(tl.int64)
        return X + page * stride_page + tl.cast(first_col % page_size, tl.int64) * stride_n, lane_n * stride_n
    else:
        cols = first_col + lane_n
        page = tl.load(BlockTable + cols // GATHER, mask=seen, other=0).to(tl.int64)
        return X, page * stride_page + (cols % GATHER) * stride_n


@triton.jit
def attend_to_tile(
    acc,
    row_sum,
    row_max,
    q,
    K,
    V,
    BlockTable,
    first_col,
    lane_n,
    queries,
    dims,
    start,
    total,
    shift,
    left,
    right,
    scale_log2,
    softcap,
    slope,
    page_size,
    stride_kb,
    stride_kn,
    stride_vb,
    stride_vn,
    HEAD_DIM: tl.constexpr,
    PAD_DIM: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ALIBI: tl.constexpr,
    PAGED: tl.constexpr,
    GATHER: tl.constexpr,
    EXACT: tl.constexpr,
    VECTOR: tl.constexpr,
    MASK: tl.constexpr,
):
    """Folds one tile of keys into (acc [BLOCK_M, BLOCK_D], row_sum [BLOCK_M], row_max [BLOCK_M])."""
    cols = first_col + lane_n
    # What the cache holds outside of [start, total) may be NaN, and 0 * NaN is NaN: it must not be loaded.
    inside = (cols >= start) & (cols < total)
    # -- scores in units of log2: [BLOCK_M, BLOCK_D] @ [BLOCK_D, BLOCK_N]
    base, offs = key_pointers(K, BlockTable, first_col, lane_n, inside, stride_kb, stride_kn, page_size, PAGED, GATHER)
    k = load_keys(base, offs, inside, dims, HEAD_DIM, PAD_DIM, MASK)
    if VECTOR:
        qk = tl.sum(q[:, None, :].to(tl.float32) * k[None, :, :].to(tl.float32), 2)
    else:
        qk = matmul(q, tl.trans(k), tl.zeros([q.shape[0], lane_n.shape[0]], tl.float32), EXACT)
    if SOFTCAP or ALIBI:
        qk = scores_log2(
            qk, queries[:, None], cols[None, :], shift, scale_log2, softcap, slope[:, None], SOFTCAP, ALIBI, EXACT
        )
    if MASK:
        seen = in_sight(queries[:, None], cols[None, :], shift, left, right, total, LEFT, RIGHT)
        qk = tl.where(seen & inside[None, :], qk, float("-inf"))
    # -- online softmax: rescale what was summed by what the new maximum makes of the old one. Where the score is only
    #    scaled, scale and subtraction are one multiply-add: one instruction, and one rounding of a small number
    if SOFTCAP or ALIBI:
        new_max = tl.maximum(row_max, tl.max(qk, 1))
        p = tl.exp2(qk - new_max[:, None])
    else:
        new_max = tl.maximum(row_max, tl.max(qk, 1) * scale_log2)
        p = tl.exp2(qk * scale_log2 - new_max[:, None])
    alpha = tl.exp2(row_max - new_max)
    row_sum = row_sum * alpha + tl.sum(p, 1)
    # -- output: [BLOCK_M, BLOCK_N] @ [BLOCK_N, BLOCK_D]
    base, offs = key_pointers(V, BlockTable, first_col, lane_n, inside, stride_vb, stride_vn, page_size, PAGED, GATHER)
    v = load_keys(base, offs, inside, dims, HEAD_DIM, PAD_DIM, MASK)
    if VECTOR:
        acc = acc * alpha[:, None] + tl.sum(p[:, :, None] * v[None, :, :].to(tl.float32), 1)
    else:
        acc = matmul(narrow(p, v.dtype), v, acc * alpha[:, None], EXACT)
    return acc, row_sum, new_max


@triton.jit
def load_keys(base, offs, inside, dims, HEAD_DIM: tl.constexpr, PAD_DIM: tl.constexpr, MASK: tl.constexpr):
    """A tile [BLOCK_N, BLOCK_D] of keys or values; what is not inside, and padding of the head, reads as 0."""
    pointers = base + (offs[:, None] + dims[None, :])
    if MASK and PAD_DIM:
        return tl.load(pointers, mask=inside[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
    elif MASK:
        return tl.load(pointers, mask=inside[:, None], other=0.0)
    elif PAD_DIM:
        return tl.load(pointers, mask=(dims < HEAD_DIM)[None, :], other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def tiles_of_split(
    first_query, last_query, start, total, shift, left, right, split, num_splits,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The tiles of keys of one split: (begin, full_begin, full_end, end), as primitives.key_blocks.

    Keys before `start` are not there; the tiles that any row of the program sees are shared out evenly among the splits.
    """
    begin, full_begin, full_end, end = key_blocks(
        first_query, last_query, shift, left, right, total, LEFT, RIGHT, BLOCK_N
    )
    begin = tl.maximum(begin, start // BLOCK_N)
    end = tl.maximum(end, begin)
    span = tl.cdiv(end - begin, num_splits)
    begin = tl.minimum(begin + split * span, end)
    end = tl.minimum(begin + span, end)
    full_begin = tl.minimum(tl.maximum(tl.maximum(full_begin, tl.cdiv(start, BLOCK_N)), begin), end)
    full_end = tl.maximum(tl.minimum(full_end, end), full_begin)
    return begin, full_begin, full_end, end


@triton.jit(
    do_not_specialize=[
        "seqlen_q",
        "seqlen_cache",
        "seqlen_new",
        "left",
        "right",
        "num_splits",
        "page_size",
        "heads_k",
        "group",
        "stride_ls",
        "stride_lb",
        "stride_lh",
        "stride_table",
        "stride_slopes",
    ]
)
def decode_kernel(
    Q,
    K,
    V,
    Out,
    Lse,
    CacheSeqlens,  # (batch,) or None: the cache is full
    CacheBatchIdx,  # (batch,) or None: row b of the cache is sequence b
    CacheLeftpad,  # (batch,) or None: 0
    BlockTable,  # (batch, pages) or None: not paged
    Slopes,  # (batch or 1, heads) or None
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
    heads_k,
    group,  # query heads to a key/value head
    seqlen_q,
    seqlen_cache,
    seqlen_new,
    page_size,
    num_splits,
    left,
    right,
    scale_log2,
    softcap,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GATHER: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SPLIT: tl.constexpr,
    EXACT: tl.constexpr,
    WIDE: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """One program: BLOCK_M rows against one split of the keys. A row is one query of one head of the group.

    VECTOR, an option of a configuration, multiplies and sums without tl.dot: where there is no matrix instruction for
    the type, tl.dot would hold whole rows of both tiles in each thread's registers.
    """
    PAGED: tl.constexpr = BlockTable is not None
    ALIBI: tl.constexpr = Slopes is not None
    PAD_DIM: tl.constexpr = HEAD_DIM != BLOCK_D
    # -- which rows
    blocks = tl.cdiv(seqlen_q * group, BLOCK_M)
    split = tl.program_id(0) % num_splits
    first_row = (tl.program_id(0) // num_splits % blocks) * BLOCK_M
    head_k = tl.program_id(0) // (num_splits * blocks) % heads_k
    batch = tl.program_id(0) // (num_splits * blocks * heads_k)
    batch64 = batch.to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_M)
    queries = rows // group
    heads = head_k * group + rows % group
    real = queries < seqlen_q
    dims = tl.arange(0, BLOCK_D)
    lane_n = tl.arange(0, BLOCK_N)
    if WIDE:
        lane_n = lane_n.to(tl.int64)

    # -- which keys: [start, total) of the cache
    total = seqlen_cache
    if CacheSeqlens is not None:
        # Never beyond the cache, whatever the lengths say.
        total = tl.minimum(tl.load(CacheSeqlens + batch) + seqlen_new, seqlen_cache)
    start = 0
    if CacheLeftpad is not None:
        start = tl.load(CacheLeftpad + batch)
    shift = total - seqlen_q
    last_query = tl.minimum((first_row + BLOCK_M - 1) // group, seqlen_q - 1)
    begin, full_begin, full_end, end = tiles_of_split(
        first_row // group, last_query, start, total, shift, left, right, split, num_splits, LEFT, RIGHT, BLOCK_N
    )
    K += head_k.to(tl.int64) * stride_kh
    V += head_k.to(tl.int64) * stride_vh
    if PAGED:
        BlockTable += batch64 * stride_table
    else:
        row_of_cache = batch64
        if CacheBatchIdx is not None:
            row_of_cache = tl.load(CacheBatchIdx + batch).to(tl.int64)
        K += row_of_cache * stride_kb
        V += row_of_cache * stride_vb

    # -- queries, [BLOCK_M, BLOCK_D]
    p_q = Q + batch64 * stride_qb + queries.to(tl.int64) * stride_qm + heads * stride_qh
    q = tl.load(p_q[:, None] + dims[None, :], mask=real[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
    slope = tl.zeros([BLOCK_M], tl.float32)
    if ALIBI:
        slope = tl.load(Slopes + batch64 * stride_slopes + heads, mask=real, other=0.0) * LOG2E

    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    row_max = tl.full([BLOCK_M], LOWEST, tl.float32)
    # -- tiles that every row sees whole: no masks
    for tile in range(full_begin, full_end):
        acc, row_sum, row_max = attend_to_tile(
            acc, row_sum, row_max, q, K, V, BlockTable, tile * BLOCK_N, lane_n, queries, dims, start, total, shift,
            left, right, scale_log2, softcap, slope, page_size, stride_kb, stride_kn, stride_vb, stride_vn, HEAD_DIM,
            PAD_DIM, LEFT, RIGHT, SOFTCAP, ALIBI, PAGED, GATHER, EXACT, VECTOR, False,
        )  # fmt: skip
    # -- tiles cut by the window, the diagonal or an end of the keys
    for i in range((full_begin - begin) + (end - full_end)):
        acc, row_sum, row_max = attend_to_tile(
            acc, row_sum, row_max, q, K, V, BlockTable, edge_block(i, begin, full_begin, full_end) * BLOCK_N, lane_n,
            queries, dims, start, total, shift, left, right, scale_log2, softcap, slope, page_size, stride_kb,
            stride_kn, stride_vb, stride_vn, HEAD_DIM, PAD_DIM, LEFT, RIGHT, SOFTCAP, ALIBI, PAGED, GATHER, EXACT, VECTOR, True,
        )  # fmt: skip

    # -- output and log of the softmax sum; a row without keys gives 0, and +inf as flash-attn does, -inf as a part
    empty = row_sum == 0.0
    safe_sum = tl.where(empty, 1.0, row_sum)
    out = acc / safe_sum[:, None]
    lse = tl.where(empty, float("-inf") if SPLIT else float("inf"), (row_max + tl.log2(safe_sum)) * LN2)
    p_out = Out + split.to(tl.int64) * stride_os + batch64 * stride_ob
    p_out += queries.to(tl.int64) * stride_om + heads * stride_oh
    mask = real[:, None] & (dims < HEAD_DIM)[None, :]
    tl.store(p_out[:, None] + dims[None, :], narrow(out, Out.dtype.element_ty), mask=mask)
    p_lse = Lse + split.to(tl.int64) * stride_ls + batch64 * stride_lb + heads * stride_lh + queries
    tl.store(p_lse, lse, mask=real)


@triton.jit(do_not_specialize=["num_splits", "seqlen_q", "heads", "rows"])
def combine_kernel(
    Parts,  # (splits, batch, heads, seqlen_q, head_dim) float32
    PartsLse,  # (splits, batch, heads, seqlen_q) float32
    Out,
    Lse,  # (batch, heads, seqlen_q)
    stride_ob,
    stride_om,
    stride_oh,
    num_splits,
    seqlen_q,
    heads,
    rows,  # batch * heads * seqlen_q
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """One program: one row. out = sum of part_s exp(lse_s - lse), where lse = log of the sum of exp(lse_s)."""
    row = tl.program_id(0).to(tl.int64)
    query = row % seqlen_q
    head = row // seqlen_q % heads
    batch = row // seqlen_q // heads

    # -- BLOCK_S parts at a time, [BLOCK_S, BLOCK_D]; those without keys have -inf and weigh nothing
    dims = tl.arange(0, BLOCK_D)
    top = LOWEST
    total = 0.0
    out = tl.zeros([BLOCK_D], tl.float32)
    for first in range(0, num_splits, BLOCK_S):
        lane = (first + tl.arange(0, BLOCK_S)).to(tl.int64)
        real = lane < num_splits
        lse = tl.load(PartsLse + lane * rows + row, mask=real, other=float("-inf"))
        p_part = Parts + (lane * rows + row) * HEAD_DIM
        mask = real[:, None] & (dims < HEAD_DIM)[None, :]
        part = tl.load(p_part[:, None] + dims[None, :], mask=mask, other=0.0)
        new_top = tl.maximum(top, tl.max(lse, 0))
        weight = tl.exp(lse - new_top)
        shrink = tl.exp(top - new_top)
        total = total * shrink + tl.sum(weight, 0)
        out = out * shrink + tl.sum(part * weight[:, None], 0)
        top = new_top
    empty = total == 0.0
    safe_total = tl.where(empty, 1.0, total)
    out = out / safe_total
    tl.store(Lse + row, tl.where(empty, float("inf"), top + tl.log(safe_total)))
    p_out = Out + batch * stride_ob + query * stride_om + head * stride_oh
    tl.store(p_out + dims, narrow(out, Out.dtype.element_ty), mask=dims < HEAD_DIM)
