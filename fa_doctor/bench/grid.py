"""The points of a sweep: every combination of length, head dimension, mask, pass and provider."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

__all__ = ["KEY", "PROVIDERS", "grid", "key_of"]

PROVIDERS = ("unfused", "sdpa", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "flex", "flash_attn", "bundled")
# What tells one point from another.
KEY = ("provider", "length", "head_dim", "heads", "batch", "causal", "pass", "dtype")

Point = dict[str, Any]


def grid(
    lengths: Iterable[int],
    head_dims: Iterable[int],
    causal: Iterable[bool],
    passes: Iterable[str],
    providers: Iterable[str],
    *,
    tokens: int,
    hidden: int,
    dtype: str,
) -> list[Point]:
    """The points, those that belong into one comparison side by side.

    The number of tokens in a batch and the hidden size stay the same throughout: batch = tokens / length, heads =
    hidden / head dimension, at least one each.
    """
    return [
        {
            "length": length,
            "head_dim": dim,
            "heads": max(1, hidden // dim),
            "batch": max(1, tokens // length),
            "causal": mask,
            "pass": kind,
            "provider": provider,
            "dtype": dtype,
        }
        for dim, mask, length, kind, provider in itertools.product(head_dims, causal, lengths, passes, providers)
    ]


def key_of(point: Point) -> tuple[Any, ...]:
    """What tells this point from every other."""
    return tuple(point.get(name) for name in KEY)
