"""The forward pass: one program computes a tile of queries of one head against all keys that the tile sees.

The keys are read in blocks. Those that every row of the tile sees whole run through a loop without masks, where most
of the time goes; those cut by the diagonal, the window or the end of the keys follow in a second loop. Both take the
same step, the online softmax: keep for each row the largest score so far and the sum of exponentials relative to it,
and rescale what was accumulated whenever the largest score grows (Milakov and Gimelshein 2018; Dao et al. 2022).
"""

# mypy: ignore-errors
import torch
import triton
import triton.language as tl

from . import compat, launching, tuning
from .call import RUNTIME_NUMBERS, Call
from .primitives import (
    LN2,
    LOG2E,
    LOWEST,
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
    scores_log2,
    sequence,
    store_tile,
)

__all__ = ["forward"]


@triton.jit
def _online_softmax_step(
    acc,
    row_sum,
    row_max,
    q,
    Q,
    offs_q,
    seqlen_q,
    K,
    V,
    KTiles,
    VTiles,
    offs_k,
    offs_v,
    tile_batch,
    tile_token,
    tile_head,
    rows,
    first_col,
    dims,
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
    stride_vn,
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
    PAIRS: tl.constexpr,
    CHUNK: tl.constexpr,
    MASK: tl.constexpr,
):
    """Folds one block of keys into (acc [BLOCK_M, BLOCK_D], row_sum [BLOCK_M], row_max [BLOCK_M])."""
    cols = first_col + tl.arange(0, BLOCK_N)
    # -- scores: [BLOCK_M, BLOCK_D] @ [BLOCK_D, BLOCK_N]
    # (A packed sequence is followed by another one, whose values a descriptor would read behind its end.)
    USE_TILES: tl.constexpr = TILES and not (MASK and VARLEN)
    if USE_TILES:
        k = fetch_tile(KTiles, tile_batch, tile_token + first_col, tile_head, BLOCK_N, BLOCK_D)
    elif CHUNK == 0:
        k = load_tile(K, offs_k, cols, seqlen_k, dims, HEAD_DIM, PAD_DIM, MASK)
    if CHUNK > 0:
        # A mask that depends on the block keeps the compiler from reading q once, before the loop.
        row_end = tl.where(first_col < seqlen_k, seqlen_q, 0)
        qk = product_by_chunks(
            Q, offs_q, rows, row_end, K, offs_k, cols, seqlen_k, HEAD_DIM, BLOCK_D, CHUNK, EXACT, MASK
        )
    else:
        qk = matmul(q, tl.trans(k), tl.zeros([q.shape[0], BLOCK_N], tl.float32), EXACT)
    if SOFTCAP or ALIBI:
        qk = scores_log2(qk, rows[:, None], cols[None, :], shift, scale_log2, softcap, slope, SOFTCAP, ALIBI, EXACT)
    if MASK:
        seen = in_sight(rows[:, None], cols[None, :], shift, left, right, seqlen_k, LEFT, RIGHT)
        qk = tl.where(seen, qk, float("-inf"))
    # -- online softmax. Where the score is only scaled, the scale is left to the subtraction: one fused multiply-add.
    if SOFTCAP or ALIBI:
        new_max = tl.maximum(row_max, tl.max(qk, 1))
        p = tl.exp2(qk - new_max[:, None])
    else:
        new_max = tl.maximum(row_max, tl.max(qk, 1) * scale_log2)
        p = tl.exp2(qk * scale_log2 - new_max[:, None])
    alpha = tl.exp2(row_max - new_max)
    row_sum = row_sum * alpha + tl.sum(p, 1)  # before dropout: it drops probabilities, and those are normalised by all
    if DROPOUT:
        keep = dropout_keep(row_a[:, None], row_b[:, None], cols[None, :], k2, keep_threshold)
        p = tl.where(keep, p, 0.0)
    # -- output: [BLOCK_M, BLOCK_N] @ [BLOCK_N, BLOCK_D]
    if USE_TILES:
        v = fetch_tile(VTiles, tile_batch, tile_token + first_col, tile_head, BLOCK_N, BLOCK_D)
    elif PAIRS:
        even = first_col + tl.arange(0, BLOCK_N // 2) * 2
        v = load_pairs(V, offs_v, stride_vn, even, seqlen_k, dims, HEAD_DIM, PAD_DIM, MASK)
    else:
        v = load_tile(V, offs_v, cols, seqlen_k, dims, HEAD_DIM, PAD_DIM, MASK)
    acc = matmul(p.to(v.dtype), v, acc * alpha[:, None], EXACT)
    return acc, row_sum, new_max


@triton.jit
def _page(K, block_table, first_col, page_size, stride_block, stride_n):
    """Start of the block of keys at first_col of a paged cache; a block never crosses a page."""
    page = tl.load(block_table + first_col // page_size).to(tl.int64)
    return K + page * stride_block + tl.cast(first_col % page_size, tl.int64) * stride_n


@triton.jit(do_not_specialize=RUNTIME_NUMBERS)
def forward_kernel(
    Q,
    K,
    V,
    KTiles,
    VTiles,
    Out,
    Lse,
    CuQ,
    CuK,
    BlockTable,
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
    stride_ob,
    stride_om,
    stride_oh,
    stride_lb,
    stride_lh,
    stride_tb,
    stride_sb,
    heads,
    group,
    max_seqlen_q,
    max_seqlen_k,
    page_size,
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
    PAGED: tl.constexpr,
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
    """Out [.., Sq, H, D] and Lse [.., H, Sq] of one tile of BLOCK_M queries; see `forward` for the arguments."""
    PAD_DIM: tl.constexpr = HEAD_DIM != BLOCK_D
    # -- which tile: tiles of one head follow each other, so that they find its keys in the cache
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
    Out += batch64 * stride_ob + head64 * stride_oh + (first_q + first_row) * stride_om
    Lse += batch64 * stride_lb + head64 * stride_lh + first_q
    K += head_k * stride_kh
    V += head_k * stride_vh
    if PAGED:
        BlockTable += batch64 * stride_tb
    else:
        K += batch64 * stride_kb + first_k * stride_kn
        V += batch64 * stride_vb + first_k * stride_vn
    tile_batch = batch * (1 - VARLEN)
    tile_token = first_k.to(tl.int32)
    tile_head = head // group
    if CHUNK > 0:
        chunk = tl.arange(0, CHUNK)
        offs_q = lane_m[:, None] * stride_qm + chunk[None, :]
        offs_k = lane_n[:, None] * stride_kn + chunk[None, :]
    else:
        offs_q = lane_m[:, None] * stride_qm + dims[None, :]
        offs_k = lane_n[:, None] * stride_kn + dims[None, :]
    if PAIRS:
        lane_even = (tl.arange(0, BLOCK_N // 2) * 2).to(lane_n.dtype)
        offs_v = lane_even[:, None] * stride_vn + dims[None, :]
    else:
        offs_v = lane_n[:, None] * stride_vn + dims[None, :]

    q = 0
    if CHUNK == 0:
        q = load_tile(Q, offs_q, rows, seqlen_q, dims, HEAD_DIM, PAD_DIM, True)
    slope = 0.0
    if ALIBI:
        slope = tl.load(Slopes + batch64 * stride_sb + head) * LOG2E
    row_a, row_b, k2 = rows, rows, 0
    if DROPOUT:
        k0, k1, k2 = dropout_keys(Rng, batch * heads + head)
        row_a, row_b = dropout_row_keys(rows, k0, k1)

    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    row_max = tl.full([BLOCK_M], LOWEST, tl.float32)
    begin, full_begin, full_end, end = key_blocks(
        first_row, last_row, shift, left, right, seqlen_k, LEFT, RIGHT, BLOCK_N
    )
    # -- blocks that every row sees whole: no masks
    for block in range(full_begin, full_end):
        first_col = block * BLOCK_N
        if PAGED:
            k_block = _page(K, BlockTable, first_col, page_size, stride_kb, stride_kn)
            v_block = _page(V, BlockTable, first_col, page_size, stride_vb, stride_vn)
        else:
            k_block = K + tl.cast(first_col, tl.int64) * stride_kn
            v_block = V + tl.cast(first_col, tl.int64) * stride_vn
        acc, row_sum, row_max = _online_softmax_step(
            acc, row_sum, row_max, q, Q, offs_q, seqlen_q, k_block, v_block, KTiles, VTiles, offs_k, offs_v, tile_batch, tile_token,
            tile_head, rows, first_col, dims, seqlen_k, shift, left,
            right, scale_log2, softcap, slope, row_a, row_b, k2, keep_threshold, stride_vn, HEAD_DIM, BLOCK_D, BLOCK_N,
            PAD_DIM, LEFT,
            RIGHT, SOFTCAP, ALIBI, DROPOUT, EXACT, VARLEN, TILES, PAIRS, CHUNK, False,
        )  # fmt: skip
    # -- blocks cut by the window, the diagonal or the end of the keys
    for i in range((full_begin - begin) + (end - full_end)):
        first_col = edge_block(i, begin, full_begin, full_end) * BLOCK_N
        if PAGED:
            k_block = _page(K, BlockTable, first_col, page_size, stride_kb, stride_kn)
            v_block = _page(V, BlockTable, first_col, page_size, stride_vb, stride_vn)
        else:
            k_block = K + tl.cast(first_col, tl.int64) * stride_kn
            v_block = V + tl.cast(first_col, tl.int64) * stride_vn
        acc, row_sum, row_max = _online_softmax_step(
            acc, row_sum, row_max, q, Q, offs_q, seqlen_q, k_block, v_block, KTiles, VTiles, offs_k, offs_v, tile_batch, tile_token,
            tile_head, rows, first_col, dims, seqlen_k, shift, left,
            right, scale_log2, softcap, slope, row_a, row_b, k2, keep_threshold, stride_vn, HEAD_DIM, BLOCK_D, BLOCK_N,
            PAD_DIM, LEFT,
            RIGHT, SOFTCAP, ALIBI, DROPOUT, EXACT, VARLEN, TILES, PAIRS, CHUNK, True,
        )  # fmt: skip

    # -- normalise. A row that saw no key has sum 0: its output is 0 and its logarithm +inf, so that the backward pass,
    #    which computes exp(score - lse), finds probability 0 there.
    empty = row_sum == 0.0
    safe_sum = tl.where(empty, 1.0, row_sum)
    scale = 1.0 / safe_sum
    if DROPOUT:
        scale = scale * keep_scale
    lse = tl.where(empty, float("inf"), (row_max + tl.log2(safe_sum)) * LN2)
    tl.store(Lse + rows, lse, mask=rows < seqlen_q)
    store_tile(
        Out, lane_m[:, None] * stride_om + dims[None, :], acc * scale[:, None], rows, seqlen_q, dims, HEAD_DIM, PAD_DIM
    )


def forward(call: Call, q, k, v, cu_q=None, cu_k=None, block_table=None, slopes=None, rng_state=None, found=None):
    """Launches the forward kernel. Shapes as in ops.attention_forward; returns (out, lse).

    found: what launching.look_up answered for this call, where the caller has asked.
    """
    *batch, tokens_q, heads, _ = q.shape
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    lse = q.new_empty((*batch, heads, tokens_q), dtype=torch.float32)
    if out.numel() == 0:
        return out, lse
    if call.varlen:  # tokens behind the last sequence belong to none
        out.zero_()
        lse.fill_(float("inf"))
    if call.max_seqlen_q == 0:
        return out, lse
    tensors = (q, k, v, cu_q, cu_k, block_table, slopes, rng_state)
    key, plan = found or launching.look_up("forward", call, tensors)
    with compat.device_guard(q):
        if plan is not None:
            plan.again(launching.addresses(*tensors, out, lse))
        else:
            launching.remember(key, _plan(call, *tensors, out, lse))
    return out, lse


def _plan(call: Call, q, k, v, cu_q, cu_k, block_table, slopes, rng_state, out, lse):
    """Launches the kernel; returns what it takes to do so again."""
    batch, heads, head_dim = call.batch(q, cu_q), q.shape[-2], q.shape[-1]
    paged = block_table is not None
    target = compat.target_name(q)
    block_d = call.block_d(head_dim)
    k_strides, v_strides = (x.stride()[:3] if paged else call.strides(x) for x in (k, v))

    def launch(chosen):
        plan = launching.Plan(
            call, q=q, k=k, v=v, cu_q=cu_q, cu_k=cu_k, table=block_table, slopes=slopes, rng=rng_state, out=out, lse=lse
        )
        block_n = call.block_n(chosen.block_n, k.shape[1] if paged else None)
        k_tiles, v_tiles = (None, None) if paged else compat.tile_descriptors(target, block_n, block_d, k, v)
        plan.launch(
            forward_kernel,
            triton.cdiv(call.max_seqlen_q, chosen.block_m) * heads * batch,
            ("q", "k", "v", ("k", k_tiles), ("v", v_tiles), "out", "lse", "cu_q", "cu_k", "table", "slopes", "rng"),
            (
                *call.strides(q), *k_strides, *v_strides, *call.strides(out), *call.row_strides(lse),
                block_table.stride(0) if paged else 0,
                slopes.stride(0) if slopes is not None and slopes.dim() == 2 else 0,
                heads, heads // k.shape[-2], call.max_seqlen_q, call.max_seqlen_k, k.shape[1] if paged else 0,
                call.left, call.right, call.forward_scale_log2, call.softcap, call.keep_threshold, call.keep_scale,
            ),
            {
                "HEAD_DIM": head_dim, "BLOCK_D": block_d, "BLOCK_M": chosen.block_m, "BLOCK_N": block_n,
                "PAGED": paged, "WIDE": call.wide(max(chosen.block_m, block_n), q, k, v, out),
                "TILES": k_tiles is not None, "PAIRS": chosen.pairs, "CHUNK": chosen.chunk, **call.flags(q),
            },
            {"num_warps": chosen.num_warps, "num_stages": chosen.num_stages, **chosen.options},
        )  # fmt: skip
        return plan

    features = call.features | ({"paged"} if paged else set())
    lengths = call.max_seqlen_q, call.max_seqlen_k
    return launch(tuning.pick(target, "forward", head_dim, q.dtype, features, lengths, batch * heads, launch))
