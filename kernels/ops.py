"""Attention as torch custom operators: forward and backward, with shapes for tracing and the autograd formula.

The operators are pure functions of their arguments (dropout's seed and offset come in as a tensor), so torch.compile
may move them and activation checkpointing may run them again. Each decides by itself whether the Triton kernels or the
reference in plain PyTorch compute (see compat.use_kernels).
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from . import compat, reference
from .backward import backward as launch_backward
from .call import Call
from .forward import forward as launch_forward

if TYPE_CHECKING:
    from .launching import Found

__all__ = ["attend_eagerly", "attention_backward", "attention_forward", "plainly_eager"]

# The same files are installed as fa_doctor.kernels and as flash_attn, and both may be imported in one process.
_NAMESPACE = (__package__ or "kernels").replace(".", "_")

# Schemas are spelled out, since torch before 2.6 cannot read them from postponed annotations.
_OPTIONS = (
    "SymInt max_seqlen_q, SymInt max_seqlen_k, float softmax_scale, SymInt window_left, SymInt window_right, "
    "float softcap, float dropout_p"
)
_FORWARD_SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? block_table, "
    f"Tensor? alibi_slopes, Tensor? rng_state, {_OPTIONS}) -> (Tensor, Tensor)"
)
_BACKWARD_SCHEMA = (
    "(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor? cu_seqlens_q, "
    f"Tensor? cu_seqlens_k, Tensor? alibi_slopes, Tensor? rng_state, {_OPTIONS}) -> (Tensor, Tensor, Tensor)"
)


def _reference_options(
    call: Call, q: Tensor, cu_seqlens_q: Tensor | None, alibi_slopes: Tensor | None, rng_state: Tensor | None
) -> dict[str, Any]:
    """The call in the words of reference.py, with the dropout mask that the kernels would use."""
    keep = None
    if call.dropout_p > 0 and rng_state is not None:
        batch, heads = call.batch(q, cu_seqlens_q), q.shape[-2]
        keep = reference.dropout_keep(rng_state, call.dropout_p, batch, heads, call.max_seqlen_q, call.max_seqlen_k)
    return {
        "softmax_scale": call.softmax_scale,
        "window_size": (call.left, call.right),
        "softcap": call.softcap,
        "alibi_slopes": alibi_slopes,
        "dropout_p": call.dropout_p,
        "keep": keep,
    }


def _forward(
    call: Call,
    found: Found | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    block_table: Tensor | None,
    alibi_slopes: Tensor | None,
    rng_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if not compat.use_kernels(q):
        options = _reference_options(call, q, cu_seqlens_q, alibi_slopes, rng_state)
        if cu_seqlens_q is not None and cu_seqlens_k is not None:
            out, lse = reference.attention_varlen(
                q, k, v, cu_seqlens_q, cu_seqlens_k, block_table=block_table, **options
            )
        else:
            out, lse, _ = reference.attention(q, k, v, **options)
        return out.contiguous(), lse.contiguous()
    if call.softmax_scale < 0:  # the kernels take maxima before they scale: the sign goes to q
        q = -q
    q, k, v = _last_contiguous(q), _last_contiguous(k), _last_contiguous(v)
    out, lse = launch_forward(
        call.with_positive_scale, q, k, v, cu_seqlens_q, cu_seqlens_k, block_table, alibi_slopes, rng_state, found
    )
    return out, lse


def _backward(
    call: Call,
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    alibi_slopes: Tensor | None,
    rng_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if not compat.use_kernels(q):
        options = _reference_options(call, q, cu_seqlens_q, alibi_slopes, rng_state)
        if cu_seqlens_q is not None and cu_seqlens_k is not None:
            grads = reference.attention_varlen_grads(dout, dlse, q, k, v, cu_seqlens_q, cu_seqlens_k, **options)
        else:
            grads = reference.attention_grads(dout, dlse, q, k, v, **options)
        dq, dk, dv = grads
        return dq.contiguous(), dk.contiguous(), dv.contiguous()
    signed_q = -q if call.softmax_scale < 0 else q
    signed_q, k, v, dout = (_last_contiguous(x) for x in (signed_q, k, v, dout))
    dq, dk, dv = launch_backward(
        call.with_positive_scale,
        dout,
        signed_q,
        k,
        v,
        out,
        lse,
        cu_seqlens_q,
        cu_seqlens_k,
        alibi_slopes,
        rng_state,
        dlse,
    )
    return (dq.neg_() if call.softmax_scale < 0 else dq), dk, dv


def _last_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


@torch.library.custom_op(f"{_NAMESPACE}::attention_forward", mutates_args=(), schema=_FORWARD_SCHEMA)
def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    block_table: Tensor | None,
    alibi_slopes: Tensor | None,
    rng_state: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    window_left: int,
    window_right: int,
    softcap: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    """out, lse = attention of q (B, Sq, H, D) with k, v (B, Sk, Hk, D), or packed with cu_seqlens (see interface.py).

    lse: float32 (B, H, Sq), packed (H, total_q); +inf for a row that sees no key. rng_state: int64 (2,), seed and
    offset, needed where dropout_p > 0. Windows are infinite where negative.
    """
    call = Call.of(
        max_seqlen_q,
        max_seqlen_k,
        softmax_scale,
        window_left,
        window_right,
        softcap,
        dropout_p,
        alibi_slopes is not None,
        cu_seqlens_q is not None,
    )
    return _forward(call, None, q, k, v, cu_seqlens_q, cu_seqlens_k, block_table, alibi_slopes, rng_state)


@attention_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    block_table: Tensor | None,
    alibi_slopes: Tensor | None,
    rng_state: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    window_left: int,
    window_right: int,
    softcap: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    heads, tokens = q.shape[-2], q.shape[-3]
    shape = (heads, tokens) if cu_seqlens_q is not None else (q.shape[0], heads, tokens)
    kind = torch.promote_types(q.dtype, torch.float32)
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(shape, dtype=kind)


@torch.library.custom_op(f"{_NAMESPACE}::attention_backward", mutates_args=(), schema=_BACKWARD_SCHEMA)
def attention_backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    alibi_slopes: Tensor | None,
    rng_state: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    window_left: int,
    window_right: int,
    softcap: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv from the gradients of out and (where it was used) of lse; the rest as in attention_forward."""
    call = Call.of(
        max_seqlen_q,
        max_seqlen_k,
        softmax_scale,
        window_left,
        window_right,
        softcap,
        dropout_p,
        alibi_slopes is not None,
        cu_seqlens_q is not None,
    )
    return _backward(call, dout, dlse, q, k, v, out, lse, cu_seqlens_q, cu_seqlens_k, alibi_slopes, rng_state)


@attention_backward.register_fake
def _(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    alibi_slopes: Tensor | None,
    rng_state: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    window_left: int,
    window_right: int,
    softcap: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    return dq, dk, dv


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, cu_seqlens_q, cu_seqlens_k, block_table, alibi_slopes, rng_state, *options = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, *output, cu_seqlens_q, cu_seqlens_k, alibi_slopes, rng_state)
    ctx.options = options
    ctx.paged = block_table is not None


def _autograd(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    if ctx.paged:
        raise RuntimeError("attention over a paged cache (block_table) has no backward pass")
    q, k, v, out, *rest = ctx.saved_tensors
    if dout is None:
        dout = torch.zeros_like(out)
    grads = attention_backward(dout, dlse, q, k, v, out, *rest, *ctx.options)
    return (*grads, *[None] * 12)


attention_forward.register_autograd(_autograd, setup_context=_setup_context)


class _EagerAttention(torch.autograd.Function):  # type: ignore[misc]
    """The same two functions for ordinary eager calls, without the dispatcher's share of the time."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, others: Sequence[Tensor | None], call: Call, found: Found | None
    ) -> tuple[Tensor, Tensor]:
        out, lse = _forward(call, found, q, k, v, *others)
        cu_seqlens_q, cu_seqlens_k, block_table, alibi_slopes, rng_state = others
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, out, lse, cu_seqlens_q, cu_seqlens_k, alibi_slopes, rng_state)
        ctx.call, ctx.paged = call, block_table is not None
        return out, lse

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
        # Gradients are recorded here only for a second derivative, which the decorator refuses; it takes a while.
        return (_eager_gradients_once if torch.is_grad_enabled() else _eager_gradients)(ctx, dout, dlse)


def _eager_gradients(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    if ctx.paged:
        raise RuntimeError("attention over a paged cache (block_table) has no backward pass")
    q, k, v, out, *rest = ctx.saved_tensors
    if dout is None:
        dout = torch.zeros_like(out)
    return *_backward(ctx.call, dout, dlse, q, k, v, out, *rest), None, None, None


_eager_gradients_once = once_differentiable(_eager_gradients)


def plainly_eager(q: Tensor) -> bool:
    """Whether nothing watches operators: no compiler, no tensor subclass, no dispatch mode, no functional transform."""
    return (
        not torch.compiler.is_compiling()
        and type(q) in (Tensor, torch.nn.Parameter)
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
    )


def attend_eagerly(
    call: Call, found: Found | None, q: Tensor, k: Tensor, v: Tensor, *others: Tensor | None
) -> tuple[Tensor, Tensor]:
    """attention_forward with gradients, where `plainly_eager`, by the shortest way.

    found: what launching.look_up knows of this call. others: the operator's tensors behind v.
    """
    wanted = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if not wanted and forward_ad._current_level < 0:  # forward-mode derivatives are refused by autograd.Function
        return _forward(call, found, q, k, v, *others)
    out, lse = _EagerAttention.apply(q, k, v, others, call, found)
    return out, lse
