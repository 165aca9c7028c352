"""The public functions: flash-attn 2.8's names, arguments, defaults, shapes and returns.

What they promise beyond it: every argument has its effect on every device, or raises a ValueError before a kernel
starts; softcap and dropout go together; float32 and head dimensions that are no multiple of 8 need no copy; the gradient
of the returned softmax_lse is right too; results are the same bits in every run, `deterministic` or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from . import reference, validation
from .call import Call
from .launching import look_up
from .ops import attend_eagerly, attention_forward, plainly_eager

if TYPE_CHECKING:
    from typing import TypeAlias

    from torch import Tensor

    from .launching import Found

    Result: TypeAlias = Tensor | tuple[Tensor, Tensor, Tensor]

__all__ = [
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
]

# Options of these types mean the same whenever they are equal.
_NUMBERS = frozenset((float, int, bool, type(None)))


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """Attention of q (B, Sq, H, D) with k and v (B, Sk, Hk, D), float16, bfloat16 or float32, D at most 256.

    H is a multiple of Hk: query head h reads key head h // (H / Hk) (grouped-query attention).

    dropout_p: share of probabilities to drop, drawn from the torch generator; 0 in evaluation.
    softmax_scale: factor of the scores; default 1 / sqrt(D).
    causal: query i sees key j only where j <= i + Sk - Sq (the diagonal ends in the bottom right corner).
    window_size: (left, right): query i sees keys i + Sk - Sq - left to i + Sk - Sq + right; -1 is infinite.
    softcap: above 0, scores become softcap * tanh(score / softcap).
    alibi_slopes: float32 (H,) or (B, H); score (i, j) gets the bias -slope * |i + Sk - Sq - j|.
    deterministic: taken for flash-attn's sake; these kernels use no atomics, so all their results are.
    return_attn_probs: also return softmax_lse and S_dmask, for tests.

    Returns out (B, Sq, H, D); a query that sees no key gets 0. With return_attn_probs also softmax_lse, float32
    (B, H, Sq), the logarithm of the sum of the exponentials of a row's scores (+inf where it sees no key), and S_dmask:
    empty without dropout, else (B, H, Sq, Sk), both lengths rounded up to 128: exp(score - row maximum), negative where
    dropped. Raises ValueError for arguments that do not fit.
    """
    out, lse, rng_state = _attend(
        False, q, k, v, None, None, None, alibi_slopes, -1, -1,
        dropout_p, softmax_scale, causal, window_size, softcap,
    )  # fmt: skip
    if not return_attn_probs:
        return out
    if rng_state is None:
        return out, lse, q.new_empty((0,))
    q, k, _ = _autocast(q, k, v)
    keep = reference.dropout_keep(rng_state, dropout_p, q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    probs = reference.signed_probabilities(
        q.detach(),
        k.detach(),
        keep,
        softmax_scale=_scale(softmax_scale, q),
        window_size=_window(window_size, causal),
        softcap=softcap,
        alibi_slopes=alibi_slopes,
    )
    return out, lse, _round_up(probs)


def flash_attn_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """`flash_attn_func` with keys and values in one tensor, kv: (B, Sk, 2, Hk, D)."""
    _check_packed("kv", kv, 5, 2)
    k, v = kv.unbind(dim=2)
    return flash_attn_func(
        q,
        k,
        v,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
    )


def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """`flash_attn_func` with queries, keys and values in one tensor, qkv: (B, S, 3, H, D)."""
    _check_packed("qkv", qkv, 5, 3)
    q, k, v = qkv.unbind(dim=2)
    return flash_attn_func(
        q,
        k,
        v,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
    )


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Result:
    """`flash_attn_func` over B sequences of different lengths, packed behind each other without padding.

    q: (total_q, H, D); k, v: (total_k, Hk, D). cu_seqlens_q, cu_seqlens_k: int32 (B + 1,), where each sequence starts
    and the last ends; max_seqlen_q, max_seqlen_k: the longest. Sequences may be empty. Whether the lengths fit each other is
    checked where they are on the CPU; reading them on a GPU would wait for it.
    block_table: int32 (B, pages a sequence): k and v are pages (P, page_size, Hk, D), page_size a multiple of 16, and
    sequence b reads pages block_table[b] in this order. There is no
    backward pass then: it raises a RuntimeError.

    Returns out (total_q, H, D), with return_attn_probs also softmax_lse (H, total_q) and S_dmask (B, H, ., .).
    """
    max_seqlen_q, max_seqlen_k = int(max_seqlen_q), int(max_seqlen_k)
    if block_table is not None and return_attn_probs and dropout_p > 0:
        raise ValueError("return_attn_probs with dropout is not offered over a paged cache (block_table)")
    out, lse, rng_state = _attend(
        True, q, k, v, cu_seqlens_q, cu_seqlens_k, block_table, alibi_slopes, max_seqlen_q, max_seqlen_k,
        dropout_p, softmax_scale, causal, window_size, softcap,
    )  # fmt: skip
    if not return_attn_probs:
        return out
    if rng_state is None:
        return out, lse, q.new_empty((0,))
    q, k, _ = _autocast(q, k, v)
    batch = cu_seqlens_q.numel() - 1
    keep = reference.dropout_keep(rng_state, dropout_p, batch, q.shape[1], max_seqlen_q, max_seqlen_k)
    probs = reference.signed_probabilities(
        _padded(q.detach(), cu_seqlens_q, max_seqlen_q),
        _padded(k.detach(), cu_seqlens_k, max_seqlen_k),
        keep,
        softmax_scale=_scale(softmax_scale, q),
        window_size=_window(window_size, causal),
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        row_lengths=cu_seqlens_q.diff(),
        col_lengths=cu_seqlens_k.diff(),
    )
    return out, lse, _round_up(probs)


def flash_attn_varlen_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """`flash_attn_varlen_func` with keys and values in one tensor, kv: (total_k, 2, Hk, D)."""
    _check_packed("kv", kv, 4, 2)
    k, v = kv.unbind(dim=1)
    return flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
    )


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """`flash_attn_varlen_func` with queries, keys and values in one tensor, qkv: (total, 3, H, D)."""
    _check_packed("qkv", qkv, 4, 3)
    q, k, v = qkv.unbind(dim=1)
    return flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
    )


def _get_block_size_n(device: torch.device, head_dim: int, is_dropout: bool, is_causal: bool) -> int:
    """How many keys share a row maximum in S_dmask: flash-attn's tests ask. Here: all of the row."""
    return 1 << 30


def _attend(
    packed: bool,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    block_table: Tensor | None,
    alibi_slopes: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size: tuple[int, int],
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(out, lse, rng_state); checked, unless a call like it was checked before.

    packed: flash_attn_varlen_func's call; else flash_attn_func's, whose lengths are taken from the shapes.
    """
    tensors = (q, k, v, cu_seqlens_q, cu_seqlens_k, block_table, alibi_slopes)
    options = (packed, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal, softcap)
    eager = plainly_eager(q)
    found = _look_up(tensors, options, window_size) if eager else None
    if found is not None and found[1] is not None:
        rng_state = _draw_rng_state(q.device) if dropout_p > 0 else None
        out, lse = attend_eagerly(found[1].call, found, *tensors, rng_state)
        return out, lse, rng_state

    if not isinstance(q, torch.Tensor) or q.dim() == 0 or q.shape[-1] == 0:
        raise ValueError("q must be a torch.Tensor with a head dimension of 1 to 256")
    scale = _scale(softmax_scale, q)
    validation.check_options(dropout_p, softcap, scale)
    if packed:
        batch = validation.check_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, block_table)
        if eager and q.is_cpu and cu_seqlens_q is not None and cu_seqlens_k is not None:
            validation.check_lengths(
                q, k, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, block_table is not None
            )
    else:
        validation.check_dense(q, k, v)
        batch, max_seqlen_q, max_seqlen_k = q.shape[0], q.shape[1], k.shape[1]
    validation.check_slopes(alibi_slopes, batch, q.shape[-2], q.device)
    q, k, v = _autocast(q, k, v)
    rng_state = _draw_rng_state(q.device) if dropout_p > 0 else None
    numbers = (max_seqlen_q, max_seqlen_k, scale, *_window(window_size, causal), float(softcap), float(dropout_p))
    tensors = (q, k, v, *tensors[3:])
    if eager:
        call = Call.of(*numbers, alibi_slopes is not None, packed)
        out, lse = attend_eagerly(call, found, *tensors, rng_state)
    else:
        out, lse = attention_forward(*tensors, rng_state, *numbers)
    return out, lse, rng_state


def _look_up(tensors: tuple[Any, ...], options: tuple[Any, ...], window_size: tuple[int, int]) -> Found | None:
    """What is known of a call like this one; None where the arguments say too little of what will be computed."""
    if type(window_size) not in (tuple, list):
        return None
    q, softmax_scale = tensors[0], options[4]
    options = (*options, *window_size)
    if q.dtype == torch.float32 and torch.is_autocast_enabled(q.device.type):
        return None
    if not _NUMBERS.issuperset(map(type, options)) or (softmax_scale is not None and softmax_scale < 0):
        return None
    return look_up("attention", options, tensors)


def _scale(softmax_scale: float | None, q: Tensor) -> float:
    return q.shape[-1] ** -0.5 if softmax_scale is None else float(softmax_scale)


def _window(window_size: tuple[int, int], causal: bool) -> tuple[int, int]:
    """(left, right); a causal mask is a window that ends at the query's own position."""
    left, right = validation.check_window(window_size)
    return left, 0 if causal else right


def _check_packed(name: str, x: Tensor, dims: int, parts: int) -> None:
    if not isinstance(x, torch.Tensor) or x.dim() != dims or x.shape[-3] != parts:
        layout = ("batch, seqlen" if dims == 5 else "total tokens") + f", {parts}, heads, head_dim"
        raise ValueError(f"{name} must be ({layout}); got {tuple(getattr(x, 'shape', ()))}")


def _autocast(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Under autocast, float32 operands are computed in the type that autocast chose, as matrix products are."""
    kind = q.device.type
    if q.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        wanted = torch.get_autocast_dtype(kind)
        return q.to(wanted), k.to(wanted), v.to(wanted)
    return q, k, v


def _draw_rng_state(device: torch.device) -> Tensor:
    """Seed and offset of dropout, int64 (2,), drawn from the torch generator of the device without waiting for it."""
    return torch.randint(0, 2**62, (2,), dtype=torch.int64, device=device)


def _padded(x: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """Packed (total, H, D) -> (B, max_seqlen, H, D), zeros behind each sequence."""
    starts, lengths = cu_seqlens[:-1], cu_seqlens.diff()
    position = torch.arange(max_seqlen, device=x.device)
    inside = position < lengths[:, None]  # (B, max_seqlen)
    index = torch.where(inside, starts[:, None] + position, 0).long()
    if x.shape[0] == 0:
        return x.new_zeros((starts.numel(), max_seqlen, *x.shape[1:]))
    return x[index] * inside[:, :, None, None]


def _round_up(probs: Tensor) -> Tensor:
    """Pads the last two dimensions with zeros to multiples of 128, as flash-attn's S_dmask."""
    return F.pad(probs, (0, -probs.shape[-1] % 128, 0, -probs.shape[-2] % 128))
