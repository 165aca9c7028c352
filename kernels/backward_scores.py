"""What both backward kernels make of a tile of Q K^T: the probabilities P again, and dS from dP.

rows, cols, lse and delta are broadcast against each other, so the same steps serve a tile and its transpose.
"""

# mypy: ignore-errors
import triton
import triton.language as tl

from .primitives import LN2, scores_log2

__all__ = ["probabilities", "score_gradient"]


@triton.jit
def probabilities(
    qk, lse, rows, cols, shift, scale_log2, softcap, slope,
    SOFTCAP: tl.constexpr, ALIBI: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """(S in units of log2, P = exp(S - lse)) without masks. lse: in units of log2."""
    s = scores_log2(qk, rows, cols, shift, scale_log2, softcap, slope, SOFTCAP, ALIBI, EXACT)
    return s, tl.exp2(s - lse)


@triton.jit
def score_gradient(
    p, dp, delta, s, qk, rows, cols, shift, scale_log2, softcap, slope,
    SOFTCAP: tl.constexpr, ALIBI: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """dS = P * (dP - delta), times the slope of the cap where there is one."""
    ds = p * (dp - delta)
    if SOFTCAP:
        if ALIBI:  # the bias came behind the cap
            s = scores_log2(qk, rows, cols, shift, scale_log2, softcap, slope, SOFTCAP, False, EXACT)
        t = s * (LN2 / softcap)
        ds = ds * (1.0 - t * t)  # 1 - tanh^2
    return ds
