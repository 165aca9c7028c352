"""flash_attn.bert_padding: between padded batches (batch, length, ...) and packed tokens (total, ...)."""

from __future__ import annotations

from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor

with suppress(ImportError):  # some programs take these from here, as flash-attn has them
    from einops import rearrange, repeat

__all__ = [
    "index_first_axis",
    "index_first_axis_residual",
    "index_put_first_axis",
    "pad_input",
    "rearrange",
    "repeat",
    "unpad_input",
    "unpad_input_for_concatenated_sequences",
]


def index_first_axis(tokens: Tensor, indices: Tensor) -> Tensor:
    """The rows `indices` of tokens (total, ...)."""
    return tokens.index_select(0, indices)


def index_put_first_axis(values: Tensor, indices: Tensor, first_axis_dim: int) -> Tensor:
    """Zeros (first_axis_dim, ...) with `values` in the rows `indices`; the rows are distinct."""
    rows = values.new_zeros((first_axis_dim, *values.shape[1:]))
    return rows.index_copy(0, indices, values)


def index_first_axis_residual(tokens: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """The rows `indices`, and the tokens themselves for a residual connection."""
    return index_first_axis(tokens, indices), tokens


class IndexFirstAxis:
    """flash-attn's autograd class of that name: `apply` does what `index_first_axis` does, gradients included."""

    @staticmethod
    def apply(tokens: Tensor, indices: Tensor) -> Tensor:
        return index_first_axis(tokens, indices)


class IndexPutFirstAxis:
    """flash-attn's autograd class of that name: `apply` does what `index_put_first_axis` does."""

    @staticmethod
    def apply(values: Tensor, indices: Tensor, first_axis_dim: int) -> Tensor:
        return index_put_first_axis(values, indices, first_axis_dim)


def unpad_input(
    hidden_states: Tensor, attention_mask: Tensor, unused_mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """Packs the tokens (batch, length, ...) that a mask (batch, length; 1: valid) keeps.

    unused_mask marks tokens that are kept and not used. Returns the tokens (total, ...), their positions in the
    flattened batch, cu_seqlens int32 (batch + 1,), the longest length, and the used tokens of each sequence int32.
    """
    kept = attention_mask if unused_mask is None else attention_mask + unused_mask
    lengths = kept.sum(dim=-1, dtype=torch.int32)
    used = attention_mask.sum(dim=-1, dtype=torch.int32)
    indices = kept.flatten().nonzero().flatten()
    longest = int(lengths.max().item()) if lengths.numel() else 0
    return _take(hidden_states, indices), indices, _cumulated(lengths), longest, used


def unpad_input_for_concatenated_sequences(
    hidden_states: Tensor, attention_mask_in_length: Tensor
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Packs rows that hold several sequences behind each other.

    attention_mask_in_length (batch, length) has the lengths of a row's sequences at its beginning and zeros after them.
    Returns the tokens, their positions, cu_seqlens over all sequences, and the longest length.
    """
    length = attention_mask_in_length.shape[-1]
    totals = attention_mask_in_length.sum(dim=-1, keepdim=True)
    kept = torch.arange(length, device=totals.device) < totals
    flat = attention_mask_in_length.flatten()
    lengths = flat[flat.nonzero().flatten()].to(torch.int32)
    indices = kept.flatten().nonzero().flatten()
    longest = int(lengths.max().item()) if lengths.numel() else 0
    return _take(hidden_states, indices), indices, _cumulated(lengths), longest


def pad_input(hidden_states: Tensor, indices: Tensor, batch: int, seqlen: int) -> Tensor:
    """The inverse of `unpad_input`: (batch, seqlen, ...) with zeros where there is no token."""
    padded = index_put_first_axis(hidden_states, indices, batch * seqlen)
    return padded.view(batch, seqlen, *hidden_states.shape[1:])


def _take(hidden_states: Tensor, indices: Tensor) -> Tensor:
    return index_first_axis(hidden_states.flatten(0, 1), indices)


def _cumulated(lengths: Tensor) -> Tensor:
    return F.pad(torch.cumsum(lengths, dim=0, dtype=torch.int32), (1, 0))
