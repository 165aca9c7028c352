"""The backward pass: the gradients of q, k and v, without atomics, so the same bits in every run.

With P = softmax(S) and O = P V, and delta = rowsum(dO * O) computed first:

    dV = P^T dO        dP = dO V^T        dS = P * (dP - delta)        dQ = dS K scale        dK = dS^T Q scale

Two kernels recompute P from the scores and the saved logarithms: one program of `dkdv_kernel` owns a tile of keys and
sums over all queries (of every query head that shares the key head), one of `dq_kernel` owns a tile of queries and sums
over all keys. As in the forward pass, blocks seen whole go through a loop without masks.
"""

# mypy: ignore-errors
import functools

import torch
import triton
import triton.language as tl

from . import compat, launching, tuning
from .call import RUNTIME_NUMBERS, Call
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
    row_blocks,
    scores_log2,
    sequence,
    store_tile,
)

__all__ = ["backward"]


@triton.jit(do_not_specialize=RUNTIME_NUMBERS)
def delta_kernel(
    Out,
    DOut,
    Lse,
    LseLog2,
    Delta,
    stride_ob,
    stride_om,
    stride_oh,
    stride_gb,
    stride_gm,
    stride_gh,
    stride_lb,
    stride_lh,
    heads,
    tokens,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Numbers of each row, [.., H, S]: Delta = rowsum(dO * O), what the softmax takes off dP in its backward pass, and
    LseLog2, the logarithms in units of log2, which spares the inner loops a product a row and tile.
    """
    PAD_DIM: tl.constexpr = HEAD_DIM != BLOCK_D
    tiles = tl.cdiv(tokens, BLOCK_M)
    pid = tl.program_id(0)
    first_row = (pid % tiles) * BLOCK_M
    head = ((pid // tiles) % heads).to(tl.int64)
    batch = (pid // (tiles * heads)).to(tl.int64)
    lane = tl.arange(0, BLOCK_M)
    rows = first_row + lane
    if WIDE:
        lane = lane.to(tl.int64)
    dims = tl.arange(0, BLOCK_D)
    first64 = first_row.to(tl.int64)
    Out += batch * stride_ob + head * stride_oh + first64 * stride_om
    DOut += batch * stride_gb + head * stride_gh + first64 * stride_gm
    offs_o = lane[:, None] * stride_om + dims[None, :]
    offs_g = lane[:, None] * stride_gm + dims[None, :]
    out = load_tile(Out, offs_o, rows, tokens, dims, HEAD_DIM, PAD_DIM, True).to(tl.float32)
    dout = load_tile(DOut, offs_g, rows, tokens, dims, HEAD_DIM, PAD_DIM, True).to(tl.float32)
    place = batch * stride_lb + head * stride_lh + rows
    tl.store(Delta + place, tl.sum(out * dout, 1), mask=rows < tokens)
    tl.store(LseLog2 + place, tl.load(Lse + place, mask=rows < tokens) * LOG2E, mask=rows < tokens)


@triton.jit
def _score_slope(s, softcap, SOFTCAP: tl.constexpr):
    """d(score) / d(uncapped score), with s in units of log2: 1 - tanh^2."""
    if SOFTCAP:
        t = s * (LN2 / softcap)
        return 1.0 - t * t
    else:
        return 1.0


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
    s = scores_log2(qk, rows[None, :], cols[:, None], shift, scale_log2, softcap, slope, SOFTCAP, ALIBI, EXACT)
    p = tl.exp2(s - lse[None, :])
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
        ds = p * (dp - delta[None, :])
        if SOFTCAP:
            if ALIBI:  # the bias came behind the cap
                s = scores_log2(
                    qk, rows[None, :], cols[:, None], shift, scale_log2, softcap, slope, SOFTCAP, False, EXACT
                )
            ds = ds * _score_slope(s, softcap, SOFTCAP)
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

    Lse: in units of log2, from delta_kernel, here and in dq_kernel.
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
        # -- blocks of queries that see every key of the tile: no masks
        for block in range(full_begin, full_end):
            first_row = block * BLOCK_M
            dk, dv = _dkdv_step(
                dk, dv, k, v, K, V, q_head + tl.cast(first_row, tl.int64) * stride_qm,
                g_head + tl.cast(first_row, tl.int64) * stride_gm, QTiles, GTiles, lse_head, delta_head, offs_k, offs_v,
                offs_q, offs_g, stride_qm, stride_gm, tile_batch, tile_token, head, cols, first_row, dims, seqlen_q, seqlen_k, shift, left, right, scale_log2, softcap, slope, k0, k1, k2,
                keep_threshold, keep_scale, HEAD_DIM, BLOCK_D, BLOCK_M, PAD_DIM, LEFT, RIGHT, SOFTCAP, ALIBI, DROPOUT, EXACT,
                VARLEN, TILES, WIDE, PAIRS, CHUNK, NEED_DK, NEED_DV, False,
            )  # fmt: skip
        # -- blocks cut by the window, the diagonal or the end of the queries
        for i in range((full_begin - begin) + (end - full_end)):
            first_row = edge_block(i, begin, full_begin, full_end) * BLOCK_M
            dk, dv = _dkdv_step(
                dk, dv, k, v, K, V, q_head + tl.cast(first_row, tl.int64) * stride_qm,
                g_head + tl.cast(first_row, tl.int64) * stride_gm, QTiles, GTiles, lse_head, delta_head, offs_k, offs_v,
                offs_q, offs_g, stride_qm, stride_gm, tile_batch, tile_token, head, cols, first_row, dims, seqlen_q, seqlen_k, shift, left, right, scale_log2, softcap, slope, k0, k1, k2,
                keep_threshold, keep_scale, HEAD_DIM, BLOCK_D, BLOCK_M, PAD_DIM, LEFT, RIGHT, SOFTCAP, ALIBI, DROPOUT, EXACT,
                VARLEN, TILES, WIDE, PAIRS, CHUNK, NEED_DK, NEED_DV, True,
            )  # fmt: skip
    if NEED_DV:
        if DROPOUT:
            dv = dv * keep_scale
        store_tile(DV, lane_n[:, None] * stride_dvn + dims[None, :], dv, cols, seqlen_k, dims, HEAD_DIM, PAD_DIM)
    if NEED_DK:
        dk = dk * (scale_log2 * LN2)
        store_tile(DK, lane_n[:, None] * stride_dkn + dims[None, :], dk, cols, seqlen_k, dims, HEAD_DIM, PAD_DIM)


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
    s = scores_log2(qk, rows[:, None], cols[None, :], shift, scale_log2, softcap, slope, SOFTCAP, ALIBI, EXACT)
    p = tl.exp2(s - lse[:, None])
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
    ds = p * (dp - delta[:, None])
    if SOFTCAP:
        if ALIBI:  # the bias came behind the cap
            s = scores_log2(qk, rows[:, None], cols[None, :], shift, scale_log2, softcap, slope, SOFTCAP, False, EXACT)
        ds = ds * _score_slope(s, softcap, SOFTCAP)
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
    # -- blocks that every row sees whole: no masks
    for block in range(full_begin, full_end):
        first_col = block * BLOCK_N
        dq = _dq_step(
            dq, q, dout, lse, delta, Q, DOut, K + tl.cast(first_col, tl.int64) * stride_kn,
            V + tl.cast(first_col, tl.int64) * stride_vn, KTiles, VTiles, offs_q, offs_g, offs_k, offs_v,
            stride_kn, tile_batch, tile_token,
            tile_head, rows, first_col, dims, seqlen_q, seqlen_k, shift, left,
            right, scale_log2, softcap, slope, row_a, row_b, k2, keep_threshold, keep_scale, HEAD_DIM, BLOCK_D,
            BLOCK_N, PAD_DIM, LEFT, RIGHT, SOFTCAP, ALIBI, DROPOUT, EXACT, VARLEN, TILES, WIDE, PAIRS, CHUNK, False,
        )  # fmt: skip
    # -- blocks cut by the window, the diagonal or the end of the keys
    for i in range((full_begin - begin) + (end - full_end)):
        first_col = edge_block(i, begin, full_begin, full_end) * BLOCK_N
        dq = _dq_step(
            dq, q, dout, lse, delta, Q, DOut, K + tl.cast(first_col, tl.int64) * stride_kn,
            V + tl.cast(first_col, tl.int64) * stride_vn, KTiles, VTiles, offs_q, offs_g, offs_k, offs_v,
            stride_kn, tile_batch, tile_token,
            tile_head, rows, first_col, dims, seqlen_q, seqlen_k, shift, left,
            right, scale_log2, softcap, slope, row_a, row_b, k2, keep_threshold, keep_scale, HEAD_DIM, BLOCK_D,
            BLOCK_N, PAD_DIM, LEFT, RIGHT, SOFTCAP, ALIBI, DROPOUT, EXACT, VARLEN, TILES, WIDE, PAIRS, CHUNK, True,
        )  # fmt: skip
    dq = dq * (scale_log2 * LN2)
    store_tile(DQ, lane_m[:, None] * stride_dqm + dims[None, :], dq, rows, seqlen_q, dims, HEAD_DIM, PAD_DIM)


def backward(call: Call, dout, q, k, v, out, lse, cu_q=None, cu_k=None, slopes=None, rng_state=None, dlse=None):
    """Launches the backward kernels. Shapes as in ops.attention_backward; returns (dq, dk, dv)."""
    # Tiles that no program owns (tokens behind the last sequence, no key or no query at all) have gradient 0.
    make = torch.zeros_like if call.varlen or min(q.numel(), k.numel()) == 0 else torch.empty_like
    dq, dk, dv = (make(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    if min(q.numel(), k.numel(), call.max_seqlen_q, call.max_seqlen_k) == 0:
        return dq, dk, dv
    lse_log2, delta = torch.empty((2, *lse.shape), dtype=lse.dtype, device=lse.device).unbind()
    tensors = (dout, q, k, v, out, cu_q, cu_k, slopes, rng_state, dlse, lse, lse_log2, delta, dq, dk, dv)
    key = launching.plan_key("backward", call, *tensors[:10]) if dlse is None else None
    plan = launching.known(key)
    with compat.device_guard(q):
        if plan is not None:
            plan.again(tensors)
        else:
            launching.remember(key, _plan(call, *tensors))
    return dq, dk, dv


def _delta_warps(target: str) -> int:
    """On AMD few waves with many elements a lane: most of what this small kernel executes, each wave executes once."""
    if not target.startswith("gfx"):
        return 4
    return 1 if target.startswith("gfx9") else 2  # waves of 64 lanes, of 32


def _plan(call: Call, dout, q, k, v, out, cu_q, cu_k, slopes, rng_state, dlse, lse, lse_log2, delta, dq, dk, dv):
    """Launches the kernels; returns what it takes to do so again."""
    tensors = {
        "dout": dout, "q": q, "k": k, "v": v, "out": out, "cu_q": cu_q, "cu_k": cu_k, "slopes": slopes,
        "rng": rng_state, "dlse": dlse, "lse": lse, "lse_log2": lse_log2, "delta": delta, "dq": dq, "dk": dk, "dv": dv,
    }  # fmt: skip
    plan = launching.Plan(**tensors)
    batch, heads, heads_k, head_dim = call.batch(q, cu_q), q.shape[-2], k.shape[-2], q.shape[-1]
    target = compat.target_name(q)
    common = {"HEAD_DIM": head_dim, "BLOCK_D": call.block_d(head_dim)}
    stride_s = slopes.stride(0) if slopes is not None and slopes.dim() == 2 else 0
    inputs = (*call.strides(q), *call.strides(k), *call.strides(v), *call.strides(dout))
    rows, tokens = 64 if head_dim <= 128 else 32, q.shape[-3]
    plan.launch(
        delta_kernel,
        triton.cdiv(tokens, rows) * heads * (1 if call.varlen else batch),
        ("out", "dout", "lse", "lse_log2", "delta"),
        (*call.strides(out), *call.strides(dout), *call.row_strides(lse), heads, tokens),
        {**common, "BLOCK_M": rows, "WIDE": call.wide(rows, out, dout)},
        {"num_warps": _delta_warps(target)},
    )
    if dlse is not None:  # d lse / dS = P, so it joins dS = P * (dP - delta) there
        delta -= dlse

    def options(chosen):
        return {"num_warps": chosen.num_warps, "num_stages": chosen.num_stages, **chosen.options}

    def constants(chosen, tiles):
        return {
            **common, **call.flags(q), "BLOCK_M": chosen.block_m, "BLOCK_N": chosen.block_n, "TILES": tiles is not None,
            "WIDE": call.wide(max(chosen.block_m, chosen.block_n), q, k, v, dout),
            "PAIRS": chosen.pairs, "CHUNK": chosen.chunk,
        }  # fmt: skip

    def launch_dkdv(chosen, plan):
        q_tiles, g_tiles = compat.tile_descriptors(target, chosen.block_m, call.block_d(head_dim), q, dout)
        for need_dk, need_dv in ((False, True), (True, False)) if chosen.split else ((True, True),):
            plan.launch(
                dkdv_kernel,
                triton.cdiv(call.max_seqlen_k, chosen.block_n) * heads_k * batch,
                (
                    "q", "k", "v", "dout", ("q", q_tiles), ("dout", g_tiles), "lse_log2", "delta", "dk", "dv",
                    "cu_q", "cu_k", "slopes", "rng",
                ),
                (
                    *inputs, *call.strides(dk), *call.strides(dv), *call.row_strides(lse), stride_s,
                    heads_k, heads // heads_k, *call.kernel_arguments,
                ),
                {
                    **constants(chosen, q_tiles), "NEED_DK": need_dk, "NEED_DV": need_dv,
                    "GROUPED": heads > heads_k,
                },
                options(chosen),
            )  # fmt: skip

    def launch_dq(chosen, plan):
        k_tiles, v_tiles = compat.tile_descriptors(target, chosen.block_n, call.block_d(head_dim), k, v)
        plan.launch(
            dq_kernel,
            triton.cdiv(call.max_seqlen_q, chosen.block_m) * heads * batch,
            (
                "q", "k", "v", "dout", ("k", k_tiles), ("v", v_tiles), "lse_log2", "delta", "dq", "cu_q", "cu_k",
                "slopes", "rng",
            ),
            (
                *inputs, *call.strides(dq), *call.row_strides(lse), stride_s,
                heads, heads // heads_k, *call.kernel_arguments,
            ),
            constants(chosen, k_tiles),
            options(chosen),
        )  # fmt: skip

    lengths = call.max_seqlen_q, call.max_seqlen_k
    features = call.features | ({"gqa"} if heads > heads_k else set())
    for kind, launch in (("dkdv", launch_dkdv), ("dq", launch_dq)):
        trial = functools.partial(launch, plan=launching.Plan(**tensors))
        chosen = tuning.pick(target, kind, head_dim, q.dtype, features, lengths, batch * heads, trial)
        launch(chosen, plan)
    return plan
