"""The gradients of k and v: one program owns a tile of keys and sums over all queries that look at it.

It does so for every query head that shares the key head. As in the forward pass, blocks seen whole go through a loop
without masks.
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
    load_pairs,
    load_tile,
    matmul,
    product_by_chunks,
    row_blocks,
    sequence,
    store_tile,
)

__all__ = ["dkdv_kernel"]


@triton.jit
def _dkdv_step(
    dk,
    dv,
    k,
    v,
    K,
    V,
    Q,
    DOut,
    QTiles,
    GTiles,
    Lse,
    Delta,
    offs_k,
    offs_v,
    offs_q,
    offs_g,
    stride_qm,
    stride_gm,
    tile_batch,
    tile_token,
    tile_head,
    cols,
    first_row,
    dims,
    seqlen_q,
    seqlen_k,
    shift,
    left,
    right,
    scale_log2,
    softcap,
    slope,
    k0,
    k1,
    k2,
    keep_threshold,
    keep_scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
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
    NEED_DK: tl.constexpr,
    NEED_DV: tl.constexpr,
    MASK: tl.constexpr,
):
    """Adds one block of queries to dk and dv [BLOCK_N, BLOCK_D]. Scores stand transposed: [BLOCK_N, BLOCK_M]."""
    BLOCK_N: tl.constexpr = cols.shape[0]
    rows = first_row + tl.arange(0, BLOCK_M)
    if PAIRS:
        even = tl.arange(0, BLOCK_M // 2) * 2
        lane_even = even
        if WIDE:
            lane_even = even.to(tl.int64)
        even += first_row
    # A mask that depends on the block keeps the compiler from reading k and v once, before the loop.
    col_end = tl.where(first_row < seqlen_q, seqlen_k, 0)
    USE_TILES: tl.constexpr = TILES and not (MASK and VARLEN)
    if USE_TILES:
        q = fetch_tile(QTiles, tile_batch, tile_token + first_row, tile_head, BLOCK_M, BLOCK_D)
    elif CHUNK == 0 or not PAIRS:
        q = load_tile(Q, offs_q, rows, seqlen_q, dims, HEAD_DIM, PAD_DIM, MASK)  # [BLOCK_M, BLOCK_D]
    if MASK:  # behind the last row +inf makes probability 0
        lse = tl.load(Lse + rows, mask=rows < seqlen_q, other=float("inf"))
    else:
        lse = tl.load(Lse + rows)
    # -- P^T: [BLOCK_N, BLOCK_D] @ [BLOCK_D, BLOCK_M]
    if CHUNK > 0:
        qk = product_by_chunks(
            K, offs_k, cols, col_end, Q, offs_q, rows, seqlen_q, HEAD_DIM, BLOCK_D, CHUNK, EXACT, MASK
        )
    else:
        qk = matmul(k, tl.trans(q), tl.zeros([BLOCK_N, BLOCK_M], tl.float32), EXACT)
    s, p = probabilities(
        qk, lse[None, :], rows[None, :], cols[:, None], shift, scale_log2, softcap, slope, SOFTCAP, ALIBI, EXACT
    )
    # A row behind the last has probability 0 by its lse; a key behind the last gets a gradient that nobody stores.
    if MASK and (LEFT or RIGHT):
        seen = in_sight(rows[None, :], cols[:, None], shift, left, right, seqlen_k, LEFT, RIGHT)
        p = tl.where(seen, p, 0.0)
    # -- dV += P^T dO: [BLOCK_N, BLOCK_M] @ [BLOCK_M, BLOCK_D]; dP^T = V dO^T: [BLOCK_N, BLOCK_D] @ [BLOCK_D, BLOCK_M]
    if USE_TILES:
        dout = fetch_tile(GTiles, tile_batch, tile_token + first_row, tile_head, BLOCK_M, BLOCK_D)
    elif (NEED_DK and CHUNK == 0) or not PAIRS:
        dout = load_tile(DOut, offs_g, rows, seqlen_q, dims, HEAD_DIM, PAD_DIM, MASK)  # [BLOCK_M, BLOCK_D]
    kept = p
    if DROPOUT:
        row_a, row_b = dropout_row_keys(rows, k0, k1)
        keep = dropout_keep(row_a[None, :], row_b[None, :], cols[:, None], k2, keep_threshold)
        kept = tl.where(keep, p, 0.0)  # times keep_scale, which is left to the end
    if NEED_DV:
        if PAIRS:
            offs = lane_even[:, None] * stride_gm + dims[None, :]
            right_dout = load_pairs(DOut, offs, stride_gm, even, seqlen_q, dims, HEAD_DIM, PAD_DIM, MASK)
        else:
            right_dout = dout
        dv = matmul(kept.to(right_dout.dtype), right_dout, dv, EXACT)
    if NEED_DK:
        if MASK:
            delta = tl.load(Delta + rows, mask=rows < seqlen_q, other=0.0)
        else:
            delta = tl.load(Delta + rows)
        if CHUNK > 0:
            dp = product_by_chunks(
                V, offs_v, cols, col_end, DOut, offs_g, rows, seqlen_q, HEAD_DIM, BLOCK_D, CHUNK, EXACT, MASK
            )
        else:
            dp = matmul(v, tl.trans(dout), tl.zeros([BLOCK_N, BLOCK_M], tl.float32), EXACT)
        if DROPOUT:
            dp = tl.where(keep, dp * keep_scale, 0.0)
        # -- dK += dS^T Q: [BLOCK_N, BLOCK_M] @ [BLOCK_M, BLOCK_D]
        ds = score_gradient(
            p, dp, delta[None, :], s, qk, rows[None, :], cols[:, None], shift, scale_log2, softcap, slope,
            SOFTCAP, ALIBI, EXACT,
        )  # fmt: skip
        if PAIRS:
            offs = lane_even[:, None] * stride_qm + dims[None, :]
            right_q = load_pairs(Q, offs, stride_qm, even, seqlen_q, dims, HEAD_DIM, PAD_DIM, MASK)
        else:
            right_q = q
        dk = matmul(ds.to(right_q.dtype), right_q, dk, EXACT)
    return dk, dv


@triton.jit(do_not_specialize=RUNTIME_NUMBERS)
def dkdv_kernel(
    Q,
    K,
    V,
    DOut,
    QTiles,
    GTiles,
    Lse,
    Delta,
    DK,
    DV,
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
    stride_dkb,
    stride_dkn,
    stride_dkh,
    stride_dvb,
    stride_dvn,
    stride_dvh,
    stride_lb,
    stride_lh,
    stride_sb,
    heads_k,
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
    NEED_DK: tl.constexpr,
    NEED_DV: tl.constexpr,
    GROUPED: tl.constexpr,
):
    """DK, DV [.., Sk, Hk, D] of one tile of BLOCK_N keys, summed over the `group` query heads that read them.

    Lse: in units of log2, from delta_kernel.
    """
    PAD_DIM: tl.constexpr = HEAD_DIM != BLOCK_D
    tiles = tl.cdiv(max_seqlen_k, BLOCK_N)
    pid = tl.program_id(0)
    tile = pid % tiles
    head_k = (pid // tiles) % heads_k
    batch = pid // (tiles * heads_k)
    first_q, seqlen_q = sequence(CuQ, batch, max_seqlen_q, VARLEN)
    first_k, seqlen_k = sequence(CuK, batch, max_seqlen_k, VARLEN)
    first_col = tile * BLOCK_N
    if first_col >= seqlen_k:
        return
    last_col = tl.minimum(first_col + BLOCK_N, seqlen_k) - 1
    shift = seqlen_k - seqlen_q

    # -- addresses: a 64-bit start of the tile, 32-bit offsets inside of it
    lane_m = tl.arange(0, BLOCK_M)
    lane_n = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    cols = first_col + lane_n
    if WIDE:
        lane_m = lane_m.to(tl.int64)
        lane_n = lane_n.to(tl.int64)
    batch64 = batch.to(tl.int64)
    K += batch64 * stride_kb + head_k.to(tl.int64) * stride_kh + (first_k + first_col) * stride_kn
    V += batch64 * stride_vb + head_k.to(tl.int64) * stride_vh + (first_k + first_col) * stride_vn
    DK += batch64 * stride_dkb + head_k.to(tl.int64) * stride_dkh + (first_k + first_col) * stride_dkn
    DV += batch64 * stride_dvb + head_k.to(tl.int64) * stride_dvh + (first_k + first_col) * stride_dvn
    Q += batch64 * stride_qb + first_q * stride_qm
    DOut += batch64 * stride_gb + first_q * stride_gm
    Lse += batch64 * stride_lb + first_q
    Delta += batch64 * stride_lb + first_q
    tile_batch = batch * (1 - VARLEN)
    tile_token = first_q.to(tl.int32)
    offs_q = lane_m[:, None] * stride_qm + dims[None, :]
    offs_g = lane_m[:, None] * stride_gm + dims[None, :]

    k, v = 0, 0
    if CHUNK > 0:
        chunk = tl.arange(0, CHUNK)
        offs_k = lane_n[:, None] * stride_kn + chunk[None, :]
        offs_v = lane_n[:, None] * stride_vn + chunk[None, :]
        if PAIRS:
            offs_q = lane_m[:, None] * stride_qm + chunk[None, :]
            offs_g = lane_m[:, None] * stride_gm + chunk[None, :]
    else:
        offs_k = lane_n[:, None] * stride_kn + dims[None, :]
        offs_v = lane_n[:, None] * stride_vn + dims[None, :]
        k = load_tile(K, offs_k, cols, seqlen_k, dims, HEAD_DIM, PAD_DIM, True)
        if NEED_DK:
            v = load_tile(V, offs_v, cols, seqlen_k, dims, HEAD_DIM, PAD_DIM, True)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    begin, full_begin, full_end, end = row_blocks(
        first_col, last_col, shift, left, right, seqlen_q, LEFT, RIGHT, BLOCK_M
    )
    members = 1
    if GROUPED:  # a loop of one round, known as such, vanishes
        members = group
    for member in range(members):
        head = head_k * members + member
        head64 = head.to(tl.int64)
        q_head = Q + head64 * stride_qh
        g_head = DOut + head64 * stride_gh
        lse_head = Lse + head64 * stride_lh
        delta_head = Delta + head64 * stride_lh
        slope = 0.0
        if ALIBI:
            slope = tl.load(Slopes + batch64 * stride_sb + head) * LOG2E
        k0, k1, k2 = 0, 0, 0
        if DROPOUT:
            k0, k1, k2 = dropout_keys(Rng, (batch * heads_k + head_k) * members + member)
        # -- first the blocks of queries that see every key of the tile: no masks; then those cut by the window, the
        # diagonal or the end of the queries
        for MASK in tl.static_range(2):
            start, stop = full_begin, full_end
            if MASK:
                start, stop = 0, (full_begin - begin) + (end - full_end)
            for number in range(start, stop):
                # Triton 3.2 would carry a loop's variable that is assigned from round to round: the block has another name.
                block = number
                if MASK:
                    block = edge_block(number, begin, full_begin, full_end)
                first_row = block * BLOCK_M
                dk, dv = _dkdv_step(
                    dk, dv, k, v, K, V, q_head + tl.cast(first_row, tl.int64) * stride_qm,
                    g_head + tl.cast(first_row, tl.int64) * stride_gm, QTiles, GTiles, lse_head, delta_head,
                    offs_k, offs_v, offs_q, offs_g, stride_qm, stride_gm, tile_batch, tile_token, head, cols, first_row,
                    dims, seqlen_q, seqlen_k, shift, left, right, scale_log2, softcap, slope, k0, k1, k2,
                    keep_threshold, keep_scale, HEAD_DIM, BLOCK_D, BLOCK_M, PAD_DIM, LEFT, RIGHT, SOFTCAP, ALIBI,
                    DROPOUT, EXACT, VARLEN, TILES, WIDE, PAIRS, CHUNK, NEED_DK, NEED_DV, MASK,
                )  # fmt: skip
    if NEED_DV:
        if DROPOUT:
            dv = dv * keep_scale
        store_tile(DV, lane_n[:, None] * stride_dvn + dims[None, :], dv, cols, seqlen_k, dims, HEAD_DIM, PAD_DIM)
    if NEED_DK:
        dk = dk * (scale_log2 * LN2)
        store_tile(DK, lane_n[:, None] * stride_dkn + dims[None, :], dk, cols, seqlen_k, dims, HEAD_DIM, PAD_DIM)
