"""flash_attn.ops.rms_norm: RMS normalisation."""

from __future__ import annotations

from typing import Any

import torch
from flash_attn.ops.triton.layer_norm import RMSNorm, rms_norm_fn

__all__ = ["RMSNorm", "rms_norm"]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> Any:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension."""
    return rms_norm_fn(x, weight, None, eps=epsilon)
