"""Rotary embedding of packed projections in place, and the module that keeps the tables (flash_attn.layers.rotary)."""

from __future__ import annotations

from typing import Any

import torch

from .rotary import apply_rotary, apply_rotary_emb

__all__ = ["RotaryEmbedding", "apply_rotary_emb_kv_", "apply_rotary_emb_qkv_"]


def _query_and_key(qkv: torch.Tensor, num_heads_q: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of q and k in (batch, seqlen, 3, heads, head_dim) or (batch, seqlen, heads_q + 2 heads_k, head_dim)."""
    if qkv.dim() == 5:
        if qkv.shape[2] != 3:
            raise ValueError(f"qkv must be (batch, seqlen, 3, heads, head_dim): got {tuple(qkv.shape)}")
        return qkv[:, :, 0], qkv[:, :, 1]
    if qkv.dim() != 4:
        raise ValueError(f"qkv must have 4 or 5 dimensions: got {tuple(qkv.shape)}")
    if num_heads_q is None:
        raise ValueError("num_heads_q must be given where qkv is (batch, seqlen, heads_q + 2 heads_k, head_dim)")
    heads_k, rest = divmod(qkv.shape[2] - num_heads_q, 2)
    if heads_k <= 0 or rest:
        raise ValueError(f"qkv must have num_heads_q + 2 heads_k heads: got {qkv.shape[2]} with {num_heads_q} of q")
    return qkv[:, :, :num_heads_q], qkv[:, :, num_heads_q : num_heads_q + heads_k]


def _turn_query_and_key(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    cos_k: torch.Tensor | None,
    sin_k: torch.Tensor | None,
    num_heads_q: int | None,
    options: dict[str, Any],
) -> None:
    """Turns q and k inside qkv; as one tensor, in one launch, where memory and tables allow."""
    q, k = _query_and_key(qkv, num_heads_q)
    if cos_k is None and sin_k is None and qkv.is_contiguous():
        heads = q.shape[2] + k.shape[2]
        both = qkv.view(*qkv.shape[:2], -1, qkv.shape[-1])[:, :, :heads]
        apply_rotary(both, cos, sin, inplace=True, **options)
        return
    apply_rotary(q, cos, sin, inplace=True, **options)
    apply_rotary(k, cos if cos_k is None else cos_k, sin if sin_k is None else sin_k, inplace=True, **options)


class _ApplyRotaryEmbQKV(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        cos_k: torch.Tensor | None,
        sin_k: torch.Tensor | None,
        num_heads_q: int | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        _turn_query_and_key(qkv, cos, sin, cos_k, sin_k, num_heads_q, options)
        ctx.save_for_backward(cos, sin, cos_k, sin_k)
        ctx.num_heads_q, ctx.options = num_heads_q, options
        return qkv

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # A copy: autograd may hand the same gradient tensor to others.
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        cos, sin, cos_k, sin_k = ctx.saved_tensors
        _turn_query_and_key(grad, cos, sin, cos_k, sin_k, ctx.num_heads_q, {**ctx.options, "conjugate": True})
        return grad, None, None, None, None, None, None


def apply_rotary_emb_qkv_(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    cos_k: torch.Tensor | None = None,
    sin_k: torch.Tensor | None = None,
    interleaved: bool = False,
    seqlen_offsets: int | torch.Tensor = 0,
    num_heads_q: int | None = None,
) -> torch.Tensor:
    """Rotary embedding of q and k inside qkv, in place; differentiable.

    qkv: (batch, seqlen, 3, heads, head_dim), or (batch, seqlen, heads_q + 2 heads_k, head_dim) with num_heads_q.
    cos, sin: (seqlen_ro, rotary_dim / 2); cos_k, sin_k: others for k. seqlen_offsets: int or (batch,).
    Returns qkv. Raises ValueError for arguments that do not fit.
    """
    options = {"interleaved": interleaved, "seqlen_offsets": seqlen_offsets}
    return _ApplyRotaryEmbQKV.apply(qkv, cos, sin, cos_k, sin_k, num_heads_q, options)


class _ApplyRotaryEmbKV(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, kv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        apply_rotary(kv[:, :, 0], cos, sin, inplace=True, **options)
        ctx.save_for_backward(cos, sin)
        ctx.options = options
        return kv

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad = grads[0].clone()
        cos, sin = ctx.saved_tensors
        apply_rotary(grad[:, :, 0], cos, sin, inplace=True, conjugate=True, **ctx.options)
        return grad, None, None, None


def apply_rotary_emb_kv_(
    kv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    interleaved: bool = False,
    seqlen_offsets: int | torch.Tensor = 0,
) -> torch.Tensor:
    """Rotary embedding of k inside kv (batch, seqlen, 2, heads, head_dim), in place; differentiable. Returns kv."""
    if kv.dim() != 5 or kv.shape[2] != 2:
        raise ValueError(f"kv must be (batch, seqlen, 2, heads, head_dim): got {tuple(kv.shape)}")
    options = {"interleaved": interleaved, "seqlen_offsets": seqlen_offsets}
    return _ApplyRotaryEmbKV.apply(kv, cos, sin, options)


class RotaryEmbedding(torch.nn.Module):  # type: ignore[misc]
    """Keeps tables of cosines and sines, as long as needed so far, and turns q and k by them in place.

    dim: rotary_dim. base: angles of pair i go as position / base^(2 i / dim). interleaved: pairs are neighbours.
    scale_base: None, or XPos (Sun et al., https://arxiv.org/abs/2212.10554): q is scaled by
    s_i^((position - seqlen // 2) / scale_base) and k by its inverse, s_i = (2 i + 0.4 dim) / (1.4 dim).
    """

    inv_freq: torch.Tensor
    scale: torch.Tensor | None

    def __init__(
        self,
        dim: int,
        base: float = 10000.0,
        interleaved: bool = False,
        scale_base: float | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.base, self.interleaved, self.scale_base = dim, float(base), interleaved, scale_base
        self.register_buffer("inv_freq", self._frequencies(device), persistent=False)
        steps = torch.arange(0, dim, 2, device=device, dtype=torch.float32)
        scale = None if scale_base is None else (steps + 0.4 * dim) / (1.4 * dim)
        self.register_buffer("scale", scale, persistent=False)
        self._seq_len_cached = 0
        self._cos_cached: torch.Tensor | None = None
        self._sin_cached: torch.Tensor | None = None
        self._cos_k_cached: torch.Tensor | None = None
        self._sin_k_cached: torch.Tensor | None = None

    def _frequencies(self, device: torch.device | str | None = None) -> torch.Tensor:
        return self.base ** (-torch.arange(0, self.dim, 2, device=device, dtype=torch.float32) / self.dim)

    def _update_cos_sin_cache(self, seqlen: int, device: torch.device, dtype: torch.dtype) -> None:
        """Makes the tables at least seqlen long, on this device and in this dtype."""
        cos = self._cos_cached
        # Tables made in inference mode cannot be saved for a backward pass.
        stale = cos is None or cos.device != device or cos.dtype != dtype or (self.training and cos.is_inference())
        if not stale and seqlen <= self._seq_len_cached:
            return
        self._seq_len_cached = seqlen
        # float32 even where the module was cast: positions beyond 256 are not exact in bfloat16.
        inv_freq = self.inv_freq if self.inv_freq.dtype == torch.float32 else self._frequencies(device)
        positions = torch.arange(seqlen, device=device, dtype=torch.float32)
        angles = positions[:, None] * inv_freq.to(device)[None, :]
        if self.scale is None or self.scale_base is None:
            self._cos_cached, self._sin_cached = angles.cos().to(dtype), angles.sin().to(dtype)
            return
        power = (positions - seqlen // 2) / self.scale_base
        scale = self.scale.to(device=device, dtype=torch.float32) ** power[:, None]
        self._cos_cached, self._sin_cached = (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)
        self._cos_k_cached, self._sin_k_cached = (angles.cos() / scale).to(dtype), (angles.sin() / scale).to(dtype)

    def forward(
        self,
        qkv: torch.Tensor,
        kv: torch.Tensor | None = None,
        seqlen_offset: int | torch.Tensor = 0,
        max_seqlen: int | None = None,
        num_heads_q: int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Turns in place and returns qkv, or q and kv.

        qkv: (batch, seqlen, 3, heads, head_dim) or (batch, seqlen, heads_q + 2 heads_k, head_dim) with num_heads_q;
        with kv (batch, seqlen, 2, heads_k, head_dim) it is q alone, (batch, seqlen, heads, head_dim).
        seqlen_offset: position of the first token, int or (batch,); for the latter give max_seqlen, how many positions
        the tables must hold.
        """
        if max_seqlen is not None:
            self._update_cos_sin_cache(max_seqlen, qkv.device, qkv.dtype)
        elif isinstance(seqlen_offset, int):
            self._update_cos_sin_cache(qkv.shape[1] + seqlen_offset, qkv.device, qkv.dtype)
        cos, sin = self._cos_cached, self._sin_cached
        if cos is None or sin is None:
            raise ValueError(
                "max_seqlen must be given with a tensor seqlen_offset: it says how long the tables must be"
            )
        if kv is None:
            return apply_rotary_emb_qkv_(
                qkv, cos, sin, self._cos_k_cached, self._sin_k_cached, self.interleaved, seqlen_offset, num_heads_q
            )
        q = apply_rotary_emb(qkv, cos, sin, interleaved=self.interleaved, inplace=True, seqlen_offsets=seqlen_offset)
        cos_k = cos if self._cos_k_cached is None else self._cos_k_cached
        sin_k = sin if self._sin_k_cached is None else self._sin_k_cached
        return q, apply_rotary_emb_kv_(kv, cos_k, sin_k, self.interleaved, seqlen_offset)
