"""The forward pass on 8-bit queries, keys and values: the kernel.

Stored numbers are real ones divided by a scale. Scores are multiplied by the scales of query and key, the output by that of
the values. Two ways of multiplying 8-bit tiles:

- NATIVE: the matrix unit takes the type itself. fp8 on Hopper, gfx942 (the fnuz types), gfx950 and gfx12; int8 everywhere.
- otherwise tiles become float16 first, which every fp8 number and every int8 number is exactly: no accuracy is lost, only
  the speed of the narrow type. So on gfx90a and RDNA3, which have no fp8 matrix instructions.

Probabilities are float16, as int8 values become, or the type of 16-bit values. With fp8 values and NATIVE_VALUES they are
fp8 too, multiplied by 2^8 before rounding, so that those below the largest one's 2^-9 do not fall to 0 (Shah et al. 2024,
FlashAttention-3, https://arxiv.org/abs/2407.08608). Not on NVIDIA GPUs, whose fp8 product wants the values transposed,
which costs Triton more than the product gains: there fp8 values become float16.
"""

# mypy: ignore-errors
import triton
import triton.language as tl

from .primitives import (
    LN2,
    LOG2E,
    LOWEST,
    edge_block,
    in_sight,
    key_blocks,
    load_tile,
    matmul,
    narrow,
    scores_log2,
    store_tile,
)

__all__ = ["quantized_kernel"]


@triton.jit
def widen(x, FORMAT: tl.constexpr):
    """Bytes -> the float16 numbers that they stand for; exact, zeros, subnormals, infinities and NaN included.

    The bits of an 8-bit float, moved so that its exponent ends where a float16's does, read as its value times a power
    of 2. e4m3fn: 4 bits of exponent, bias 7, no infinity; the fnuz types have a bias larger by one, and one NaN, 0x80.
    """
    if FORMAT == "int8":
        return x.to(tl.float16)
    elif FORMAT == "e5m2":
        return (x.to(tl.uint16) << 8).to(tl.float16, bitcast=True)
    elif FORMAT == "e4m3fn" or FORMAT == "e4m3fnuz":
        bits = ((x & 0x7F).to(tl.uint16) << 7) | ((x & 0x80).to(tl.uint16) << 8)
        nan = (x & 0x7F) == 0x7F if FORMAT == "e4m3fn" else x == 0x80
        bits = tl.where(nan, 0x7E00, bits).to(tl.uint16)
        return bits.to(tl.float16, bitcast=True) * (256.0 if FORMAT == "e4m3fn" else 128.0)
    elif FORMAT == "e5m2fnuz":
        # Half of what the bits say as e5m2. Where the exponent allows, it is made smaller by one before they are read:
        # the largest one would read as infinity.
        size = (x & 0x7F).to(tl.uint16) << 8
        small = (size.to(tl.float16, bitcast=True) * 0.5).to(tl.uint16, bitcast=True)
        bits = tl.where(size >= 0x0800, size - 0x0400, small) | ((x & 0x80).to(tl.uint16) << 8)
        return tl.where(x == 0x80, 0x7E00, bits).to(tl.uint16).to(tl.float16, bitcast=True)
    else:
        return x


@triton.jit
def as_operand(x, FORMAT: tl.constexpr, NATIVE: tl.constexpr):
    """Bytes -> what the matrix unit takes."""
    if not NATIVE or (FORMAT == "float16" or FORMAT == "bfloat16"):
        return widen(x, FORMAT)
    elif FORMAT == "e4m3fn":
        return x.to(tl.float8e4nv, bitcast=True)
    elif FORMAT == "e5m2":
        return x.to(tl.float8e5, bitcast=True)
    elif FORMAT == "e4m3fnuz":
        return x.to(tl.float8e4b8, bitcast=True)
    elif FORMAT == "e5m2fnuz":
        return x.to(tl.float8e5b16, bitcast=True)
    else:
        return x


@triton.jit
def quantized_step(
    acc,
    row_sum,
    row_max,
    q,
    q_scale,
    K,
    V,
    KScale,
    offs_k,
    offs_v,
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
    block_scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PAD_DIM: tl.constexpr,
    FORMAT: tl.constexpr,
    V_FORMAT: tl.constexpr,
    NATIVE: tl.constexpr,
    NATIVE_VALUES: tl.constexpr,
    BLOCK_SCALES: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ALIBI: tl.constexpr,
    MASK: tl.constexpr,
):
    """Folds one block of keys into (acc [BLOCK_M, BLOCK_D], row_sum [BLOCK_M], row_max [BLOCK_M])."""
    cols = first_col + tl.arange(0, BLOCK_N)
    # -- scores: [BLOCK_M, BLOCK_D] @ [BLOCK_D, BLOCK_N], then the scales of both sides
    k = as_operand(load_tile(K, offs_k, cols, seqlen_k, dims, HEAD_DIM, PAD_DIM, MASK), FORMAT, NATIVE)
    if NATIVE and FORMAT == "int8":
        qk = tl.dot(q, tl.trans(k), out_dtype=tl.int32).to(tl.float32)
    else:
        qk = matmul(q, tl.trans(k), tl.zeros([q.shape[0], BLOCK_N], tl.float32), False)
    if BLOCK_SCALES:
        k_scale = tl.load(KScale + cols // block_scale, mask=cols < seqlen_k, other=0.0)
        qk *= q_scale[:, None] * k_scale[None, :]
    s = scores_log2(qk, rows[:, None], cols[None, :], shift, scale_log2, softcap, slope, SOFTCAP, ALIBI, False)
    if MASK:
        seen = in_sight(rows[:, None], cols[None, :], shift, left, right, seqlen_k, LEFT, RIGHT)
        s = tl.where(seen, s, float("-inf"))
    # -- online softmax
    new_max = tl.maximum(row_max, tl.max(s, 1))
    p = tl.exp2(s - new_max[:, None])
    alpha = tl.exp2(row_max - new_max)
    row_sum = row_sum * alpha + tl.sum(p, 1)
    # -- output: [BLOCK_M, BLOCK_N] @ [BLOCK_N, BLOCK_D]
    v = load_tile(V, offs_v, cols, seqlen_k, dims, HEAD_DIM, PAD_DIM, MASK)
    v = as_operand(v, V_FORMAT, NATIVE and V_FORMAT != "int8")
    if not NATIVE_VALUES and v.dtype.is_fp8():
        v = v.to(tl.float16)
    acc = acc * alpha[:, None]
    if NATIVE_VALUES and (V_FORMAT == "e4m3fn" or V_FORMAT == "e5m2"):
        acc = tl.dot((p * 256.0).to(tl.float8e4nv), v, acc)
    elif NATIVE_VALUES and (V_FORMAT == "e4m3fnuz" or V_FORMAT == "e5m2fnuz"):
        # 240 is the largest e4m3fnuz: one power of 2 less.
        acc = tl.dot((p * 128.0).to(tl.float8e4b8), v, acc)
    else:
        acc = matmul(narrow(p, v.dtype), v, acc, False)
    return acc, row_sum, new_max


@triton.jit(
    do_not_specialize=["heads", "group", "seqlen_q", "seqlen_k", "left", "right", "block_scale", "blocks_q", "blocks_k"]
)
def quantized_kernel(
    Q,  # bytes of (B, Sq, H, D)
    K,  # bytes of (B, Sk, Hk, D)
    V,  # bytes or 16-bit numbers of (B, Sk, Hk, D)
    Out,
    Lse,  # (B, H, Sq)
    QScale,  # (B, H, blocks_q) float32
    KScale,  # (B, Hk, blocks_k) float32
    VScale,  # (B, Hk) float32
    Slopes,  # (B or 1, H) float32, or None
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
    stride_slopes,
    heads,
    group,
    seqlen_q,
    seqlen_k,
    blocks_q,
    blocks_k,
    block_scale,  # tokens that share a scale, where BLOCK_SCALES
    left,
    right,
    scale_log2,
    softcap,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FORMAT: tl.constexpr,
    V_FORMAT: tl.constexpr,
    NATIVE: tl.constexpr,
    NATIVE_VALUES: tl.constexpr,
    BLOCK_SCALES: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    """Out and Lse of one tile of BLOCK_M queries of one head."""
    PAD_DIM: tl.constexpr = HEAD_DIM != BLOCK_D
    ALIBI: tl.constexpr = Slopes is not None
    # -- which tile
    tiles = tl.cdiv(seqlen_q, BLOCK_M)
    tile = tl.program_id(0) % tiles
    head = (tl.program_id(0) // tiles) % heads
    batch = (tl.program_id(0) // (tiles * heads)).to(tl.int64)
    if RIGHT:
        tile = tiles - 1 - tile  # under the diagonal the last tiles have most to do: start them first
    head_k = (head // group).to(tl.int64)
    first_row = tile * BLOCK_M
    last_row = tl.minimum(first_row + BLOCK_M, seqlen_q) - 1
    shift = seqlen_k - seqlen_q
    lane_m = tl.arange(0, BLOCK_M)
    lane_n = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    rows = first_row + lane_m

    # -- addresses: a 64-bit start of the tile, 32-bit offsets inside of it
    Q += batch * stride_qb + head * stride_qh + first_row.to(tl.int64) * stride_qm
    Out += batch * stride_ob + head * stride_oh + first_row.to(tl.int64) * stride_om
    K += batch * stride_kb + head_k * stride_kh
    V += batch * stride_vb + head_k * stride_vh
    QScale += (batch * heads + head) * blocks_q
    KScale += (batch * (heads // group) + head_k) * blocks_k
    Lse += (batch * heads + head) * seqlen_q
    offs_k = lane_n[:, None] * stride_kn + dims[None, :]
    offs_v = lane_n[:, None] * stride_vn + dims[None, :]

    # -- queries and scales
    q = load_tile(Q, lane_m[:, None] * stride_qm + dims[None, :], rows, seqlen_q, dims, HEAD_DIM, PAD_DIM, True)
    q = as_operand(q, FORMAT, NATIVE)
    if BLOCK_SCALES:
        q_scale = tl.load(QScale + rows // block_scale, mask=rows < seqlen_q, other=0.0)
    else:
        q_scale = tl.load(QScale)
        scale_log2 = scale_log2 * q_scale * tl.load(KScale)
    slope = 0.0
    if ALIBI:
        slope = tl.load(Slopes + batch * stride_slopes + head) * LOG2E

    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    row_max = tl.full([BLOCK_M], LOWEST, tl.float32)
    begin, full_begin, full_end, end = key_blocks(
        first_row, last_row, shift, left, right, seqlen_k, LEFT, RIGHT, BLOCK_N
    )
    # -- blocks that every row sees whole: no masks
    for block in range(full_begin, full_end):
        start = tl.cast(block * BLOCK_N, tl.int64)
        acc, row_sum, row_max = quantized_step(
            acc, row_sum, row_max, q, q_scale, K + start * stride_kn, V + start * stride_vn, KScale, offs_k, offs_v,
            rows, block * BLOCK_N, dims, seqlen_k, shift, left, right, scale_log2, softcap, slope, block_scale,
            HEAD_DIM, BLOCK_N, PAD_DIM, FORMAT, V_FORMAT, NATIVE, NATIVE_VALUES, BLOCK_SCALES, LEFT, RIGHT, SOFTCAP, ALIBI, False,
        )  # fmt: skip
    # -- blocks cut by the window, the diagonal or the end of the keys
    for i in range((full_begin - begin) + (end - full_end)):
        block = edge_block(i, begin, full_begin, full_end)
        start = tl.cast(block * BLOCK_N, tl.int64)
        acc, row_sum, row_max = quantized_step(
            acc, row_sum, row_max, q, q_scale, K + start * stride_kn, V + start * stride_vn, KScale, offs_k, offs_v,
            rows, block * BLOCK_N, dims, seqlen_k, shift, left, right, scale_log2, softcap, slope, block_scale,
            HEAD_DIM, BLOCK_N, PAD_DIM, FORMAT, V_FORMAT, NATIVE, NATIVE_VALUES, BLOCK_SCALES, LEFT, RIGHT, SOFTCAP, ALIBI, True,
        )  # fmt: skip

    # -- normalise and take back the scale of the values; a row that saw no key gives 0 and +inf
    empty = row_sum == 0.0
    safe_sum = tl.where(empty, 1.0, row_sum)
    scale = tl.load(VScale + batch * (heads // group) + head_k) / safe_sum
    if NATIVE_VALUES and (V_FORMAT == "e4m3fn" or V_FORMAT == "e5m2"):
        scale = scale * (1.0 / 256.0)
    elif NATIVE_VALUES and (V_FORMAT == "e4m3fnuz" or V_FORMAT == "e5m2fnuz"):
        scale = scale * (1.0 / 128.0)
    tl.store(Lse + rows, tl.where(empty, float("inf"), (row_max + tl.log2(safe_sum)) * LN2), mask=rows < seqlen_q)
    store_tile(
        Out, lane_m[:, None] * stride_om + dims[None, :], acc * scale[:, None], rows, seqlen_q, dims, HEAD_DIM, PAD_DIM
    )
