"""flash_attn.ops.triton.layer_norm: layer and RMS normalisation in plain PyTorch, which torch.compile fuses."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["RMSNorm", "layer_norm_fn", "layer_norm_ref", "rms_norm_fn", "rms_norm_ref"]


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    zero_centered_weight: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
    out_dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    residual_out: Tensor | None = None,
) -> Any:
    """Normalises dropout(x * rowscale) + dropout(x1) + residual over the last dimension, in float32.

    weight1 and bias1 give a second output from the same statistics. Returns the output, with weight1 both; with
    `prenorm` the sum that was normalised comes last. Raises ValueError for what is not offered.
    """
    if return_dropout_mask:
        raise ValueError("return_dropout_mask is not offered")
    total = x.float()
    if rowscale is not None:
        total = total * rowscale[..., None].float()
    if dropout_p > 0:
        total = F.dropout(total, dropout_p)
    if x1 is not None:
        total = total + (F.dropout(x1.float(), dropout_p) if dropout_p > 0 else x1.float())
    if residual is not None:
        total = total + residual.float()
    summed = total.to(torch.float32 if residual_in_fp32 else (residual.dtype if residual is not None else x.dtype))
    kind = out_dtype or x.dtype
    results = [_normalised(total, weight, bias, eps, zero_centered_weight, is_rms_norm).to(kind)]
    if weight1 is not None:
        results.append(_normalised(total, weight1, bias1, eps, zero_centered_weight, is_rms_norm).to(kind))
    if prenorm:
        results.append(summed if residual_out is None else residual_out.copy_(summed))
    if out is not None:
        results[0] = out.copy_(results[0])
    return results[0] if len(results) == 1 else tuple(results)


def rms_norm_fn(x: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> Any:
    """`layer_norm_fn` without the mean."""
    return layer_norm_fn(x, weight, bias, is_rms_norm=True, **options)


layer_norm_ref = layer_norm_fn
rms_norm_ref = rms_norm_fn


class RMSNorm(torch.nn.Module):  # type: ignore[misc]
    """RMS normalisation over the last dimension, with dropout and residual as in `rms_norm_fn`."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        dropout_p: float = 0.0,
        zero_centered_weight: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.drop = torch.nn.Dropout(dropout_p) if dropout_p > 0 else None
        self.zero_centered_weight = zero_centered_weight
        self.weight = torch.nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The identity: weight 1, or 0 where it is centred at zero."""
        torch.nn.init.constant_(self.weight, 0.0 if self.zero_centered_weight else 1.0)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Any:
        return rms_norm_fn(
            x,
            self.weight,
            self.bias,
            residual=residual,
            eps=self.eps,
            dropout_p=self.drop.p if self.drop is not None and self.training else 0.0,
            prenorm=prenorm,
            residual_in_fp32=residual_in_fp32,
            zero_centered_weight=self.zero_centered_weight,
        )


def _normalised(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, zero_centered: bool, is_rms_norm: bool
) -> Tensor:
    if not is_rms_norm:
        x = x - x.mean(-1, keepdim=True)
    scale = weight.float() + 1.0 if zero_centered else weight.float()
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * scale
    return y if bias is None else y + bias.float()
