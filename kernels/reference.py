"""Attention in plain PyTorch: the definition that every kernel of this package is tested against.

Read `attention` from top to bottom and you know what the kernels compute. It stores the whole score matrix, so it needs
O(N^2) memory; it runs on any device, in float64, float32, or with float32 arithmetic for the 16-bit types.
"""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = [
    "attention",
    "attention_grads",
    "attention_varlen",
    "attention_varlen_grads",
    "dropout_keep",
    "signed_probabilities",
    "visible",
]

# Philox-4x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), 10 rounds.
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def visible(
    rows: int,
    cols: int,
    *,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    row_lengths: torch.Tensor | None = None,
    col_lengths: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Which key each query may see: bool (1 or B, 1, rows, cols).

    The diagonal ends in the bottom right corner: query i stands at key position i + Sk - Sq, where Sq and Sk are the
    lengths of the sequence (`row_lengths`, `col_lengths`: (B,), default all). It sees the keys from that position minus
    window_size[0] to that position plus window_size[1]; a negative window is infinite; causal makes the right one 0.
    """
    left, right = window_size
    if causal:
        right = 0
    i = torch.arange(rows, device=device).view(1, 1, rows, 1)
    j = torch.arange(cols, device=device).view(1, 1, 1, cols)
    sq: torch.Tensor | int = rows if row_lengths is None else row_lengths.view(-1, 1, 1, 1)
    sk: torch.Tensor | int = cols if col_lengths is None else col_lengths.view(-1, 1, 1, 1)
    position = i + sk - sq  # (1 or B, 1, rows, 1)
    seen = (j < sk) & (i < sq)
    if left >= 0:
        seen = seen & (j >= position - left)
    if right >= 0:
        seen = seen & (j <= position + right)
    return seen


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    keep: torch.Tensor | None = None,
    row_lengths: torch.Tensor | None = None,
    col_lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """softmax(cap(q k^T scale) + alibi) v.

    q: (B, Sq, H, D); k, v: (B, Sk, Hk, D), H a multiple of Hk: query head h reads key head h // (H / Hk).
    alibi_slopes: (H,) or (B, H); the bias is -slope |i + Sk - Sq - j|.
    keep: bool (B, H, Sq, Sk), which probabilities dropout keeps; those are scaled by 1 / (1 - dropout_p).
    row_lengths, col_lengths: (B,), the used part of each sequence (key padding); default all.

    Returns out (B, Sq, H, D) in q's type, lse (B, H, Sq), the natural logarithm of the sum of the exponentials of each
    row (+inf for a row that sees no key), and the probabilities (B, H, Sq, Sk) before dropout.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    heads, scale = q.shape[2], q.shape[3] ** -0.5 if softmax_scale is None else softmax_scale
    qh = q.to(dtype).transpose(1, 2)  # (B, H, Sq, D)
    kh = k.to(dtype).transpose(1, 2).repeat_interleave(heads // k.shape[2], dim=1)  # (B, H, Sk, D)
    vh = v.to(dtype).transpose(1, 2).repeat_interleave(heads // v.shape[2], dim=1)

    scores = qh @ kh.transpose(-1, -2) * scale  # (B, H, Sq, Sk)
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    if alibi_slopes is not None:
        scores = scores + alibi_bias(alibi_slopes, q.shape[1], k.shape[1], row_lengths, col_lengths).to(dtype)
    seen = visible(
        q.shape[1],
        k.shape[1],
        causal=causal,
        window_size=window_size,
        row_lengths=row_lengths,
        col_lengths=col_lengths,
        device=q.device,
    )
    scores = scores.masked_fill(~seen, -math.inf)

    # A row that sees nothing has maximum -inf, and -inf - (-inf) is NaN: such a row gets the pivot 0 instead.
    if k.shape[1] > 0:
        pivot = scores.detach().amax(-1, keepdim=True)  # (B, H, Sq, 1)
        pivot = torch.where(pivot == -math.inf, torch.zeros_like(pivot), pivot)
    else:
        pivot = scores.new_zeros((*scores.shape[:-1], 1))
    weights = torch.exp(scores - pivot)
    total = weights.sum(-1, keepdim=True)
    empty = total == 0
    probs = weights / torch.where(empty, torch.ones_like(total), total)
    lse = torch.where(empty, torch.full_like(total, math.inf), pivot + torch.log(total)).squeeze(-1)

    kept = probs
    if keep is not None:
        kept = probs.masked_fill(~keep, 0.0) / (1.0 - dropout_p) if dropout_p < 1.0 else torch.zeros_like(probs)
    out = (kept @ vh).transpose(1, 2)  # (B, Sq, H, D)
    return out.to(q.dtype), lse.to(torch.promote_types(lse.dtype, torch.float32)), probs


def attention_grads(
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    softmax_scale: float | None = None,
    softcap: float = 0.0,
    dropout_p: float = 0.0,
    keep: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dq, dk, dv of `attention` by the formulas that the backward kernels use; its tests hold them against autograd.

    dout: the gradient of out (B, Sq, H, D); dlse: that of lse (B, H, Sq), None for 0. The rest as in `attention`.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    group, scale = q.shape[2] // k.shape[2], q.shape[3] ** -0.5 if softmax_scale is None else softmax_scale
    qh, kh, vh, gh = (x.to(dtype).transpose(1, 2) for x in (q, k, v, dout))  # (B, H or Hk, S, D)
    kh, vh = kh.repeat_interleave(group, dim=1), vh.repeat_interleave(group, dim=1)
    _, _, probs = attention(q, k, v, softmax_scale=scale, softcap=softcap, **options)  # (B, H, Sq, Sk)

    kept = torch.ones_like(probs)
    if keep is not None:
        kept = keep.to(dtype) / (1.0 - dropout_p) if dropout_p < 1.0 else torch.zeros_like(probs)
    dv = (probs * kept).transpose(-1, -2) @ gh  # (B, H, Sk, D)
    dprobs = gh @ vh.transpose(-1, -2) * kept  # (B, H, Sq, Sk)
    delta = (dprobs * probs).sum(-1, keepdim=True)  # (B, H, Sq, 1)
    if dlse is not None:
        delta = delta - dlse.to(dtype).unsqueeze(-1)
    dscores = probs * (dprobs - delta)
    if softcap > 0:
        dscores = dscores * (1 - torch.tanh(qh @ kh.transpose(-1, -2) * (scale / softcap)) ** 2)
    dq = dscores @ kh * scale  # (B, H, Sq, D)
    dk = dscores.transpose(-1, -2) @ qh * scale  # (B, H, Sk, D)

    # each key head collects what the query heads that read it send
    dk, dv = (x.unflatten(1, (k.shape[2], group)).sum(2) for x in (dk, dv))
    dq, dk, dv = (x.transpose(1, 2).to(q.dtype) for x in (dq, dk, dv))
    return dq, dk, dv


def alibi_bias(
    slopes: torch.Tensor,
    rows: int,
    cols: int,
    row_lengths: torch.Tensor | None = None,
    col_lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """-slope |i + Sk - Sq - j|: (1 or B, H, rows, cols). slopes: (H,) or (B, H)."""
    i = torch.arange(rows, device=slopes.device).view(1, 1, rows, 1)
    j = torch.arange(cols, device=slopes.device).view(1, 1, 1, cols)
    sq: torch.Tensor | int = rows if row_lengths is None else row_lengths.view(-1, 1, 1, 1)
    sk: torch.Tensor | int = cols if col_lengths is None else col_lengths.view(-1, 1, 1, 1)
    slopes = slopes.view(-1, slopes.shape[-1], 1, 1)  # (1 or B, H, 1, 1)
    return -slopes * (i + sk - sq - j).abs()


def attention_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    keep: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`attention` of each sequence of a packed batch by itself.

    q: (total_q, H, D); k, v: (total_k, Hk, D), or pages (P, page_size, Hk, D) with block_table (B, pages a sequence).
    cu_seqlens_q, cu_seqlens_k: (B + 1,), where each sequence starts. keep: (B, H, >= max Sq, >= max Sk).
    Returns out (total_q, H, D) and lse (H, total_q).
    """
    starts_q, starts_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    outs, lses = [q.new_zeros((0, *q.shape[1:]))], [q.new_zeros((q.shape[1], 0), dtype=torch.float32)]
    for b in range(len(starts_q) - 1):
        one_q = q[starts_q[b] : starts_q[b + 1]]
        if block_table is None:
            one_k, one_v = (x[starts_k[b] : starts_k[b + 1]] for x in (k, v))
        else:
            pages = block_table[b].long()
            one_k, one_v = (x[pages].flatten(0, 1)[: starts_k[b + 1] - starts_k[b]] for x in (k, v))
        out, lse, _ = attention(
            one_q[None],
            one_k[None],
            one_v[None],
            softmax_scale=softmax_scale,
            causal=causal,
            window_size=window_size,
            softcap=softcap,
            alibi_slopes=alibi_slopes[b] if alibi_slopes is not None and alibi_slopes.dim() == 2 else alibi_slopes,
            dropout_p=dropout_p,
            keep=None if keep is None else keep[b : b + 1, :, : one_q.shape[0], : one_k.shape[0]],
        )
        outs.append(out[0])
        lses.append(lse[0])
    out, lse = torch.cat(outs), torch.cat(lses, dim=1)
    rest = q.shape[0] - out.shape[0]  # tokens behind the last sequence belong to none: their rows are 0
    if rest:
        out = torch.cat([out, out.new_zeros((rest, *out.shape[1:]))])
        lse = torch.cat([lse, lse.new_full((lse.shape[0], rest), math.inf)], dim=1)
    return out, lse


def attention_varlen_grads(
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    *,
    alibi_slopes: torch.Tensor | None = None,
    keep: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`attention_grads` of each sequence of a packed batch; shapes as in `attention_varlen`, dlse (H, total_q)."""
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    starts_q, starts_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for b in range(len(starts_q) - 1):
        rows, cols = slice(starts_q[b], starts_q[b + 1]), slice(starts_k[b], starts_k[b + 1])
        one_q, one_k, one_v = attention_grads(
            dout[rows][None],
            None if dlse is None else dlse[:, rows][None],
            q[rows][None],
            k[cols][None],
            v[cols][None],
            alibi_slopes=alibi_slopes[b] if alibi_slopes is not None and alibi_slopes.dim() == 2 else alibi_slopes,
            keep=None if keep is None else keep[b : b + 1, :, : rows.stop - rows.start, : cols.stop - cols.start],
            **options,
        )
        dq[rows], dk[cols], dv[cols] = one_q[0], one_k[0], one_v[0]
    return dq, dk, dv


def _philox(counter: list[torch.Tensor], key: list[torch.Tensor]) -> list[torch.Tensor]:
    """Ten rounds of Philox-4x32 on 32-bit words held in int64 tensors (products wrap, and the masks cut them right)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        wide0, wide2 = c0 * _PHILOX_MULTIPLIERS[0], c2 * _PHILOX_MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((wide2 >> 32) & _WORD) ^ c1 ^ k0,
            wide2 & _WORD,
            ((wide0 >> 32) & _WORD) ^ c3 ^ k1,
            wide0 & _WORD,
        )
        k0, k1 = (k0 + _PHILOX_WEYL[0]) & _WORD, (k1 + _PHILOX_WEYL[1]) & _WORD
    return [c0, c1, c2, c3]


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A 32-bit finaliser with low bias (C. Wellons, "hash-prospector", lowbias32)."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _WORD
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _WORD
    return x ^ (x >> 16)


def dropout_keep(
    rng_state: torch.Tensor, dropout_p: float, batch: int, heads: int, rows: int, cols: int
) -> torch.Tensor:
    """The dropout mask of the kernels: bool (batch, heads, rows, cols), True where a probability is kept.

    rng_state: int64 (2,), seed and offset. Philox turns them and the number of the head (over the whole batch) into
    four keys; a hash of row, column and keys gives 32 bits an element. So the bits depend on the position alone, never
    on how a kernel is tiled, and forward and backward meet the same mask.
    """
    seed, offset = rng_state.tolist()
    head = torch.arange(batch * heads, device=rng_state.device)  # (B * H,)
    zero = torch.zeros_like(head)
    keys = _philox(
        [head, zero, zero + (offset & _WORD), zero + ((offset >> 32) & _WORD)],
        [zero + (seed & _WORD), zero + ((seed >> 32) & _WORD)],
    )
    k0, k1, k2, _ = (x.view(-1, 1, 1) for x in keys)
    i = torch.arange(rows, device=rng_state.device).view(1, rows, 1)
    j = torch.arange(cols, device=rng_state.device).view(1, 1, cols)
    row_a = _mix(i ^ k0)  # (B * H, rows, 1)
    row_b = _mix((i + k1) & _WORD)
    x = ((j * 0x9E3779B9 + k2) & _WORD) ^ row_a  # (B * H, rows, cols)
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _WORD
    x = x ^ (x >> 15) ^ row_b
    x = (x * 0x846CA68B) & _WORD
    return (x >= keep_threshold(dropout_p)).view(batch, heads, rows, cols)


def keep_threshold(dropout_p: float) -> int:
    """The element is kept when its 32 random bits, read as a number, reach this."""
    return min(int(dropout_p * 2**32), _WORD)


def signed_probabilities(
    q: torch.Tensor,
    k: torch.Tensor,
    keep: torch.Tensor,
    *,
    softmax_scale: float,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    row_lengths: torch.Tensor | None = None,
    col_lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """What flash-attn returns as `S_dmask`: exp(score - maximum of the row), negative where dropout dropped it.

    q: (B, Sq, H, D); k: (B, Sk, Hk, D); keep: (B, H, Sq, Sk). Returns (B, H, Sq, Sk) in q's type. Divided by the sum of
    its absolute values, a row gives the probabilities.
    """
    _, lse, probs = attention(
        q,
        k,
        torch.zeros_like(k),
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        row_lengths=row_lengths,
        col_lengths=col_lengths,
    )
    del lse
    peak = probs.amax(-1, keepdim=True) if k.shape[1] else probs.sum(-1, keepdim=True)
    unnormalised = probs / torch.where(peak == 0, torch.ones_like(peak), peak)
    return torch.where(keep, unnormalised, -unnormalised).to(q.dtype)
