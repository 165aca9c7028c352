"""The backward pass: the gradients of q, k and v, without atomics, so the same bits in every run.

With P = softmax(S) and O = P V, and delta = rowsum(dO * O) computed first (`backward_delta.py`):

    dV = P^T dO        dP = dO V^T        dS = P * (dP - delta)        dQ = dS K scale        dK = dS^T Q scale

Two kernels recompute P from the scores and the saved logarithms, one for dK and dV (`backward_dkdv.py`), one for dQ
(`backward_dq.py`); what they make of the scores is the same (`backward_scores.py`). Here is how the three are launched.
"""

# mypy: ignore-errors
import functools

import torch
import triton

from . import compat, launching, tuning
from .backward_delta import delta_kernel, delta_rows, delta_warps
from .backward_dkdv import dkdv_kernel
from .backward_dq import dq_kernel
from .call import Call

__all__ = ["backward"]


def backward(call: Call, dout, q, k, v, out, lse, cu_q=None, cu_k=None, slopes=None, rng_state=None, dlse=None):
    """Launches the backward kernels. Shapes as in ops.attention_backward; returns (dq, dk, dv)."""
    # Tiles that no program owns (tokens behind the last sequence, no key or no query at all) have gradient 0.
    make = torch.zeros_like if call.varlen or min(q.numel(), k.numel()) == 0 else torch.empty_like
    dq, dk, dv = (make(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    if min(q.numel(), k.numel(), call.max_seqlen_q, call.max_seqlen_k) == 0:
        return dq, dk, dv
    tensors = (dout, q, k, v, out, cu_q, cu_k, slopes, rng_state, lse)
    made = (torch.empty_like(lse), torch.empty_like(lse), dq, dk, dv)
    key, plan = launching.look_up("backward", call, tensors) if dlse is None else (None, None)
    with compat.device_guard(q):
        if plan is not None:
            plan.again(launching.addresses(*tensors, *made))
        else:
            launching.remember(key, _plan(call, dlse, *tensors, *made))
    return dq, dk, dv


def _plan(call: Call, dlse, dout, q, k, v, out, cu_q, cu_k, slopes, rng_state, lse, lse_log2, delta, dq, dk, dv):
    """Launches the kernels; returns what it takes to do so again."""
    tensors = {
        "dout": dout, "q": q, "k": k, "v": v, "out": out, "cu_q": cu_q, "cu_k": cu_k, "slopes": slopes,
        "rng": rng_state, "lse": lse, "lse_log2": lse_log2, "delta": delta, "dq": dq, "dk": dk, "dv": dv,
    }  # fmt: skip
    plan = launching.Plan(call, **tensors)
    batch, heads, heads_k, head_dim = call.batch(q, cu_q), q.shape[-2], k.shape[-2], q.shape[-1]
    target = compat.target_name(q)
    common = {"HEAD_DIM": head_dim, "BLOCK_D": call.block_d(head_dim)}
    stride_s = slopes.stride(0) if slopes is not None and slopes.dim() == 2 else 0
    inputs = (*call.strides(q), *call.strides(k), *call.strides(v), *call.strides(dout))
    rows, tokens = delta_rows(head_dim), q.shape[-3]
    plan.launch(
        delta_kernel,
        triton.cdiv(tokens, rows) * heads * (1 if call.varlen else batch),
        ("out", "dout", "lse", "lse_log2", "delta"),
        (*call.strides(out), *call.strides(dout), *call.row_strides(lse), heads, tokens),
        {**common, "BLOCK_M": rows, "WIDE": call.wide(rows, out, dout)},
        {"num_warps": delta_warps(target)},
    )
    if dlse is not None:  # d lse / dS = P, so it joins dS = P * (dP - delta) there
        delta -= dlse

    def options(chosen):
        return {"num_warps": chosen.num_warps, "num_stages": chosen.num_stages, **chosen.options}

    def constants(chosen, tiles):
        return {
            **common, **call.flags(q), "BLOCK_M": chosen.block_m, "BLOCK_N": chosen.block_n, "TILES": tiles is not None,
            "WIDE": call.wide(max(chosen.block_m, chosen.block_n), q, k, v, dout),
            "PAIRS": chosen.pairs, "CHUNK": chosen.chunk,
        }  # fmt: skip

    def launch_dkdv(chosen, plan):
        q_tiles, g_tiles = compat.tile_descriptors(target, chosen.block_m, call.block_d(head_dim), q, dout)
        for need_dk, need_dv in ((False, True), (True, False)) if chosen.split else ((True, True),):
            plan.launch(
                dkdv_kernel,
                triton.cdiv(call.max_seqlen_k, chosen.block_n) * heads_k * batch,
                (
                    "q", "k", "v", "dout", ("q", q_tiles), ("dout", g_tiles), "lse_log2", "delta", "dk", "dv",
                    "cu_q", "cu_k", "slopes", "rng",
                ),
                (
                    *inputs, *call.strides(dk), *call.strides(dv), *call.row_strides(lse), stride_s,
                    heads_k, heads // heads_k, *call.kernel_arguments,
                ),
                {
                    **constants(chosen, q_tiles), "NEED_DK": need_dk, "NEED_DV": need_dv,
                    "GROUPED": heads > heads_k,
                },
                options(chosen),
            )  # fmt: skip

    def launch_dq(chosen, plan):
        k_tiles, v_tiles = compat.tile_descriptors(target, chosen.block_n, call.block_d(head_dim), k, v)
        plan.launch(
            dq_kernel,
            triton.cdiv(call.max_seqlen_q, chosen.block_m) * heads * batch,
            (
                "q", "k", "v", "dout", ("k", k_tiles), ("v", v_tiles), "lse_log2", "delta", "dq", "cu_q", "cu_k",
                "slopes", "rng",
            ),
            (
                *inputs, *call.strides(dq), *call.row_strides(lse), stride_s,
                heads, heads // heads_k, *call.kernel_arguments,
            ),
            constants(chosen, k_tiles),
            options(chosen),
        )  # fmt: skip

    lengths = call.max_seqlen_q, call.max_seqlen_k
    features = call.features | ({"gqa"} if heads > heads_k else set())
    for kind, launch in (("dkdv", launch_dkdv), ("dq", launch_dq)):
        trial = functools.partial(launch, plan=launching.Plan(**tensors))
        chosen = tuning.pick(target, kind, head_dim, q.dtype, features, lengths, batch * heads, trial)
        launch(chosen, plan)
    return plan
