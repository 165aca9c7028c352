"""flash_attn.ops.triton.cross_entropy: the loss over a vocabulary, with label smoothing and z-loss, in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["cross_entropy_loss"]


def cross_entropy_loss(
    logits: Tensor,
    labels: Tensor,
    precomputed_lse: Tensor | None = None,
    label_smoothing: float = 0.0,
    logit_scale: float = 1.0,
    lse_square_scale: float = 0.0,
    ignore_index: int = -100,
    inplace_backward: bool = False,
    process_group: Any = None,
) -> tuple[Tensor, Tensor]:
    """(losses, z_losses), both float32 (rows,), of logits (rows, classes) and labels (rows,).

    z_losses = lse_square_scale * lse^2 is part of losses. Rows with `ignore_index` are 0. inplace_backward is taken for
    flash-attn's sake and saves nothing here. A process group (classes parted over processes) is not offered.
    """
    del inplace_backward
    if process_group is not None:
        raise ValueError("cross_entropy_loss over a process group is not offered")
    scores = logits.float() * logit_scale
    lse = precomputed_lse if precomputed_lse is not None else torch.logsumexp(scores, dim=-1)
    counted = labels != ignore_index
    wanted = scores.gather(-1, labels.where(counted, 0)[:, None]).squeeze(-1)
    losses = lse - wanted
    if label_smoothing > 0:
        losses = (1 - label_smoothing) * losses + label_smoothing * (lse - scores.mean(-1))
    z_losses = lse_square_scale * lse.square()
    return (losses + z_losses).where(counted, 0.0), z_losses.where(counted, 0.0)
