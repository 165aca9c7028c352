"""Attention of a few queries to a long key/value cache: how many splits, which tiles, and the launch.

With one query a sequence, attention reads every key and value once and computes little: it can be as fast as memory is.
Two things make it so. All query heads that share a key/value head are rows of one tile, so that keys are read once for
all of them; and the keys of one sequence are cut into splits that run side by side, enough of them to fill the GPU.
Each split gives an output normalised by its own softmax sum, and the log of that sum; the second kernel weighs them
together, which is exact (Flash-Decoding, Dao et al. 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton

from . import launching, tuning
from .call import Call
from .compat import TRITON_VERSION, device_guard, target_name
from .config import Config
from .decode_kernels import combine_kernel, decode_kernel

__all__ = ["DecodeArguments", "choose_splits", "decode_attention"]

MAX_SPLITS = 128


@dataclass(frozen=True)
class DecodeArguments:
    """What decode_attention needs beyond q and the cache; checked by the caller."""

    softmax_scale: float
    window_left: int = -1
    window_right: int = -1
    softcap: float = 0.0
    seqlen_new: int = 0
    cache_seqlens: torch.Tensor | None = None
    cache_batch_idx: torch.Tensor | None = None
    cache_leftpad: torch.Tensor | None = None
    block_table: torch.Tensor | None = None
    alibi_slopes: torch.Tensor | None = None
    num_splits: int = 0


@lru_cache(maxsize=1024)
def choose_splits(programs: int, tiles: int, units: int, occupancy: int = 2) -> int:
    """How many splits make the longest-running compute unit finish first.

    programs: independent programs before splitting; tiles: key tiles of a sequence; units: compute units of the GPU;
    occupancy: programs a compute unit runs at once. The cost of s splits, in tile times, is the number of waves of
    programs times what one of them does: ceil(tiles / s) tiles and a start-up worth about 2; more than one split costs
    a second kernel, whose work grows with s. A split has at most 128 tiles where that many are allowed: shorter programs
    even out sequences of unequal length, which cannot be asked for their lengths without waiting for the GPU.
    """
    slots = units * occupancy

    def cost(splits: int) -> float:
        waves = math.ceil(programs * splits / slots)
        combine = 0.0 if splits == 1 else 4.0 + splits / 16.0
        return waves * (math.ceil(tiles / splits) + 2.0) + combine

    fewest = min(MAX_SPLITS, math.ceil(tiles / 128))
    return min(range(max(1, fewest), max(1, min(MAX_SPLITS, tiles)) + 1), key=cost)


def compute_units(x: torch.Tensor) -> int:
    """Compute units (multiprocessors) of x's GPU; 1 for a CPU tensor."""
    return _gpu_compute_units(x.device.index) if x.is_cuda else 1


@lru_cache(maxsize=64)
def _gpu_compute_units(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def decode_attention(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, args: DecodeArguments
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of q (batch, seqlen_q, heads, head_dim) to the cache as it stands, appended keys included.

    k_cache, v_cache: (rows, seqlen_cache, heads_k, head_dim), or (pages, page_size, heads_k, head_dim) with a block
    table. Returns out like q, and the log of each row's softmax sum, (batch, heads, seqlen_q) float32, +inf where no
    key is seen.
    """
    batch, seqlen_q, heads, head_dim = q.shape
    out = torch.empty((batch, seqlen_q, heads, head_dim), dtype=q.dtype, device=q.device)
    lse = torch.empty((batch, heads, seqlen_q), dtype=torch.float32, device=q.device)
    if out.numel() == 0:
        return out, lse

    scalars = (
        args.softmax_scale,
        args.window_left,
        args.window_right,
        args.softcap,
        args.seqlen_new,
        args.num_splits,
    )
    tensors = (
        q,
        k_cache,
        v_cache,
        args.cache_seqlens,
        args.cache_batch_idx,
        args.cache_leftpad,
        args.block_table,
        args.alibi_slopes,
    )
    key, plan = launching.look_up("decode", scalars, tensors)
    with device_guard(q):
        if isinstance(plan, _DecodePlan):
            parts = _parts(plan.splits, out, lse)
            plan.again(launching.addresses(*tensors, out, lse, *parts))
        else:
            launching.remember(key, _plan(q, k_cache, v_cache, args, out, lse))
    return out, lse


class _DecodePlan(launching.Plan):
    """How a call was launched; splits: into how many parts its keys were cut, each with a place of its own in memory."""

    splits = 1


def _parts(splits: int, out: torch.Tensor, lse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the splits write: (splits, batch, heads, seqlen_q, head_dim) and without head_dim; one writes the result."""
    if splits == 1:
        return out, lse
    batch, seqlen_q, heads, head_dim = out.shape
    parts = torch.empty((splits, batch, heads, seqlen_q, head_dim), dtype=torch.float32, device=out.device)
    return parts, torch.empty((splits, batch, heads, seqlen_q), dtype=torch.float32, device=out.device)


def _features(q: torch.Tensor, rows: int, args: DecodeArguments) -> frozenset[str]:
    """What configurations of kind "decode" may depend on; rows: queries times heads that share a key/value head."""
    named = {
        "rows_over_16": rows > 16,
        "rows_over_32": rows > 32,
        "causal": args.window_right == 0,
        "window": args.window_left >= 0 or args.window_right > 0,
        "softcap": args.softcap > 0,
        "alibi": args.alibi_slopes is not None,
        "paged": args.block_table is not None,
    }
    return frozenset(name for name, used in named.items() if used)


def _plan(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    args: DecodeArguments,
    out: torch.Tensor,
    lse: torch.Tensor,
) -> _DecodePlan:
    """Launches both kernels, or the first alone where the keys are not split; returns what it takes to do so again."""
    batch, seqlen_q, heads, head_dim = q.shape
    heads_k, rows = k_cache.shape[2], batch * heads * seqlen_q
    group = heads // heads_k
    slopes, table = args.alibi_slopes, args.block_table
    page_size = 0 if table is None else k_cache.shape[1]
    seqlen_cache = k_cache.shape[1] if table is None else table.shape[1] * page_size
    reach = seqlen_cache
    if args.window_left >= 0 and args.window_right >= 0:
        reach = min(reach, args.window_left + args.window_right + seqlen_q)
    block_d = Call.block_d(head_dim)

    def launch(tile: Config) -> _DecodePlan:
        programs = triton.cdiv(seqlen_q * group, tile.block_m) * heads_k * batch
        splits = args.num_splits or choose_splits(programs, triton.cdiv(reach, tile.block_n), compute_units(q))
        parts, parts_lse = _parts(splits, out, lse)
        strides_out = (0, *out.stride()[:3]) if splits == 1 else (*parts.stride()[:2], parts.stride(3), parts.stride(2))
        options = dict(tile.options)
        # Triton 3.2's tl.dot takes no fewer than 16 rows.
        vector = options.pop("VECTOR", False) or (tile.block_m < 16 and TRITON_VERSION < (3, 3))
        plan = _DecodePlan(
            q=q, k=k_cache, v=v_cache, lengths=args.cache_seqlens, rows=args.cache_batch_idx, leftpad=args.cache_leftpad,
            table=table, slopes=slopes, out=out, lse=lse, parts=parts, parts_lse=parts_lse,
        )  # fmt: skip
        plan.splits = splits
        plan.launch(
            decode_kernel,
            programs * splits,
            ("q", "k", "v", "parts", "parts_lse", "lengths", "rows", "leftpad", "table", "slopes"),
            (
                *q.stride()[:3], *k_cache.stride()[:3], *v_cache.stride()[:3], *strides_out,
                rows if splits > 1 else 0, heads * seqlen_q, seqlen_q,
                0 if table is None else table.stride(0),
                0 if slopes is None or slopes.dim() == 1 else slopes.stride(0),
                heads_k, group, seqlen_q, seqlen_cache, args.seqlen_new, page_size, splits,
                args.window_left, args.window_right,
                # Kept above 0: -inf * 0 would be NaN. A negative scale never comes here, see kvcache.py.
                max(args.softmax_scale * math.log2(math.e), 1e-30), args.softcap,
            ),
            {
                "HEAD_DIM": head_dim, "BLOCK_D": block_d, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n,
                "GATHER": page_size if page_size % tile.block_n else 0,
                "LEFT": args.window_left >= 0, "RIGHT": args.window_right >= 0, "SOFTCAP": args.softcap > 0,
                "SPLIT": splits > 1, "EXACT": q.dtype == torch.float32,
                "WIDE": (tile.block_n + 1) * max(k_cache.stride(1), v_cache.stride(1)) >= 2**31, "VECTOR": vector,
            },
            {"num_warps": tile.num_warps, "num_stages": tile.num_stages, **options},
        )  # fmt: skip
        if splits > 1:
            plan.launch(
                combine_kernel,
                rows,
                ("parts", "parts_lse", "out", "lse"),
                (*out.stride()[:3], splits, seqlen_q, heads, rows),
                {"HEAD_DIM": head_dim, "BLOCK_D": block_d, "BLOCK_S": 32},
                {"num_warps": 4},
            )
        return plan

    target, lengths = target_name(q), (seqlen_q, seqlen_cache)
    features = _features(q, seqlen_q * group, args)
    return launch(tuning.pick(target, "decode", head_dim, q.dtype, features, lengths, batch * heads_k, launch))
