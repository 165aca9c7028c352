"""What the backward kernels need to know of each row before they start: delta and the logarithm of its sum, in units of log2."""

# mypy: ignore-errors
import triton
import triton.language as tl

from .call import RUNTIME_NUMBERS
from .primitives import LOG2E, load_tile

__all__ = ["delta_kernel", "delta_rows", "delta_warps"]


def delta_rows(head_dim: int) -> int:
    """Rows a program."""
    return 64 if head_dim <= 128 else 32


def delta_warps(target: str) -> int:
    """On AMD few waves with many elements a lane: most of what this small kernel executes, each wave executes once."""
    if not target.startswith("gfx"):
        return 4
    return 1 if target.startswith("gfx9") else 2  # waves of 64 lanes, of 32


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
