"""Which torch, ROCm, Triton and Python fit together, and which of these stacks suits which GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fa_doctor.knowledge.tables import load, sources_of, text_of

__all__ = [
    "Gap",
    "Recommendation",
    "Stack",
    "find_stack",
    "gaps_of",
    "recommendation_for",
    "recommendations",
    "stack_of_torch",
    "stacks",
    "targets_of_wheels",
]


@dataclass(frozen=True, slots=True)
class Stack:
    """One torch wheel on one index, with what it needs. Sizes in GB of one platform wheel set, where known.

    `index` is "pytorch" or "amd" (then `url` is the index), or "default": the index that pip is configured with.
    `archs` are the gfx targets the wheel has code for; empty for a CPU build.
    """

    name: str
    torch: str
    local: str | None
    index: str
    url: str | None
    rocm: str | None
    triton: str
    triton_version: str
    python: tuple[str, ...]
    archs: tuple[str, ...]
    rocm_bundled: bool
    aotriton: str | None
    torchvision: str | None
    torchaudio: str | None
    device_extra: bool
    cpu: bool
    download_gb: float | None
    installed_gb: float | None
    note: str | None
    confidence: str
    sources: tuple[str, ...]

    @property
    def torch_pin(self) -> str:
        """The torch version as its wheel names it, local version included: "2.6.0+rocm6.2.4"."""
        return f"{self.torch}+{self.local}" if self.local else self.torch


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A named choice: the stack that suits some GPUs best, and what to know about it."""

    name: str
    purpose: str
    stack: str
    gfx: tuple[str, ...]
    gfx_partly: tuple[str, ...]
    gfx_not: Mapping[str, str]
    attention: str
    flash_attn: str | None
    environment: Mapping[str, str]
    torch_at_least: str | None
    torch_at_most: str | None
    alternatives: tuple[str, ...]
    advice: str | None
    confidence: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gap:
    """A wheel that names a GPU and still does not work on it: `not_in` are the local versions concerned."""

    gfx: tuple[str, ...]
    not_in: tuple[str, ...]
    fact: str
    confidence: str
    sources: tuple[str, ...]


@lru_cache(maxsize=1)
def stacks() -> Mapping[str, Stack]:
    """Every stack by name, oldest torch first."""
    table = load("stacks")
    return {row["name"]: _stack(row, table) for row in table["stack"]}


@lru_cache(maxsize=1)
def targets_of_wheels() -> frozenset[str]:
    """Every gfx target that some wheel has code for. Only the lists are parsed, a tenth of a second less than all."""
    lists = re.search(r"^\[archs\]\n((?:\w+ = .*\n)+)", text_of("stacks"), re.MULTILINE)
    return frozenset(re.findall(r"gfx[0-9a-f]+", lists[1] if lists else ""))


@lru_cache(maxsize=1)
def recommendations() -> Mapping[str, Recommendation]:
    """Every recommendation by name."""
    table = load("stacks")
    return {
        row["name"]: Recommendation(
            name=row["name"],
            purpose=row["purpose"],
            stack=row["stack"],
            gfx=tuple(row["gfx"]),
            gfx_partly=tuple(row.get("gfx_partly", ())),
            gfx_not=row.get("gfx_not", {}),
            attention=row["attention"],
            flash_attn=row.get("flash_attn"),
            environment=row.get("environment", {}),
            torch_at_least=row.get("torch_at_least"),
            torch_at_most=row.get("torch_at_most"),
            alternatives=tuple(row.get("alternatives", ())),
            advice=row.get("advice"),
            confidence=row["confidence"],
            sources=sources_of(table, row["sources"]),
        )
        for row in table["recommendation"]
    }


def recommendation_for(gfx: str) -> Recommendation | None:
    """The recommendation of a gfx target; None when nothing is known to fit it. `classic` is never the first choice."""
    return next((row for row in recommendations().values() if gfx in row.gfx and row.name != "classic"), None)


def find_stack(name: str) -> tuple[Stack, Recommendation | None] | None:
    """The stack of that name, or the one that a recommendation of that name points to; None when neither exists."""
    known = recommendations().get(name)
    stack = stacks().get(known.stack if known else name)
    return (stack, known) if stack else None


def stack_of_torch(version: str) -> Stack | None:
    """The stack whose wheel carries this torch version, local version included; None when there is none."""
    return next((stack for stack in stacks().values() if stack.torch_pin == version), None)


def gaps_of(gfx: str, stack: Stack) -> tuple[Gap, ...]:
    """Why a stack is known not to work on a GPU although its wheel has code for it."""
    table = load("stacks")
    return tuple(
        Gap(tuple(row["gfx"]), tuple(row["not_in"]), row["fact"], row["confidence"], sources_of(table, row["sources"]))
        for row in table["gap"]
        if gfx in row["gfx"] and stack.local in row["not_in"]
    )


def _stack(row: Mapping[str, Any], table: Mapping[str, Any]) -> Stack:
    return Stack(
        name=row["name"],
        torch=row["torch"],
        local=row.get("local"),
        index=row["index"],
        url=row.get("url"),
        rocm=row.get("rocm"),
        triton=row["triton"],
        triton_version=row["triton_version"],
        python=tuple(row["python"]),
        archs=tuple(table["archs"][row["archs"]]),
        rocm_bundled=row["rocm_bundled"],
        aotriton=row.get("aotriton"),
        torchvision=row.get("torchvision"),
        torchaudio=row.get("torchaudio"),
        device_extra=row.get("device_extra", False),
        cpu=row.get("cpu", False),
        download_gb=row.get("download_gb"),
        installed_gb=row.get("installed_gb"),
        note=row.get("note"),
        confidence=row["confidence"],
        sources=sources_of(table, row["sources"]),
    )
