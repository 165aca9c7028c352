"""The gradient of q: one program owns a tile of queries and sums over all keys that it sees.

As in the forward pass, blocks seen whole go through a loop without masks.
"""

# mypy: ignore-errors
import triton
import triton.language as tl

from .backward_scores import probabilities, score_gradient
from .call import RUNTIME_NUMBERS
from .primitives import (
    LN2,
    LOG2E,
    dropout_keep,
    dropout_keys,
    dropout_row_keys,
    edge_block,
    fetch_tile,
    in_sight,
    key_blocks,
    load_pairs,
    load_tile,
    matmul,
    product_by_chunks,
    sequence,
    store_tile,
)

__all__ = ["dq_kernel"]


@triton.jit
def _dq_step(
    dq,
    q,
    dout,
    lse,
    delta,
    Q,
    DOut,
    K,
    V,
    KTiles,
    VTiles,
    offs_q,
    offs_g,
    offs_k,
    offs_v,
    stride_kn,
    tile_batch,
    tile_token,
    tile_head,
    rows,
    first_col,
    dims,
    seqlen_q,
    seqlen_k,
    shift,
    left,
    right,
    scale_log2,
    softcap,
    slope,
    row_a,
    row_b,
    k2,
    keep_threshold,
    keep_scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PAD_DIM: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ALIBI: tl.constexpr,
    DROPOUT: tl.constexpr,
    EXACT: tl.constexpr,
    VARLEN: tl.constexpr,
    TILES: tl.constexpr,
    WIDE: tl.constexpr,
    PAIRS: tl.constexpr,
    CHUNK: tl.constexpr,
    MASK: tl.constexpr,
):
    """Adds one block of keys to dq [BLOCK_M, BLOCK_D]. lse [BLOCK_M] is in units of log2."""
    BLOCK_M: tl.constexpr = rows.shape[0]
    cols = first_col + tl.arange(0, BLOCK_N)
    # A mask that depends on the block keeps the compiler from reading q and dout once, before the loop.
    row_end = tl.where(first_col < seqlen_k, seqlen_q, 0)
    # -- P: [BLOCK_M, BLOCK_D] @ [BLOCK_D, BLOCK_N]
    USE_TILES: tl.constexpr = TILES and not (MASK and VARLEN)
    if USE_TILES:
        k = fetch_tile(KTiles, tile_batch, tile_token + first_col, tile_head, BLOCK_N, BLOCK_D)
    elif CHUNK == 0 or not PAIRS:
        k = load_tile(K, offs_k, cols, seqlen_k, dims, HEAD_DIM, PAD_DIM, MASK)  # [BLOCK_N, BLOCK_D]
    if CHUNK > 0:
        qk = product_by_chunks(
            Q, offs_q, rows, row_end, K, offs_k, cols, seqlen_k, HEAD_DIM, BLOCK_D, CHUNK, EXACT, MASK
        )
    else:
        qk = matmul(q, tl.trans(k), tl.zeros([BLOCK_M, BLOCK_N], tl.float32), EXACT)
    s, p = probabilities(
        qk, lse[:, None], rows[:, None], cols[None, :], shift, scale_log2, softcap, slope, SOFTCAP, ALIBI, EXACT
    )
    if MASK:
        seen = in_sight(rows[:, None], cols[None, :], shift, left, right, seqlen_k, LEFT, RIGHT)
        p = tl.where(seen, p, 0.0)
    # -- dP: [BLOCK_M, BLOCK_D] @ [BLOCK_D, BLOCK_N]
    if USE_TILES:
        v = fetch_tile(VTiles, tile_batch, tile_token + first_col, tile_head, BLOCK_N, BLOCK_D)
    elif CHUNK == 0:
        v = load_tile(V, offs_v, cols, seqlen_k, dims, HEAD_DIM, PAD_DIM, MASK)  # [BLOCK_N, BLOCK_D]
    if CHUNK > 0:
        dp = product_by_chunks(
            DOut, offs_g, rows, row_end, V, offs_v, cols, seqlen_k, HEAD_DIM, BLOCK_D, CHUNK, EXACT, MASK
        )
    else:
        dp = matmul(dout, tl.trans(v), tl.zeros([BLOCK_M, BLOCK_N], tl.float32), EXACT)
    if DROPOUT:
        keep = dropout_keep(row_a[:, None], row_b[:, None], cols[None, :], k2, keep_threshold)
        dp = tl.where(keep, dp * keep_scale, 0.0)
    # -- dQ += dS K: [BLOCK_M, BLOCK_N] @ [BLOCK_N, BLOCK_D]
    ds = score_gradient(
        p, dp, delta[:, None], s, qk, rows[:, None], cols[None, :], shift, scale_log2, softcap, slope,
        SOFTCAP, ALIBI, EXACT,
    )  # fmt: skip
    if PAIRS:
        even = tl.arange(0, BLOCK_N // 2) * 2
        lane_even = even
        if WIDE:
            lane_even = even.to(tl.int64)
        offs = lane_even[:, None] * stride_kn + dims[None, :]
        k = load_pairs(K, offs, stride_kn, first_col + even, seqlen_k, dims, HEAD_DIM, PAD_DIM, MASK)
    return matmul(ds.to(k.dtype), k, dq, EXACT)


@triton.jit(do_not_specialize=RUNTIME_NUMBERS)
def dq_kernel(
    Q,
    K,
    V,
    DOut,
    KTiles,
    VTiles,
    Lse,
    Delta,
    DQ,
    CuQ,
    CuK,
    Slopes,
    Rng,
    stride_qb,
    stride_qm,
    stride_qh,
    stride_kb,
    stride_kn,
    stride_kh,
    stride_vb,
    stride_vn,
    stride_vh,
    stride_gb,
    stride_gm,
    stride_gh,
    stride_dqb,
    stride_dqm,
    stride_dqh,
    stride_lb,
    stride_lh,
    stride_sb,
    heads,
    group,
    max_seqlen_q,
    max_seqlen_k,
    left,
    right,
    scale_log2,
    softcap,
    keep_threshold,
    keep_scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    VARLEN: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ALIBI: tl.constexpr,
    DROPOUT: tl.constexpr,
    EXACT: tl.constexpr,
    WIDE: tl.constexpr,
    TILES: tl.constexpr,
    PAIRS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """DQ [.., Sq, H, D] of one tile of BLOCK_M queries."""
    PAD_DIM: tl.constexpr = HEAD_DIM != BLOCK_D
    tiles = tl.cdiv(max_seqlen_q, BLOCK_M)
    pid = tl.program_id(0)
    tile = pid % tiles
    head = (pid // tiles) % heads
    batch = pid // (tiles * heads)
    if RIGHT:
        tile = tiles - 1 - tile  # under the diagonal the last tiles have most to do: start them first
    first_q, seqlen_q = sequence(CuQ, batch, max_seqlen_q, VARLEN)
    first_k, seqlen_k = sequence(CuK, batch, max_seqlen_k, VARLEN)
    first_row = tile * BLOCK_M
    if first_row >= seqlen_q:
        return
    last_row = tl.minimum(first_row + BLOCK_M, seqlen_q) - 1
    shift = seqlen_k - seqlen_q

    # -- addresses: a 64-bit start of the tile, 32-bit offsets inside of it
    lane_m = tl.arange(0, BLOCK_M)
    lane_n = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    rows = first_row + lane_m
    if WIDE:
        lane_m = lane_m.to(tl.int64)
        lane_n = lane_n.to(tl.int64)
    batch64 = batch.to(tl.int64)
    head64 = head.to(tl.int64)
    head_k = head64 // group
    Q += batch64 * stride_qb + head64 * stride_qh + (first_q + first_row) * stride_qm
    DOut += batch64 * stride_gb + head64 * stride_gh + (first_q + first_row) * stride_gm
    DQ += batch64 * stride_dqb + head64 * stride_dqh + (first_q + first_row) * stride_dqm
    Lse += batch64 * stride_lb + head64 * stride_lh + first_q
    Delta += batch64 * stride_lb + head64 * stride_lh + first_q
    K += batch64 * stride_kb + head_k * stride_kh + first_k * stride_kn
    V += batch64 * stride_vb + head_k * stride_vh + first_k * stride_vn
    tile_batch = batch * (1 - VARLEN)
    tile_token = first_k.to(tl.int32)
    tile_head = head // group
    if CHUNK > 0:
        chunk = tl.arange(0, CHUNK)
        offs_q = lane_m[:, None] * stride_qm + chunk[None, :]
        offs_g = lane_m[:, None] * stride_gm + chunk[None, :]
        offs_k = lane_n[:, None] * stride_kn + chunk[None, :]
        offs_v = lane_n[:, None] * stride_vn + chunk[None, :]
    else:
        offs_q = lane_m[:, None] * stride_qm + dims[None, :]
        offs_g = lane_m[:, None] * stride_gm + dims[None, :]
        offs_k = lane_n[:, None] * stride_kn + dims[None, :]
        offs_v = lane_n[:, None] * stride_vn + dims[None, :]

    q, dout = 0, 0
    if CHUNK == 0:
        q = load_tile(Q, offs_q, rows, seqlen_q, dims, HEAD_DIM, PAD_DIM, True)
        dout = load_tile(DOut, offs_g, rows, seqlen_q, dims, HEAD_DIM, PAD_DIM, True)
    lse = tl.load(Lse + rows, mask=rows < seqlen_q, other=float("inf"))
    delta = tl.load(Delta + rows, mask=rows < seqlen_q, other=0.0)
    slope = 0.0
    if ALIBI:
        slope = tl.load(Slopes + batch64 * stride_sb + head) * LOG2E
    row_a, row_b, k2 = rows, rows, 0
    if DROPOUT:
        k0, k1, k2 = dropout_keys(Rng, batch * heads + head)
        row_a, row_b = dropout_row_keys(rows, k0, k1)

    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    begin, full_begin, full_end, end = key_blocks(
        first_row, last_row, shift, left, right, seqlen_k, LEFT, RIGHT, BLOCK_N
    )
    # -- first the blocks that every row sees whole: no masks; then those cut by the window, the diagonal or the end of the
    # keys
    for MASK in tl.static_range(2):
        start, stop = full_begin, full_end
        if MASK:
            start, stop = 0, (full_begin - begin) + (end - full_end)
        for number in range(start, stop):
            # Triton 3.2 would carry a loop's variable that is assigned from round to round: the block has another name.
            block = number
            if MASK:
                block = edge_block(number, begin, full_begin, full_end)
            first_col = block * BLOCK_N
            dq = _dq_step(
                dq, q, dout, lse, delta, Q, DOut, K + tl.cast(first_col, tl.int64) * stride_kn,
                V + tl.cast(first_col, tl.int64) * stride_vn, KTiles, VTiles, offs_q, offs_g, offs_k, offs_v,
                stride_kn, tile_batch, tile_token, tile_head, rows, first_col, dims, seqlen_q, seqlen_k, shift, left,
                right, scale_log2, softcap, slope, row_a, row_b, k2, keep_threshold, keep_scale, HEAD_DIM, BLOCK_D,
                BLOCK_N, PAD_DIM, LEFT, RIGHT, SOFTCAP, ALIBI, DROPOUT, EXACT, VARLEN, TILES, WIDE, PAIRS, CHUNK, MASK,
            )  # fmt: skip
    dq = dq * (scale_log2 * LN2)
    store_tile(DQ, lane_m[:, None] * stride_dqm + dims[None, :], dq, rows, seqlen_q, dims, HEAD_DIM, PAD_DIM)
