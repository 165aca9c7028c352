"""Which tile sizes and compiler options a kernel runs with. The values live in configs/*.json, a file a GPU target."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from .compat import TRITON_VERSION

__all__ = ["Config", "candidates", "choose"]

_FOLDER = Path(__file__).resolve().parent / "configs"


@dataclass(frozen=True)
class Config:
    """block_m: queries a tile, block_n: keys a tile; options: compiler options of the backend (waves_per_eu, ...).

    pairs: tiles that a product sums over the rows of are read in pairs of rows (primitives.load_pairs); 16-bit types only.
    chunk: where registers do not hold a kernel's own tile, it is read again for each block, this many columns at a
    time; 0: held. split: dK and dV are computed by a program each, for the same reason.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    pairs: bool = False
    chunk: int = 0
    split: bool = False

    def __post_init__(self) -> None:
        if self.chunk and not self.pairs:
            raise ValueError("a configuration that reads by chunks must read in pairs of rows too")

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Config:
        """A row of a configuration file, as a configuration; the row's conditions are not its part."""
        return cls(**{field.name: row[field.name] for field in fields(cls) if field.name in row})


def choose(target: str, kind: str, head_dim: int, dtype: torch.dtype, features: frozenset[str]) -> Config:
    """The configuration for a kernel.

    target: "gfx942", "sm_90", "interpreter"; kind: "forward", "dkdv" or "dq"; features: those of "causal", "window",
    "softcap", "alibi", "dropout", "varlen", "paged", "gqa" that the call uses. The target's own file is asked
    first, then those of its family, the longest prefix first (gfx94, gfx9; sm_9), then default.json. A row may name
    the Triton releases that it is for ("triton": ">=3.3,<3.9"): compilers differ in how many registers they need.
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
            return Config.from_row(row)
    raise LookupError(f"no configuration of {kind} for {target}, head dimension {head_dim}, {dtype}")


@functools.cache
def _rows(target: str, release: tuple[int, ...] = TRITON_VERSION) -> list[dict[str, Any]]:
    """The rows that may fit the target, the most particular file's first; the first row that fits a call is used."""
    names = [target[:length] for length in range(len(target), 2, -1)] + ["default"]
    files = [path for path in (_FOLDER / f"{name}.json" for name in names) if path.is_file()]
    rows = [row for path in files for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    return [row for row in rows if _within(release, row.get("triton", ""))]


_COMPARISONS = {"<": operator.lt, ">=": operator.ge}


def _within(release: tuple[int, ...], bounds: str) -> bool:
    """Whether a release of Triton (major, minor) lies within bounds such as ">=3.3,<3.9"; no bounds hold them all."""
    for bound in filter(None, bounds.split(",")):
        sign = bound.rstrip("0123456789.")
        version = tuple(int(part) for part in bound.removeprefix(sign).split("."))
        if not _COMPARISONS[sign](release, version):
            return False
    return True


def candidates(target: str, kind: str, head_dim: int, dtype: torch.dtype, shipped: Config) -> list[Config]:
    """What a search tries besides the shipped configuration: its neighbours, as configs/candidates.json spells them out."""
    families = json.loads((_FOLDER / "candidates.json").read_text(encoding="utf-8"))["families"]
    family = next((families[target[:n]] for n in range(len(target), 0, -1) if target[:n] in families), None)
    if family is None or kind not in family["tiles"]:
        return []
    found: dict[tuple[Any, ...], Config] = {}
    for most, *tile in family["tiles"][kind]:
        if head_dim > most:
            continue
        for variation in family["variations"]:
            base = {field.name: getattr(shipped, field.name) for field in fields(Config)}
            base |= dict(zip(("block_m", "block_n", "num_warps", "num_stages"), tile, strict=True)) | variation
            if dtype.itemsize > 2:
                base |= {"pairs": False, "chunk": 0}
            made = Config(**base)
            key = (*tile, made.pairs, made.chunk, made.split, *sorted(made.options.items()))
            if made != shipped:
                found.setdefault(key, made)
    return list(found.values())
