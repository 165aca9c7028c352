"""flash_attn_with_kvcache: attention to a key/value cache, with append, rotary embedding, paging and split-KV."""

from __future__ import annotations

from typing import Any

import torch

from .append import append_to_cache
from .compat import use_kernels
from .decode import MAX_SPLITS, DecodeArguments, decode_attention
from .reference_kvcache import attention_with_kvcache
from .rotary import apply_rotary
from .validation import check_options, check_slopes, check_tensors, check_window

__all__ = ["flash_attn_with_kvcache"]


def flash_attn_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor | None = None,
    v: torch.Tensor | None = None,
    rotary_cos: torch.Tensor | None = None,
    rotary_sin: torch.Tensor | None = None,
    cache_seqlens: int | torch.Tensor | None = None,
    cache_batch_idx: torch.Tensor | None = None,
    cache_leftpad: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: torch.Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attention of q to a key/value cache, after writing new keys and values into it in place.

    A sequence with `total` keys (its length in the cache plus the new ones) has its queries at positions
    total - seqlen_q ... total - 1, so causal and window masks are aligned to the bottom right. A query that sees no key
    gives 0. Forward only: a backward through the result raises.

    q: (batch, seqlen_q, heads, head_dim), float16, bfloat16 or float32, head_dim at most 256.
    k_cache, v_cache: (batch_cache, seqlen_cache, heads_k, head_dim), or pages (num_pages, page_size, heads_k, head_dim)
        with a block_table; any page size, but a multiple of 64 is fastest. heads must be a multiple of heads_k: query
        head h reads key head h // (heads / heads_k). Last dimension contiguous.
    k, v: (batch, seqlen_new, heads_k, head_dim), written at positions cache_seqlens onwards. The cache must have room:
        that is checked where the lengths are known here (an int, or a CPU tensor); on a GPU, where reading them would
        stall the stream, tokens beyond the cache are dropped.
    rotary_cos, rotary_sin: (seqlen_rotary, rotary_dim / 2), q's dtype, only with k and v. k is rotated at its
        positions; q at cache_seqlens, cache_seqlens + 1, ... if causal or windowed, all at cache_seqlens otherwise.
    rotary_interleaved: pairs are dimensions 0 & 1, 2 & 3, ... rather than 0 & rotary_dim / 2, ...
    cache_seqlens: int, or (batch,) int32: how many positions of the cache are filled; None: all.
    cache_batch_idx: (batch,) int32, which row of the cache is whose; not with block_table.
    cache_leftpad: (batch,) int32, where each sequence starts in its row of the cache.
    block_table: (batch, pages a sequence) int32, which page holds a sequence's positions.
    softmax_scale: default 1 / sqrt(head_dim). causal: query at position p sees keys up to p.
    window_size: (left, right), keys p - left ... p + right; negative is infinite.
    softcap: scores become softcap * tanh(score / softcap); 0 is off.
    alibi_slopes: (heads,) or (batch, heads) float32; adds -slope * |p - key's position|.
    num_splits: into how many parts the keys are cut (at most 128); 0 chooses, 1 does not cut.

    Returns out like q; with return_softmax_lse also the natural log of each row's softmax sum, (batch, heads, seqlen_q)
    float32, +inf for a row without keys. Raises ValueError for arguments that do not fit, before anything is written.
    """
    if isinstance(block_table, torch.Tensor):
        block_table = block_table.contiguous()
    if isinstance(cache_batch_idx, torch.Tensor):
        cache_batch_idx = cache_batch_idx.contiguous()
    _check_tensors(q, k_cache, v_cache, k, v, block_table, alibi_slopes)
    seqlen_new = None if k is None else k.shape[1]
    _check_vectors(q, k_cache, seqlen_new, cache_seqlens, cache_batch_idx, cache_leftpad, block_table)
    capacity = k_cache.shape[1] * (block_table.shape[1] if block_table is not None else 1)
    _check_rotary(q, k, rotary_cos, rotary_sin, capacity)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else float(softmax_scale)
    check_options(0.0, softcap, scale)
    if not 0 <= num_splits <= MAX_SPLITS:
        raise ValueError(f"num_splits must be 0 to {MAX_SPLITS}: got {num_splits}")
    if isinstance(cache_seqlens, int):
        cache_seqlens = torch.full((q.shape[0],), cache_seqlens, dtype=torch.int32, device=q.device)
    left, right = _effective_window(window_size, causal, q.shape[1], capacity, alibi_slopes is not None)
    out, lse = _run(
        q if q.stride(-1) == 1 else q.contiguous(),
        k_cache,
        v_cache,
        k if k is None or k.stride(-1) == 1 else k.contiguous(),
        v if v is None or v.stride(-1) == 1 else v.contiguous(),
        rotary_cos,
        rotary_sin,
        cache_seqlens,
        cache_batch_idx,
        cache_leftpad,
        block_table,
        alibi_slopes,
        scale,
        left,
        right,
        float(softcap),
        bool(rotary_interleaved),
        int(num_splits),
    )
    return (out, lse) if return_softmax_lse else out


def _effective_window(
    window: tuple[int, int], causal: bool, seqlen_q: int, capacity: int, alibi: bool
) -> tuple[int, int]:
    """The window that says everything about the mask, -1 for an open side; causal is a right side of 0.

    As in flash-attn, which also decides by it how q is rotated: a side that reaches over the whole cache is open, and
    causal means nothing to a single query (it is the last position).
    """
    left, right = check_window(window)
    if causal and (seqlen_q > 1 or alibi):
        right = 0
    left = -1 if left < 0 or left >= capacity else left
    right = -1 if right < 0 or right >= capacity else right
    return left, right


def _check_tensors(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor | None,
    v: torch.Tensor | None,
    block_table: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None,
) -> None:
    """Shapes, dtypes, devices and strides of everything but the (batch,) vectors and the rotary tables."""
    for name, given in (
        ("q", q),
        ("k_cache", k_cache),
        ("v_cache", v_cache),
        ("k", k),
        ("v", v),
        ("block_table", block_table),
    ):
        if not isinstance(given, torch.Tensor) and (given is not None or name in ("q", "k_cache", "v_cache")):
            check_tensors(**{name: given})
    for name, x in (("q", q), ("k_cache", k_cache), ("v_cache", v_cache)):
        if x.dim() != 4:
            raise ValueError(f"{name} must have 4 dimensions: got shape {tuple(x.shape)}")
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"q must be float16, bfloat16 or float32: got {q.dtype}")
    batch, _, heads, head_dim = q.shape
    heads_k = k_cache.shape[2]
    if not 0 < head_dim <= 256:
        raise ValueError(f"head_dim must be 1 to 256: got {head_dim}")
    if heads_k == 0 or heads % heads_k:
        raise ValueError(f"heads of q must be a multiple of heads of the cache: got {heads} and {heads_k}")
    if k_cache.shape != v_cache.shape or k_cache.shape[3] != head_dim:
        raise ValueError(
            f"k_cache and v_cache must have one shape (..., ..., heads_k, {head_dim}): "
            f"got {tuple(k_cache.shape)} and {tuple(v_cache.shape)}"
        )
    if (k is None) != (v is None):
        raise ValueError("k and v must be given together")
    if k is not None and v is not None:
        expected = (batch, k.shape[1] if k.dim() == 4 else "seqlen_new", heads_k, head_dim)
        if tuple(k.shape) != expected or tuple(v.shape) != expected:
            raise ValueError(f"k and v must be {expected}: got {tuple(k.shape)} and {tuple(v.shape)}")
    for name, y in (("k_cache", k_cache), ("v_cache", v_cache), ("k", k), ("v", v)):
        if y is not None and y.dtype != q.dtype:
            raise ValueError(f"{name} must have q's dtype {q.dtype}: got {y.dtype}")
        if y is not None and y.device != q.device:
            raise ValueError(f"{name} must be on q's device {q.device}: got {y.device}")
    if k_cache.stride(-1) != 1 or v_cache.stride(-1) != 1:
        raise ValueError("k_cache and v_cache must have a contiguous last dimension")
    if block_table is not None:
        if block_table.dtype != torch.int32 or block_table.dim() != 2 or block_table.shape[0] != batch:
            raise ValueError(
                f"block_table must be int32 ({batch}, pages a sequence): "
                f"got {block_table.dtype} {tuple(block_table.shape)}"
            )
        if block_table.device != q.device or block_table.stride(-1) != 1:
            raise ValueError("block_table must be on q's device with a contiguous last dimension")
    check_slopes(alibi_slopes, batch, heads, q.device)


def _check_vectors(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    seqlen_new: int | None,
    cache_seqlens: int | torch.Tensor | None,
    cache_batch_idx: torch.Tensor | None,
    cache_leftpad: torch.Tensor | None,
    block_table: torch.Tensor | None,
) -> None:
    """The (batch,) vectors; their values too where they are known without waiting for a GPU."""
    batch = q.shape[0]
    paged = block_table is not None
    capacity = k_cache.shape[1] * (block_table.shape[1] if block_table is not None else 1)
    for name, x in (
        ("cache_seqlens", cache_seqlens),
        ("cache_batch_idx", cache_batch_idx),
        ("cache_leftpad", cache_leftpad),
    ):
        if x is not None and not isinstance(x, torch.Tensor) and (name != "cache_seqlens" or not isinstance(x, int)):
            check_tensors(**{name: x})
        if isinstance(x, torch.Tensor):
            if x.dtype != torch.int32 or tuple(x.shape) != (batch,) or not x.is_contiguous():
                raise ValueError(
                    f"{name} must be a contiguous int32 tensor of shape ({batch},): got {x.dtype} {tuple(x.shape)}"
                )
            if x.device != q.device:
                raise ValueError(f"{name} must be on q's device {q.device}: got {x.device}")
    if cache_batch_idx is not None and paged:
        raise ValueError(
            "cache_batch_idx cannot be given with block_table: the table already says whose pages are whose"
        )
    if cache_batch_idx is None and not paged and k_cache.shape[0] < batch:
        raise ValueError(f"the cache has {k_cache.shape[0]} rows for a batch of {batch}")
    if seqlen_new is not None:
        if cache_seqlens is None:
            raise ValueError("cache_seqlens must be given with k and v: it says where they go")
        if max(seqlen_new, q.shape[1]) > capacity:
            raise ValueError(f"the cache holds {capacity} tokens: got {seqlen_new} new ones and {q.shape[1]} queries")
    longest = capacity - (seqlen_new or 0)
    if isinstance(cache_seqlens, int) and not 0 <= cache_seqlens <= longest:
        raise ValueError(f"cache_seqlens must be 0 to {longest}, to leave room for new tokens: got {cache_seqlens}")
    if q.is_cpu and not torch.compiler.is_compiling():
        _check_range("cache_seqlens", cache_seqlens, longest)
        _check_range("cache_leftpad", cache_leftpad, capacity)
        _check_range("cache_batch_idx", cache_batch_idx, k_cache.shape[0] - 1)


def _check_range(name: str, x: int | torch.Tensor | None, highest: int) -> None:
    if isinstance(x, torch.Tensor) and x.numel() and (int(x.min()) < 0 or int(x.max()) > highest):
        raise ValueError(f"{name} must be 0 to {highest}: got {x.tolist()}")


def _check_rotary(
    q: torch.Tensor, k: torch.Tensor | None, cos: torch.Tensor | None, sin: torch.Tensor | None, capacity: int
) -> None:
    """The rotary tables: both, only with new keys, long enough, rotary_dim a multiple of 16 and at most head_dim."""
    if cos is None and sin is None:
        return
    if cos is None or sin is None:
        raise ValueError("rotary_cos and rotary_sin must be given together")
    check_tensors(rotary_cos=cos, rotary_sin=sin)
    if k is None:
        raise ValueError("rotary_cos and rotary_sin need new keys and values, k and v, to rotate")
    if cos.dim() != 2 or cos.shape != sin.shape:
        raise ValueError(
            "rotary_cos and rotary_sin must both be (seqlen_rotary, rotary_dim / 2): "
            f"got {tuple(cos.shape)} and {tuple(sin.shape)}"
        )
    rotary_dim = 2 * cos.shape[1]
    if rotary_dim > q.shape[-1] or rotary_dim % 16 or rotary_dim == 0:
        raise ValueError(f"rotary_dim must be a multiple of 16 and at most {q.shape[-1]}: got {rotary_dim}")
    if cos.shape[0] < capacity:
        raise ValueError(f"rotary_cos must hold at least the {capacity} positions of the cache: got {cos.shape[0]}")
    for name, x in (("rotary_cos", cos), ("rotary_sin", sin)):
        if x.dtype != q.dtype or x.device != q.device or x.stride(-1) != 1:
            raise ValueError(
                f"{name} must be {q.dtype} on {q.device} with a contiguous last dimension: got {x.dtype} on {x.device}"
            )


def _kvcache_forward(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor | None,
    v: torch.Tensor | None,
    rotary_cos: torch.Tensor | None,
    rotary_sin: torch.Tensor | None,
    cache_seqlens: torch.Tensor | None,
    cache_batch_idx: torch.Tensor | None,
    cache_leftpad: torch.Tensor | None,
    block_table: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None,
    softmax_scale: float,
    window_left: int,
    window_right: int,
    softcap: float,
    rotary_interleaved: bool,
    num_splits: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Checked arguments, -1 for an open side of the window. Appends, then attends: out and lse."""
    if not use_kernels(q):
        return attention_with_kvcache(
            q,
            k_cache,
            v_cache,
            k,
            v,
            rotary_cos,
            rotary_sin,
            cache_seqlens,
            cache_batch_idx,
            cache_leftpad,
            block_table,
            softmax_scale,
            (window_left, window_right),
            softcap,
            rotary_interleaved,
            alibi_slopes,
        )
    if softmax_scale < 0:
        q, softmax_scale = -q, -softmax_scale
    if rotary_cos is not None and rotary_sin is not None and cache_seqlens is not None:
        q = apply_rotary(
            q,
            rotary_cos,
            rotary_sin,
            seqlen_offsets=cache_seqlens,
            interleaved=rotary_interleaved,
            same_position=window_left < 0 and window_right < 0,
        )
    if k is not None and v is not None and cache_seqlens is not None:
        append_to_cache(
            k,
            v,
            k_cache,
            v_cache,
            cache_seqlens,
            cache_batch_idx,
            block_table,
            rotary_cos,
            rotary_sin,
            rotary_interleaved,
        )
    arguments = DecodeArguments(
        softmax_scale=softmax_scale,
        window_left=window_left,
        window_right=window_right,
        softcap=softcap,
        seqlen_new=0 if k is None else k.shape[1],
        cache_seqlens=cache_seqlens,
        cache_batch_idx=cache_batch_idx,
        cache_leftpad=cache_leftpad,
        block_table=block_table,
        alibi_slopes=alibi_slopes,
        num_splits=num_splits,
    )
    return decode_attention(q, k_cache, v_cache, arguments)


# The same files may be imported twice in one process, as fa_doctor.kernels and as flash_attn: each copy names its own
# operator.
_operator = torch.library.custom_op(
    f"{(__package__ or 'kernels').replace('.', '_')}::kvcache_forward",
    _kvcache_forward,
    mutates_args=("k_cache", "v_cache"),
)


@_operator.register_fake  # type: ignore[untyped-decorator]
def _fake(q: torch.Tensor, *args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batch, seqlen_q, heads, _ = q.shape
    lse_dtype = torch.promote_types(q.dtype, torch.float32)
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), q.new_empty((batch, heads, seqlen_q), dtype=lse_dtype)


def _run(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Through the registered operator where torch.compile or autograd must see it, else straight, which is faster."""
    tensors = [x for x in args if isinstance(x, torch.Tensor)]
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if recorded or torch.compiler.is_compiling():
        out, lse = _operator(*args)
        return out, lse
    return _kvcache_forward(*args)
