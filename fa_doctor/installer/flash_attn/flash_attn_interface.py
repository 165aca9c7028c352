"""flash_attn.flash_attn_interface: the public functions, and the inner ones that context-parallel programs call.

ring-flash-attention, diffusers and DeepSpeed call forward and backward by themselves, since they combine partial results
by their softmax_lse: those functions are here under flash-attn's names, with its arguments in its order.
"""

from __future__ import annotations

import torch
from flash_attn.kernels import reference
from flash_attn.kernels.interface import (
    _draw_rng_state,
    _get_block_size_n,
    _padded,
    _round_up,
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)
from flash_attn.kernels.kvcache import flash_attn_with_kvcache
from flash_attn.kernels.ops import attention_backward, attention_forward
from torch import Tensor

__all__ = [
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
]

Results = tuple[Tensor, Tensor, Tensor, Tensor]

_ = _get_block_size_n  # asked for by flash-attn's own tests


def _flash_attn_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    return_softmax: bool = False,
) -> Results:
    """(out, softmax_lse, S_dmask, rng_state) of one forward pass, without gradients. Shapes as in flash_attn_func.

    rng_state, int64 (2,), is what `_flash_attn_backward` needs to drop the same probabilities again.
    """
    scale = _scale(q, softmax_scale)
    left, right = window_size_left, 0 if causal else window_size_right
    rng_state = _draw_rng_state(q.device)
    used = rng_state if dropout_p > 0 else None
    lengths = (q.shape[1], k.shape[1])
    with torch.no_grad():
        out, lse = attention_forward(
            q,
            k,
            v,
            None,
            None,
            None,
            alibi_slopes,
            used,
            *lengths,
            scale,
            left,
            right,
            float(softcap),
            float(dropout_p),
        )
        probabilities = q.new_empty((0,))
        if return_softmax and used is not None:
            keep = reference.dropout_keep(used, dropout_p, q.shape[0], q.shape[2], *lengths)
            options = {"softmax_scale": scale, "window_size": (left, right), "softcap": softcap}
            probabilities = _round_up(reference.signed_probabilities(q, k, keep, alibi_slopes=alibi_slopes, **options))
    return out, lse, probabilities, rng_state


def _flash_attn_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor | None,
    dk: Tensor | None,
    dv: Tensor | None,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    rng_state: Tensor | None = None,
) -> Tensor:
    """Writes the gradients into dq, dk, dv; returns softmax_d, the row sums of dout * out, float32 (B, H, Sq)."""
    del deterministic  # the kernels always are
    right = 0 if causal else window_size_right
    used = _needed(rng_state, dropout_p)
    with torch.no_grad():
        grads = attention_backward(
            dout, None, q, k, v, out, softmax_lse, None, None, alibi_slopes, used, q.shape[1], k.shape[1],
            _scale(q, softmax_scale), window_size_left, right, float(softcap), float(dropout_p),
        )  # fmt: skip
        _store(grads, (dq, dk, dv))
        return (dout.float() * out.float()).sum(-1).transpose(1, 2).contiguous()


def _flash_attn_varlen_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    return_softmax: bool = False,
    block_table: Tensor | None = None,
    leftpad_k: Tensor | None = None,
    seqused_k: Tensor | None = None,
    zero_tensors: bool = False,
    num_splits: int = 0,
) -> Results:
    """`_flash_attn_forward` over packed sequences; softmax_lse is float32 (H, total_q). Shapes as flash_attn_varlen_func."""
    del zero_tensors, num_splits  # every result is written, and how the work is split is the kernels' affair
    if leftpad_k is not None or seqused_k is not None:
        raise ValueError("leftpad_k and seqused_k are offered by flash_attn_with_kvcache only")
    scale = _scale(q, softmax_scale)
    left, right = window_size_left, 0 if causal else window_size_right
    rng_state = _draw_rng_state(q.device)
    used = rng_state if dropout_p > 0 else None
    lengths = (int(max_seqlen_q), int(max_seqlen_k))
    with torch.no_grad():
        out, lse = attention_forward(
            q, k, v, cu_seqlens_q, cu_seqlens_k, block_table, alibi_slopes, used, *lengths,
            scale, left, right, float(softcap), float(dropout_p),
        )  # fmt: skip
        probabilities = q.new_empty((0,))
        if return_softmax and used is not None:
            if block_table is not None:
                raise ValueError("return_softmax with dropout is not offered over a paged cache (block_table)")
            keep = reference.dropout_keep(used, dropout_p, cu_seqlens_q.numel() - 1, q.shape[1], *lengths)
            options = {"softmax_scale": scale, "window_size": (left, right), "softcap": softcap}
            probabilities = _round_up(
                reference.signed_probabilities(
                    _padded(q, cu_seqlens_q, lengths[0]),
                    _padded(k, cu_seqlens_k, lengths[1]),
                    keep,
                    alibi_slopes=alibi_slopes,
                    row_lengths=cu_seqlens_q.diff(),
                    col_lengths=cu_seqlens_k.diff(),
                    **options,
                )
            )
    return out, lse, probabilities, rng_state


def _flash_attn_varlen_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor | None,
    dk: Tensor | None,
    dv: Tensor | None,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    rng_state: Tensor | None = None,
    zero_tensors: bool = False,
) -> Tensor:
    """`_flash_attn_backward` over packed sequences; softmax_d is float32 (H, total_q)."""
    del deterministic, zero_tensors
    right = 0 if causal else window_size_right
    used = _needed(rng_state, dropout_p)
    with torch.no_grad():
        grads = attention_backward(
            dout, None, q, k, v, out, softmax_lse, cu_seqlens_q, cu_seqlens_k, alibi_slopes, used,
            int(max_seqlen_q), int(max_seqlen_k), _scale(q, softmax_scale), window_size_left, right,
            float(softcap), float(dropout_p),
        )  # fmt: skip
        _store(grads, (dq, dk, dv))
        return (dout.float() * out.float()).sum(-1).transpose(0, 1).contiguous()


# flash-attn registers these with torch and calls the registered ones; here the functions are the same.
_wrapped_flash_attn_forward = _flash_attn_forward
_wrapped_flash_attn_backward = _flash_attn_backward
_wrapped_flash_attn_varlen_forward = _flash_attn_varlen_forward
_wrapped_flash_attn_varlen_backward = _flash_attn_varlen_backward


def _scale(q: Tensor, softmax_scale: float | None) -> float:
    return float(q.shape[-1]) ** -0.5 if softmax_scale is None else float(softmax_scale)


def _needed(rng_state: Tensor | None, dropout_p: float) -> Tensor | None:
    if dropout_p > 0 and rng_state is None:
        raise ValueError("the backward pass with dropout needs the rng_state that the forward pass returned")
    return rng_state if dropout_p > 0 else None


def _store(grads: tuple[Tensor, ...], places: tuple[Tensor | None, ...]) -> None:
    for grad, place in zip(grads, places, strict=True):
        if place is None:
            raise ValueError("dq, dk and dv must be given: the gradients are written into them")
        place.copy_(grad)
