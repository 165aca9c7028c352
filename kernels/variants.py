"""Which kernels to compile ahead: a variant is a call of the public interface, named by pass, head size, dtype, features.

The shapes stand in for all others: kernels are specialised on head dimension, dtype, features and the alignment of
pointers and strides, not on batch, heads or lengths (`do_not_specialize` in the kernels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["DTYPES", "FEATURES", "PASSES", "Variant", "call", "default_variants", "select"]

PASSES = ("forward", "backward", "decode")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
FEATURES = ("alibi", "causal", "dropout", "large", "paged", "softcap", "varlen", "window")

_BATCH, _KV_HEADS, _LENGTH, _CACHE, _PAGE = 2, 2, 1024, 4096, 256
# Query heads a key head: decoding kernels are compiled for each (1 is multi-head, 4 Llama 3 8B and Mistral 7B, 8 Llama 70B).
_GROUPS = (1, 4, 8)


@dataclass(frozen=True)
class Variant:
    """One call to compile for. features: names of FEATURES; "large" is tensors of more than 2 GiB (wider addresses)."""

    kind: str
    head_dim: int
    dtype: str
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in PASSES:
            raise ValueError(f"no pass {self.kind!r}; there are {', '.join(PASSES)}")
        if self.dtype not in DTYPES:
            raise ValueError(f"no dtype {self.dtype!r}; there are {', '.join(DTYPES)}")
        if not 1 <= self.head_dim <= 256:
            raise ValueError(f"head dimension {self.head_dim} is not between 1 and 256")
        unknown = sorted(set(self.features) - set(FEATURES))
        if unknown:
            raise ValueError(f"no feature {unknown[0]!r}; there are {', '.join(FEATURES)}")
        object.__setattr__(self, "features", tuple(sorted(set(self.features))))


def default_variants() -> list[Variant]:
    """What models that are in use call.

    Head dimensions 64 (BERT, GPT-2, Whisper, small Llama) and 128 (Llama, Mistral, Qwen), causal decoders and encoders,
    padded batches (varlen), training, and decoding from a cache; 256 with softcap and window is Gemma 2.
    """
    variants = []
    for head_dim in (64, 128):
        for dtype in ("bf16", "fp16"):
            for kind in ("forward", "backward"):
                variants += [
                    Variant(kind, head_dim, dtype, features) for features in ((), ("causal",), ("causal", "varlen"))
                ]
            variants += [Variant("decode", head_dim, dtype, ("causal",))]
    variants += [
        Variant("forward", 128, "bf16", ("causal", "window")),
        Variant("forward", 256, "bf16", ("causal", "softcap")),
        Variant("forward", 256, "bf16", ("causal", "softcap", "window")),
        Variant("decode", 128, "bf16", ("causal", "paged")),
        Variant("decode", 256, "bf16", ("causal", "softcap")),
    ]
    return variants


def select(
    head_dims: Sequence[int] = (),
    dtypes: Sequence[str] = (),
    passes: Sequence[str] = (),
    features: Sequence[str] | None = None,
) -> list[Variant]:
    """The default variants, narrowed; what is named beyond them is made.

    features: all of one variant; None leaves those of the defaults. Raises ValueError for a name that does not exist.
    """
    defaults = default_variants()
    if not (head_dims or dtypes or passes or features is not None):
        return defaults
    chosen: dict[Variant, None] = {}
    for kind in passes or ("forward", "backward", "decode"):
        for head_dim in head_dims or (64, 128):
            for dtype in dtypes or ("bf16", "fp16"):
                if features is not None:
                    chosen[Variant(kind, head_dim, dtype, tuple(features))] = None
                    continue
                # the features of the defaults of the same pass at this head dimension, else at 128
                for model in (head_dim, 128):
                    same = [v for v in defaults if v.kind == kind and v.head_dim == model]
                    if same:
                        break
                for variant in same:
                    chosen[Variant(kind, head_dim, dtype, variant.features)] = None
    return list(chosen)


def _tensor(shape: Sequence[int], dtype: torch.dtype, large: bool) -> torch.Tensor:
    """An uninitialised CPU tensor; memory is only taken when it is touched, which no stand-in launch does.

    Its storage is made larger than 2 GiB where asked: Triton compiles other kernels for tensors that large.
    """
    if not large:
        return torch.empty(*shape, dtype=dtype)
    count = 1
    for size in shape:
        count *= size
    return torch.empty(2**31 // dtype.itemsize + count, dtype=dtype)[:count].view(*shape)


def call(variant: Variant, api: Any) -> Callable[[], None]:
    """Prepares the call of the public interface `api` that launches this variant's kernels; the result makes it.

    For "backward" the forward pass is done here, and the call is the backward pass alone.
    """
    dtype, dim = DTYPES[variant.dtype], variant.head_dim
    has = variant.features.__contains__
    large = has("large")
    options: dict[str, Any] = {
        "causal": has("causal"),
        "window_size": (1024, 0 if has("causal") else 1024) if has("window") else (-1, -1),
        "softcap": 30.0 if has("softcap") else 0.0,
    }
    if variant.kind == "decode":
        if has("paged"):
            pages = _BATCH * _CACHE // _PAGE
            cache = [_tensor((pages, _PAGE, _KV_HEADS, dim), dtype, large) for _ in range(2)]
            options["block_table"] = torch.arange(pages, dtype=torch.int32).view(_BATCH, -1)
        else:
            cache = [_tensor((_BATCH, _CACHE, _KV_HEADS, dim), dtype, large) for _ in range(2)]
        lengths = torch.full((_BATCH,), _CACHE // 2, dtype=torch.int32)
        new = [_tensor((_BATCH, 1, _KV_HEADS, dim), dtype, False) for _ in range(2)]

        def decode() -> None:
            heads = _GROUPS[-1] * _KV_HEADS
            if has("alibi"):
                options["alibi_slopes"] = torch.ones(heads)
            q = _tensor((_BATCH, 1, heads, dim), dtype, False)
            for splits in (1, 8):  # keys in one piece, and in several: kernels of their own
                api.flash_attn_with_kvcache(q, *cache, *new, cache_seqlens=lengths, num_splits=splits, **options)

        return decode

    options["dropout_p"] = 0.1 if has("dropout") else 0.0
    grad = variant.kind == "backward"
    lead = (_BATCH * _LENGTH,) if has("varlen") else (_BATCH, _LENGTH)

    def forward(group: int) -> tuple[torch.Tensor, ...]:
        q = _tensor((*lead, group * _KV_HEADS, dim), dtype, large).requires_grad_(grad)
        k, v = (_tensor((*lead, _KV_HEADS, dim), dtype, large).requires_grad_(grad) for _ in range(2))
        if has("alibi"):
            options["alibi_slopes"] = torch.ones(group * _KV_HEADS)
        if has("varlen"):
            cu = torch.arange(0, _BATCH + 1, dtype=torch.int32) * _LENGTH
            out = api.flash_attn_varlen_func(q, k, v, cu, cu, _LENGTH, _LENGTH, **options)
        else:
            out = api.flash_attn_func(q, k, v, **options)
        return q, k, v, out

    if not grad:

        def attend() -> None:
            forward(_GROUPS[-1])

        return attend

    done = [forward(group) for group in (1, _GROUPS[-1])]  # one query head a key head is a kernel of its own

    def backward() -> None:
        for *inputs, out in done:
            torch.autograd.grad(out, inputs, torch.empty_like(out))

    return backward
