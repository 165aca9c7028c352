"""What a call asks for, in the form that the kernels take: every compile-time flag is derived here and nowhere else."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from .reference import keep_threshold

__all__ = ["RUNTIME_NUMBERS", "Call"]

# Arguments of the kernels whose values Triton must not look at: it would compile a kernel of its own for a length that is a
# multiple of 16, for one head, for one query head a key head. So kernels compiled ahead of time serve every batch.
RUNTIME_NUMBERS = (
    "stride_lb",
    "stride_lh",
    "stride_sb",
    "stride_tb",
    "heads",
    "heads_k",
    "group",
    "tokens",
    "max_seqlen_q",
    "max_seqlen_k",
    "page_size",
    "left",
    "right",
    "keep_threshold",
)


@dataclass(frozen=True)
class Call:
    """The arguments of an attention call that are no tensors.

    left, right: the window, -1 for infinite; a causal mask is right = 0. alibi, dropout and varlen say whether
    the call brings slopes, drops anything, packs its sequences. Made by `of`, which hands out the same object for the
    same arguments, so that what is derived from them is derived once.
    """

    max_seqlen_q: int
    max_seqlen_k: int
    softmax_scale: float
    left: int
    right: int
    softcap: float
    dropout_p: float
    alibi: bool
    varlen: bool

    @staticmethod
    @functools.lru_cache(maxsize=4096)
    def of(
        max_seqlen_q: int,
        max_seqlen_k: int,
        softmax_scale: float,
        left: int,
        right: int,
        softcap: float,
        dropout_p: float,
        alibi: bool,
        varlen: bool,
    ) -> Call:
        left, right = max(left, -1), max(right, -1)
        return Call(max_seqlen_q, max_seqlen_k, softmax_scale, left, right, softcap, dropout_p, alibi, varlen)

    @functools.cached_property
    def features(self) -> frozenset[str]:
        """What makes this call's kernel another one than the plain one; the names that configurations use."""
        named = {
            "causal": self.right == 0,
            "window": self.left >= 0 or self.right > 0,
            "softcap": self.softcap > 0,
            "alibi": self.alibi,
            "dropout": self.dropout_p > 0,
            "varlen": self.varlen,
        }
        return frozenset(name for name, used in named.items() if used)

    def flags(self, q: torch.Tensor) -> dict[str, bool]:
        """The compile-time switches of the kernels."""
        return {
            "VARLEN": self.varlen,
            "LEFT": self.left >= 0,
            "RIGHT": self.right >= 0,
            "SOFTCAP": self.softcap > 0,
            "ALIBI": self.alibi,
            "DROPOUT": self.dropout_p > 0,
            "EXACT": q.dtype == torch.float32,
        }

    @property
    def scale_log2(self) -> float:
        """The softmax scale for scores in units of log2."""
        return self.softmax_scale * math.log2(math.e)

    @property
    def forward_scale_log2(self) -> float:
        """The scale, kept above 0: the online softmax multiplies maxima by it, and -inf * 0 would be NaN.

        A negative scale never comes here: ops.py turns the sign of q instead.
        """
        return max(self.scale_log2, 1e-30)

    @property
    def keep_threshold(self) -> int:
        return keep_threshold(self.dropout_p)

    @property
    def keep_scale(self) -> float:
        """1 / (1 - p); 0 where everything is dropped."""
        return 1.0 / (1.0 - self.dropout_p) if self.dropout_p < 1.0 else 0.0

    @functools.cached_property
    def with_positive_scale(self) -> Call:
        """This call with the absolute value of its scale."""
        return self if self.softmax_scale >= 0 else replace(self, softmax_scale=-self.softmax_scale)

    def batch(self, q: torch.Tensor, cu_seqlens: torch.Tensor | None) -> int:
        return int(cu_seqlens.numel() - 1 if cu_seqlens is not None else q.shape[0])

    def strides(self, x: torch.Tensor) -> tuple[int, ...]:
        """(batch, token, head) strides of a (B, S, H, D) or packed (total, H, D) tensor."""
        return (0, *x.stride()[:2]) if self.varlen else x.stride()[:3]

    def row_strides(self, x: torch.Tensor) -> tuple[int, int]:
        """(batch, head) strides of a tensor with one number a row: (B, H, S), or packed (H, total)."""
        return (0, x.stride(0)) if self.varlen else (x.stride(0), x.stride(1))

    @staticmethod
    def block_d(head_dim: int) -> int:
        """Tiles are powers of two wide, and matrix instructions at least 16."""
        return max(16, 1 << (head_dim - 1).bit_length())

    @staticmethod
    def block_n(block_n: int, page_size: int | None) -> int:
        """Keys a tile; no tile of a paged cache crosses a page, so the tile must divide it."""
        return block_n if page_size is None else math.gcd(block_n, page_size)

    @staticmethod
    def wide(block: int, *tensors: torch.Tensor) -> bool:
        """Whether an offset inside of a tile (rows a token apart) can pass 2^31 elements: 32 bits do not hold it."""
        return any((block + 1) * abs(x.stride(-3)) >= 2**31 for x in tensors)

    @functools.cached_property
    def kernel_arguments(self) -> tuple[Any, ...]:
        """The run-time numbers that backward kernels take, in their order."""
        return (
            self.max_seqlen_q,
            self.max_seqlen_k,
            self.left,
            self.right,
            self.scale_log2,
            self.softcap,
            self.keep_threshold,
            self.keep_scale,
        )
