"""flash_attn_with_kvcache in plain PyTorch: the definition that the cache kernels are tested against.

Sequence by sequence: write the new keys and values into the cache, read the whole sequence back, attend.
"""

from __future__ import annotations

import torch

from .reference import attention
from .rotary import apply_rotary_emb_torch

__all__ = ["attention_with_kvcache"]


def attention_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor | None,
    v: torch.Tensor | None,
    rotary_cos: torch.Tensor | None,
    rotary_sin: torch.Tensor | None,
    cache_seqlens: torch.Tensor | None,
    cache_batch_idx: torch.Tensor | None,
    cache_leftpad: torch.Tensor | None,
    block_table: torch.Tensor | None,
    softmax_scale: float,
    window_size: tuple[int, int],
    softcap: float,
    rotary_interleaved: bool,
    alibi_slopes: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Arguments as flash_attn_with_kvcache; a window's right side of 0 is the causal mask. Changes the cache in place.

    Returns out like q, and lse (batch, heads, seqlen_q), +inf for a row without keys.
    """
    outs, lses = [], []
    for b in range(q.shape[0]):
        # -- the places of this sequence's tokens: row of the cache and slot in it, one pair a position --
        if block_table is None:
            slots = torch.arange(k_cache.shape[1], device=q.device)
            rows = torch.full_like(slots, b if cache_batch_idx is None else int(cache_batch_idx[b]))
        else:
            positions = torch.arange(block_table.shape[1] * k_cache.shape[1], device=q.device)
            slots = positions % k_cache.shape[1]
            rows = block_table[b].long()[positions // k_cache.shape[1]]
        length = len(slots) if cache_seqlens is None else min(int(cache_seqlens[b]), len(slots))
        leftpad = 0 if cache_leftpad is None else int(cache_leftpad[b])

        # -- rotate the queries and new keys at their positions, append --
        q_b = q[b]
        if rotary_cos is not None and rotary_sin is not None:
            # Without causal mask or window all queries stand where the first new token does.
            step = 1 if window_size != (-1, -1) else 0
            q_b = _rotate(q_b, rotary_cos, rotary_sin, length, step, rotary_interleaved)
        if k is not None and v is not None:
            k_b = k[b]
            if rotary_cos is not None and rotary_sin is not None:
                k_b = _rotate(k_b, rotary_cos, rotary_sin, length, 1, rotary_interleaved)
            total = min(length + k.shape[1], len(slots))
            at = rows[length:total], slots[length:total]
            k_cache[at] = k_b[: total - length].to(k_cache.dtype)
            v_cache[at] = v[b, : total - length].to(v_cache.dtype)
            length = total

        # -- attend to what the cache now holds --
        at = rows[leftpad:length], slots[leftpad:length]
        slopes = alibi_slopes[b] if alibi_slopes is not None and alibi_slopes.dim() == 2 else alibi_slopes
        out, lse, _ = attention(
            q_b[None],
            k_cache[at][None],
            v_cache[at][None],
            softmax_scale=softmax_scale,
            window_size=window_size,
            softcap=softcap,
            alibi_slopes=slopes,
        )
        outs.append(out)
        lses.append(lse)
    return torch.cat(outs), torch.cat(lses)


def _rotate(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, first: int, step: int, interleaved: bool
) -> torch.Tensor:
    """x (seqlen, heads, head_dim) rotated at positions first, first + step, ...; beyond the table it stays as it is."""
    at = first + step * torch.arange(x.shape[0], device=x.device)
    inside = (at < cos.shape[0])[:, None]
    at = at.clamp(max=cos.shape[0] - 1)
    wide = torch.promote_types(x.dtype, torch.float32)
    cos = torch.where(inside, cos[at].to(wide), 1.0)
    sin = torch.where(inside, sin[at].to(wide), 0.0)
    return apply_rotary_emb_torch(x.to(wide), cos, sin, interleaved).to(x.dtype)
