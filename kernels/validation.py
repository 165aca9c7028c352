"""Checks of the arguments of a call: a wrong one gets a ValueError that names it, before any kernel starts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

__all__ = [
    "check_dense", "check_lengths", "check_options", "check_slopes", "check_tensors", "check_varlen", "check_window",
]  # fmt: skip

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MAX_HEAD_DIM = 256


def check_tensors(**arguments: object) -> None:
    """Whether each of these, by its name, is a tensor."""
    for name, x in arguments.items():
        if not isinstance(x, torch.Tensor):
            raise ValueError(f"{name} must be a torch.Tensor; got {type(x).__name__}")


def check_window(window_size: tuple[int, int]) -> tuple[int, int]:
    """(left, right) as numbers; a pair of one-element tensors is one too."""
    try:
        left, right = (int(x) for x in window_size)
    except (TypeError, ValueError):
        raise ValueError(f"window_size must be two whole numbers, (left, right); got {window_size!r}") from None
    return left, right


def check_options(dropout_p: Any, softcap: Any, softmax_scale: Any) -> None:
    for name, value in (("dropout_p", dropout_p), ("softcap", softcap), ("softmax_scale", softmax_scale)):
        if type(value) is not float and (value is None or isinstance(value, (str, bytes, list, tuple))):
            raise ValueError(f"{name} must be a number; got {value!r}")
    if not 0.0 <= dropout_p <= 1.0:
        raise ValueError(f"dropout_p is a probability, 0 to 1; got {dropout_p}")
    if softcap != softcap or softcap == float("inf"):
        raise ValueError(f"softcap must be a finite number (0 or less: no cap); got {softcap}")
    if softmax_scale != softmax_scale or abs(softmax_scale) == float("inf"):
        raise ValueError(f"softmax_scale must be a finite number; got {softmax_scale}")


def _check_common(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    check_tensors(q=q, k=k, v=v)
    if q.dtype not in _DTYPES:
        raise ValueError(f"q, k and v must be float16, bfloat16 or float32; q is {q.dtype}")
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype:
            raise ValueError(f"q, k and v must have the same dtype; q is {q.dtype}, {name} is {x.dtype}")
        if x.device != q.device:
            raise ValueError(f"q, k and v must be on the same device; q is on {q.device}, {name} on {x.device}")
    if q.dtype == torch.float64 and q.device.type != "cpu":
        raise ValueError("float64 is computed on the CPU only; convert q, k and v to float32, bfloat16 or float16")


def _check_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    head_dim, heads, heads_k = q.shape[-1], q.shape[-2], k.shape[-2]
    if not 1 <= head_dim <= _MAX_HEAD_DIM:
        raise ValueError(f"the head dimension must be 1 to {_MAX_HEAD_DIM}; got {head_dim}")
    if k.shape[-1] != head_dim or v.shape[-1] != head_dim:
        raise ValueError(
            f"q, k and v must have the same head dimension; got {head_dim}, {k.shape[-1]} and {v.shape[-1]}"
        )
    if k.shape != v.shape:
        raise ValueError(f"k and v must have the same shape; got {tuple(k.shape)} and {tuple(v.shape)}")
    if heads_k == 0 or heads % heads_k:
        raise ValueError(
            f"the number of heads of q ({heads}) must be a multiple of the number of heads of k and v ({heads_k})"
        )


def check_dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """q: (B, Sq, H, D); k, v: (B, Sk, Hk, D)."""
    _check_common(q, k, v)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4:
            raise ValueError(f"{name} must be (batch, seqlen, heads, head_dim); got shape {tuple(x.shape)}")
    if k.shape[0] != q.shape[0] or v.shape[0] != q.shape[0]:
        raise ValueError(f"q, k and v must have the same batch size; got {q.shape[0]}, {k.shape[0]} and {v.shape[0]}")
    _check_heads(q, k, v)


def check_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor | None,
    cu_seqlens_k: torch.Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    block_table: torch.Tensor | None = None,
) -> int:
    """q: (total_q, H, D); k, v: (total_k, Hk, D), or (pages, page_size, Hk, D) with a block_table. Returns how many sequences."""
    _check_common(q, k, v)
    if q.dim() != 3:
        raise ValueError(f"q must be (total tokens, heads, head_dim); got shape {tuple(q.shape)}")
    wanted = 3 if block_table is None else 4
    layout = "(total tokens, heads, head_dim)" if wanted == 3 else "(pages, page_size, heads, head_dim)"
    for name, x in (("k", k), ("v", v)):
        if x.dim() != wanted:
            raise ValueError(f"{name} must be {layout}; got shape {tuple(x.shape)}")
    _check_heads(q, k, v)
    for name, cu in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        if not isinstance(cu, torch.Tensor) or cu.dtype != torch.int32:
            raise ValueError(f"{name} must be an int32 tensor; got {getattr(cu, 'dtype', type(cu).__name__)}")
        if cu.dim() != 1 or cu.numel() < 2 or not cu.is_contiguous():
            raise ValueError(f"{name} must be contiguous, of shape (batch + 1,), batch >= 1; got {tuple(cu.shape)}")
        if cu.device != q.device:
            raise ValueError(f"{name} must be on q's device {q.device}; it is on {cu.device}")
    assert cu_seqlens_q is not None
    assert cu_seqlens_k is not None
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise ValueError(
            "cu_seqlens_q and cu_seqlens_k must have the same length; "
            f"got {cu_seqlens_q.numel()} and {cu_seqlens_k.numel()}"
        )
    for name, value in (("max_seqlen_q", max_seqlen_q), ("max_seqlen_k", max_seqlen_k)):
        if value < 0:
            raise ValueError(f"{name} must not be negative; got {value}")
    if block_table is not None:
        check_tensors(block_table=block_table)
        if block_table.dtype != torch.int32 or block_table.dim() != 2 or block_table.stride(-1) != 1:
            raise ValueError("block_table must be an int32 tensor (batch, pages a sequence), last dimension contiguous")
        if block_table.shape[0] != cu_seqlens_q.numel() - 1:
            raise ValueError(
                f"block_table must have a row for each of the {cu_seqlens_q.numel() - 1} sequences; "
                f"got {block_table.shape[0]}"
            )
        if block_table.device != q.device:
            raise ValueError(f"block_table must be on q's device {q.device}; it is on {block_table.device}")
        if k.shape[1] % 16:
            raise ValueError(f"the page size must be a multiple of 16; got {k.shape[1]}")
    return int(cu_seqlens_q.numel()) - 1


def check_lengths(
    q: torch.Tensor, k: torch.Tensor, cu_seqlens_q: torch.Tensor, cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int, max_seqlen_k: int, paged: bool,
) -> None:  # fmt: skip
    """What the lengths are, where reading them does not wait for a GPU; shapes as checked by check_varlen."""
    for side, cu, longest, total in (
        ("q", cu_seqlens_q, max_seqlen_q, q.shape[0]),
        ("k", cu_seqlens_k, max_seqlen_k, None if paged else k.shape[0]),
    ):
        ends = cu.tolist()
        lengths = [end - start for start, end in pairwise(ends)]
        if ends[0] < 0 or min(lengths) < 0:
            raise ValueError(f"cu_seqlens_{side} must not decrease, nor begin below 0; got {ends}")
        if total is not None and ends[-1] > total:
            raise ValueError(f"cu_seqlens_{side} ends at {ends[-1]}, behind the last of the {total} tokens of {side}")
        if max(lengths) > longest:
            raise ValueError(f"max_seqlen_{side} is {longest}, but cu_seqlens_{side} has a sequence of {max(lengths)}")


def check_slopes(alibi_slopes: torch.Tensor | None, batch: int, heads: int, device: torch.device) -> None:
    if alibi_slopes is None:
        return
    check_tensors(alibi_slopes=alibi_slopes)
    if alibi_slopes.dtype != torch.float32:
        raise ValueError(f"alibi_slopes must be float32; got {alibi_slopes.dtype}")
    if tuple(alibi_slopes.shape) not in ((heads,), (batch, heads)):
        raise ValueError(f"alibi_slopes must be ({heads},) or ({batch}, {heads}); got {tuple(alibi_slopes.shape)}")
    if alibi_slopes.stride(-1) != 1:
        raise ValueError("alibi_slopes must have a contiguous last dimension")
    if alibi_slopes.device != device:
        raise ValueError(f"alibi_slopes must be on q's device {device}; it is on {alibi_slopes.device}")
