"""Steps that the forward and the backward kernels share: loading tiles, scores, masks, dropout, ranges of blocks.

Names: `rows` are positions of queries, `cols` of keys, both counted inside their own sequence. `scale_log2` is the
softmax scale times log2(e): scores are kept in units of log2, so that exp2 (one instruction on every GPU) does the work
of exp. A helper takes rows and cols already broadcast against each other, so it serves a tile and its transpose alike.
"""

# mypy: ignore-errors
import triton
import triton.language as tl

from .compat import INTERPRETED

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# A finite pivot below every score. With -inf instead, a row that has seen no key yet would give -inf - (-inf) = NaN.
LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def load_tile(
    base, offsets, rows, row_end, dims, HEAD_DIM: tl.constexpr, PAD_DIM: tl.constexpr, MASK_ROWS: tl.constexpr
):
    """A tile [rows, head dimension] at base + offsets; what lies outside of the tensor reads as 0."""
    if MASK_ROWS:
        if PAD_DIM:
            return tl.load(base + offsets, mask=(rows < row_end)[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
        else:
            return tl.load(base + offsets, mask=(rows < row_end)[:, None], other=0.0)
    else:
        if PAD_DIM:
            return tl.load(base + offsets, mask=(dims < HEAD_DIM)[None, :], other=0.0)
        else:
            return tl.load(base + offsets)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """float32 in a narrower type, rounded to nearest even.

    Triton's interpreter cuts the low bits off where the type is bfloat16; there they are rounded away before.
    """
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    return x.to(dtype)


@triton.jit
def fetch_tile(descriptor, batch, row, head, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """A tile [BLOCK, BLOCK_D] of a (B, S, H, D) tensor through the GPU's copy engine (see compat.tile_descriptor)."""
    return descriptor.load([batch, row, head, 0]).reshape(BLOCK, BLOCK_D)


@triton.jit
def _either(a, b):
    return a | b


@triton.jit
def load_pairs(
    base, offsets, stride, rows, row_end, dims, HEAD_DIM: tl.constexpr, PAD_DIM: tl.constexpr, MASK_ROWS: tl.constexpr
):
    """What load_tile loads, in a form that costs less as the right operand of a product on AMD's matrix units.

    Those want pairs of rows in one register, as the sum runs over rows, where memory has pairs of columns; Triton then
    reads local memory 16 bits at a time. Here two rows are packed into one register before they go there. offsets, rows:
    those of the even rows. The reduction does nothing but pin this order: it keeps Triton from moving the change of layout
    back before the packing.
    """
    if MASK_ROWS:
        mask = (rows < row_end)[:, None]
        mask_next = (rows + 1 < row_end)[:, None]
        if PAD_DIM:
            mask = mask & (dims < HEAD_DIM)[None, :]
            mask_next = mask_next & (dims < HEAD_DIM)[None, :]
        even = tl.load(base + offsets, mask=mask, other=0.0)
        odd = tl.load(base + (offsets + stride), mask=mask_next, other=0.0)
    else:
        if PAD_DIM:
            even = tl.load(base + offsets, mask=(dims < HEAD_DIM)[None, :], other=0.0)
            odd = tl.load(base + (offsets + stride), mask=(dims < HEAD_DIM)[None, :], other=0.0)
        else:
            even = tl.load(base + offsets)
            odd = tl.load(base + (offsets + stride))
    even = even.to(tl.uint16, bitcast=True).to(tl.uint32)
    odd = odd.to(tl.uint16, bitcast=True).to(tl.uint32)
    word = tl.reduce(tl.join(even, odd << 16), 2, _either)
    halves = tl.join(word.to(tl.uint16), (word >> 16).to(tl.uint16))  # [rows / 2, columns, 2]
    tile = tl.reshape(tl.permute(halves, (0, 2, 1)), (2 * offsets.shape[0], offsets.shape[1]))
    return tile.to(base.dtype.element_ty, bitcast=True)


@triton.jit
def store_tile(base, offsets, value, rows, row_end, dims, HEAD_DIM: tl.constexpr, PAD_DIM: tl.constexpr):
    """Stores the part of a tile [rows, head dimension] that lies inside of the tensor."""
    mask = (rows < row_end)[:, None]
    if PAD_DIM:
        mask = mask & (dims < HEAD_DIM)[None, :]
    tl.store(base + offsets, narrow(value, base.dtype.element_ty), mask=mask)


@triton.jit
def matmul(a, b, acc, EXACT: tl.constexpr):
    """acc + a @ b. float32 operands are multiplied in float32: tf32 would lose 13 bits that the caller asked for."""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    if EXACT:
        return tl.dot(a, b, acc, input_precision="ieee")
    else:
        return tl.dot(a, b, acc)


@triton.jit
def product_by_chunks(
    A, offs_a, rows_a, end_a, B, offs_b, rows_b, end_b,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr, EXACT: tl.constexpr, MASK_B: tl.constexpr,
):  # fmt: skip
    """A @ B^T over the head dimension, both read here, CHUNK columns at a time, so that few registers hold them.

    offs_a, offs_b: offsets of the first chunk of the tiles [rows, head dimension].
    """
    acc = tl.zeros([rows_a.shape[0], rows_b.shape[0]], tl.float32)
    for first in tl.static_range(0, BLOCK_D, CHUNK):
        dims = first + tl.arange(0, CHUNK)
        a = load_tile(A + first, offs_a, rows_a, end_a, dims, HEAD_DIM, first + CHUNK > HEAD_DIM, True)
        b = load_tile(B + first, offs_b, rows_b, end_b, dims, HEAD_DIM, first + CHUNK > HEAD_DIM, MASK_B)
        acc = matmul(a, tl.trans(b), acc, EXACT)
    return acc


@triton.jit
def tanh(x, EXACT: tl.constexpr):
    """tanh through exp2, which saturates to +-1 without overflow.

    Near 0 the difference cancels, leaving an absolute error of 1e-7: nothing for 16-bit types. EXACT takes the odd
    Taylor polynomial up to x^9 there (remainder below 2e-9 at |x| = 0.25).
    """
    t = 1.0 - 2.0 / (tl.exp2(x * 2.8853900817779268) + 1.0)
    if EXACT:
        y = x * x
        series = x * (1.0 + y * (-0.3333333333 + y * (0.1333333333 + y * (-0.0539682540 + y * 0.0218694885))))
        t = tl.where(tl.abs(x) < 0.25, series, t)
    return t


@triton.jit
def scores_log2(
    qk, rows, cols, shift, scale_log2, softcap, slope, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr, EXACT: tl.constexpr
):
    """Dot products -> scores in units of log2: scaled, capped, biased.

    slope: the head's ALiBi slope times log2(e); shift: Sk - Sq, so that query `row` stands at key position row + shift.
    """
    if SOFTCAP:
        s = tanh(qk * (scale_log2 * LN2 / softcap), EXACT) * (softcap * LOG2E)
    else:
        s = qk * scale_log2
    if ALIBI:
        s -= slope * tl.abs(rows + shift - cols).to(tl.float32)
    return s


@triton.jit
def in_sight(rows, cols, shift, left, right, col_end, LEFT: tl.constexpr, RIGHT: tl.constexpr):
    """Whether a query sees a key: one before col_end, inside of the window. One comparison an element for each side."""
    if RIGHT:
        seen = cols < tl.minimum(rows + (shift + right + 1), col_end)
    else:
        seen = cols < col_end
    if LEFT:
        seen = seen & (cols >= rows + (shift - left))
    return seen


@triton.jit
def key_blocks(
    first_row, last_row, shift, left, right, seqlen_k, LEFT: tl.constexpr, RIGHT: tl.constexpr, BLOCK_N: tl.constexpr
):
    """The blocks of keys that rows first_row..last_row look at: (begin, full_begin, full_end, end).

    Blocks full_begin..full_end are seen whole by each of these rows, so they need no mask; the others are cut by the
    window, the diagonal or the end of the keys. Numbers are cut at 0 before they are divided: integer division rounds
    towards 0 on the GPU and down in Python.
    """
    end_col = seqlen_k
    full_end_col = seqlen_k
    begin_col = 0
    full_begin_col = 0
    if RIGHT:
        end_col = tl.minimum(end_col, tl.maximum(last_row + shift + right + 1, 0))
        full_end_col = tl.minimum(full_end_col, tl.maximum(first_row + shift + right + 1, 0))
    if LEFT:
        begin_col = tl.maximum(first_row + shift - left, 0)
        full_begin_col = tl.maximum(last_row + shift - left, 0)
    begin = begin_col // BLOCK_N
    end = tl.maximum((end_col + BLOCK_N - 1) // BLOCK_N, begin)
    full_begin = tl.minimum((full_begin_col + BLOCK_N - 1) // BLOCK_N, end)
    full_end = tl.maximum(full_end_col // BLOCK_N, full_begin)
    return begin, full_begin, full_end, end


@triton.jit
def row_blocks(
    first_col,
    last_col,
    shift,
    left,
    right,
    seqlen_q,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """The blocks of queries that look at keys first_col..last_col, in the manner of `key_blocks`."""
    end_row = seqlen_q
    full_end_row = seqlen_q
    begin_row = 0
    full_begin_row = 0
    if RIGHT:
        begin_row = tl.maximum(first_col - shift - right, 0)
        full_begin_row = tl.maximum(last_col - shift - right, 0)
    if LEFT:
        end_row = tl.minimum(end_row, tl.maximum(last_col - shift + left + 1, 0))
        full_end_row = tl.minimum(full_end_row, tl.maximum(first_col - shift + left + 1, 0))
    begin = begin_row // BLOCK_M
    end = tl.maximum((end_row + BLOCK_M - 1) // BLOCK_M, begin)
    full_begin = tl.minimum((full_begin_row + BLOCK_M - 1) // BLOCK_M, end)
    full_end = tl.maximum(full_end_row // BLOCK_M, full_begin)
    return begin, full_begin, full_end, end


@triton.jit
def edge_block(i, begin, full_begin, full_end):
    """The i-th of the blocks that need a mask: first those before the full ones, then those behind them."""
    return tl.where(i < full_begin - begin, begin + i, full_end + i - (full_begin - begin))


@triton.jit
def sequence(cu_seqlens, batch, seqlen, VARLEN: tl.constexpr):
    """(number of its first token, its length) of a sequence; a dense batch has the same length everywhere."""
    if VARLEN:
        first = tl.load(cu_seqlens + batch)
        return first.to(tl.int64), tl.load(cu_seqlens + batch + 1) - first
    else:
        return tl.cast(0, tl.int64), seqlen


# ---- dropout ---------------------------------------------------------------------------------------------------------
# reference.dropout_keep computes the same bits in plain PyTorch, and says how they are made.


@triton.jit
def mix(x):
    """A 32-bit finaliser with low bias (C. Wellons, "hash-prospector", lowbias32). x: uint32."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def dropout_keys(rng_state, head):
    """Three 32-bit keys of a head (its number counted over the whole batch) from seed and offset: Philox, 10 rounds."""
    seed = tl.load(rng_state).to(tl.uint64)
    offset = tl.load(rng_state + 1).to(tl.uint64)
    zero = tl.cast(head, tl.uint32) * 0
    k0, k1, k2, _ = tl.philox_impl(
        tl.cast(head, tl.uint32),
        zero,
        (offset & 0xFFFFFFFF).to(tl.uint32),
        (offset >> 32).to(tl.uint32),
        (seed & 0xFFFFFFFF).to(tl.uint32),
        (seed >> 32).to(tl.uint32),
        10,
    )
    return k0, k1, k2


@triton.jit
def dropout_row_keys(rows, k0, k1):
    """Two 32-bit keys a row."""
    r = rows.to(tl.uint32)
    return mix(r ^ k0), mix(r + k1)


@triton.jit
def dropout_keep(row_a, row_b, cols, k2, threshold):
    """Which elements dropout keeps. row_a, row_b, cols: broadcast against each other; two products an element."""
    x = (cols.to(tl.uint32) * 0x9E3779B9 + k2) ^ row_a
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15) ^ row_b
    x = x * 0x846CA68B
    return x >= threshold
