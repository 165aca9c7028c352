"""flash_attn.losses.cross_entropy: the loss as a module."""

from __future__ import annotations

from typing import Any

import torch
from flash_attn.ops.triton.cross_entropy import cross_entropy_loss

__all__ = ["CrossEntropyLoss"]


class CrossEntropyLoss(torch.nn.Module):  # type: ignore[misc]
    """`cross_entropy_loss` with a reduction: "mean" over the rows that count, "sum" or "none"."""

    def __init__(
        self,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        logit_scale: float = 1.0,
        lse_square_scale: float = 0.0,
        inplace_backward: bool = False,
        process_group: Any = None,
        return_z_loss: bool = False,
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction is {reduction!r}; it may be 'mean', 'sum' or 'none'")
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.return_z_loss = return_z_loss
        self.options = {
            "label_smoothing": label_smoothing,
            "logit_scale": logit_scale,
            "lse_square_scale": lse_square_scale,
            "inplace_backward": inplace_backward,
            "process_group": process_group,
        }

    def forward(self, input: torch.Tensor, target: torch.Tensor, precomputed_lse: torch.Tensor | None = None) -> Any:
        losses, z_losses = cross_entropy_loss(
            input, target, precomputed_lse, ignore_index=self.ignore_index, **self.options
        )
        loss, z_loss = self._reduced(losses, target), self._reduced(z_losses, target)
        return (loss, z_loss) if self.return_z_loss else loss

    def _reduced(self, values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.reduction == "none":
            return values
        return values.sum() / (target != self.ignore_index).sum() if self.reduction == "mean" else values.sum()
