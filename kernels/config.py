"""Which tile sizes and compiler options a kernel runs with. The values live in configs/*.json, a file a GPU target."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

__all__ = ["Config", "choose"]

_FOLDER = Path(__file__).resolve().parent / "configs"


@dataclass(frozen=True)
class Config:
    """block_m: queries a tile, block_n: keys a tile; options: compiler options of the backend (waves_per_eu, ...)."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    options: dict[str, Any] = field(default_factory=dict, hash=False)


def choose(target: str, kind: str, head_dim: int, dtype: torch.dtype, features: frozenset[str]) -> Config:
    """The configuration for a kernel.

    target: "gfx942", "sm_90", "interpreter"; kind: "forward", "dkdv" or "dq"; features: those of "causal", "window",
    "softcap", "alibi", "dropout", "varlen", "paged" that the call uses. A file for the target itself is used where
    there is one, else that of the longest family prefix (gfx11, gfx9, sm_9), else default.json.
    """
    return _choose(target, kind, head_dim, dtype, features)


@functools.cache
def _choose(target: str, kind: str, head_dim: int, dtype: torch.dtype, features: frozenset[str]) -> Config:
    for row in _rows(target):
        if (
            row["kind"] == kind
            and head_dim <= row["head_dim"]
            and dtype.itemsize <= row.get("itemsize", 2)
            and features.issuperset(row.get("features", ()))
        ):
            return Config(
                row["block_m"], row["block_n"], row["num_warps"], row["num_stages"], dict(row.get("options", {}))
            )
    raise LookupError(f"no configuration of {kind} for {target}, head dimension {head_dim}, {dtype}")


@functools.cache
def _rows(target: str) -> list[dict[str, Any]]:
    """The rows of the most particular file that fits the target; the first row that fits a call is used."""
    for length in range(len(target), 2, -1):
        path = _FOLDER / f"{target[:length]}.json"
        if path.is_file():
            return list(json.loads(path.read_text(encoding="utf-8"))["rows"])
    return list(json.loads((_FOLDER / "default.json").read_text(encoding="utf-8"))["rows"])
