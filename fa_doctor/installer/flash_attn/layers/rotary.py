"""flash_attn.layers.rotary: rotary embedding, from the bundled kernels."""

from __future__ import annotations

import torch
from flash_attn.kernels.rotary import _ApplyRotaryEmb as ApplyRotaryEmb
from flash_attn.kernels.rotary import apply_rotary_emb, apply_rotary_emb_torch
from flash_attn.kernels.rotary_layers import RotaryEmbedding, apply_rotary_emb_kv_, apply_rotary_emb_qkv_

__all__ = [
    "ApplyRotaryEmb",
    "RotaryEmbedding",
    "apply_rotary_emb",
    "apply_rotary_emb_func",
    "apply_rotary_emb_kv_",
    "apply_rotary_emb_qkv_",
    "apply_rotary_emb_torch",
    "rotate_half",
]

apply_rotary_emb_func = apply_rotary_emb  # its name in older releases


def rotate_half(x: torch.Tensor, interleaved: bool = False) -> torch.Tensor:
    """(-x2, x1), where x1 and x2 are the halves of the last dimension, or its even and odd places if interleaved."""
    if not interleaved:
        first, second = x.chunk(2, dim=-1)
        return torch.cat((-second, first), dim=-1)
    pairs = x.unflatten(-1, (-1, 2))
    return torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
