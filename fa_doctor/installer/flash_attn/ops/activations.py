"""flash_attn.ops.activations: gated and approximate activations in plain PyTorch, which torch.compile fuses."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["bias_gelu_impl", "fast_gelu_impl", "gelu_fwd", "sqrelu_fwd", "swiglu"]


def swiglu(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """silu(x) * y."""
    return F.silu(x) * y


def gelu_fwd(x: torch.Tensor) -> torch.Tensor:
    """GELU with the tanh approximation."""
    return F.gelu(x, approximate="tanh")


def bias_gelu_impl(y: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """gelu(y + bias) with the tanh approximation."""
    return gelu_fwd(y + bias)


fast_gelu_impl = gelu_fwd


def sqrelu_fwd(x: torch.Tensor) -> torch.Tensor:
    """relu(x) squared."""
    return F.relu(x).square()
