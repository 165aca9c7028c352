"""What a compiled AMD kernel costs, read from the assembly text (.amdgcn) that Triton keeps beside the binary.

Needs neither torch nor Triton. The counts of registers, spills and scratch are the compiler's own, from the metadata at the
end of the text; the instruction mix of loops is counted in the text; occupancy is computed from both (see `occupancy`).
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["KernelCost", "Loop", "Target", "instruction_class", "occupancy", "read_assembly", "target_limits"]


@dataclass(frozen=True)
class Target:
    """Limits of a GPU target; units and source stand in configs/targets.json."""

    wave: int
    max_waves: int
    vgprs: int
    granule: int
    unified: bool
    sgprs: int
    simds: int
    lds: int
    workgroup_lds: int
    matrix: str | None


@dataclass(frozen=True)
class Loop:
    """An innermost loop: where it begins, and how many instructions of each class stand in it."""

    label: str
    counts: dict[str, int]

    @property
    def matrix(self) -> int:
        return self.counts.get("matrix", 0)


@dataclass(frozen=True)
class KernelCost:
    """Registers are 32 bit a lane; sizes are bytes; mfma and wmma count the whole text; loops only innermost ones."""

    vgprs: int
    agprs: int
    sgprs: int
    vgpr_spills: int
    sgpr_spills: int
    scratch_bytes: int
    mfma: int
    wmma: int
    code_bytes: int
    compiler_occupancy: int | None
    workgroup_processor_mode: bool
    loops: tuple[Loop, ...]


@functools.cache
def _table() -> dict[str, Any]:
    path = Path(__file__).resolve().parent / "configs" / "targets.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["targets"]
    assert isinstance(rows, dict)
    return rows


def target_limits(arch: str) -> Target | None:
    """The limits of a target such as "gfx942", or None where they are not known."""
    row = _table().get(arch)
    return None if row is None else Target(**row)


_TRANSCENDENTAL = re.compile(r"v_(s_)?(exp|log|rcp|sqrt|rsq|sin|cos)_")


def instruction_class(mnemonic: str) -> str:
    """matrix, lds, memory, scratch, transcendental, vector or scalar."""
    if "mfma" in mnemonic or "wmma" in mnemonic:
        return "matrix"
    if mnemonic.startswith("ds_"):
        return "lds"
    if mnemonic.startswith("scratch_"):
        return "scratch"
    if mnemonic.startswith(("global_", "buffer_", "flat_")):
        return "memory"
    if _TRANSCENDENTAL.match(mnemonic):
        return "transcendental"
    return "vector" if mnemonic.startswith("v_") else "scalar"


_LABEL = re.compile(r"^(\.?L\w+):")
_INSTRUCTION = re.compile(r"^\s+([a-z]\w+)(?:\s+(.*?))?\s*(?:;.*|//.*)?$")


def _instructions(text: str) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """(mnemonic, operands) of each instruction in order, and the position of each label."""
    code: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if line.startswith("\t.section") and ".rodata" in line:
            break  # the kernel descriptor follows the code
        label = _LABEL.match(line)
        if label:
            labels[label[1]] = len(code)
            continue
        found = _INSTRUCTION.match(line)
        if found and not line.lstrip().startswith((".", ";")):
            code.append((found[1], found[2] or ""))
    return code, labels


def _blocks(code: list[tuple[str, str]], labels: dict[str, int]) -> dict[int, tuple[int, list[int]]]:
    """The stretches of code that are entered at their first instruction only: start -> (end, starts of what may follow)."""
    targets: dict[int, int | None] = {}  # by position of the branch
    for position, (mnemonic, operands) in enumerate(code):
        if mnemonic.startswith(("s_cbranch", "s_branch", "s_endpgm")):
            targets[position] = labels.get(operands.split(",")[-1].strip())
    starts = {0, *(position + 1 for position in targets), *(t for t in targets.values() if t is not None)}
    order = sorted(start for start in starts if start < len(code))
    blocks = {}
    for start, end in zip(order, [*order[1:], len(code)], strict=True):
        last, target = code[end - 1][0], targets.get(end - 1)
        follow = [] if target is None else [target]
        if not last.startswith(("s_branch", "s_endpgm")):
            follow.append(end)
        blocks[start] = (end, [block for block in follow if block < len(code)])
    return blocks


def _reached(start: int, edges: dict[int, list[int]], within: set[int]) -> set[int]:
    """The blocks `within` that edges lead to from `start`; itself only where a way leads back to it."""
    found: set[int] = set()
    ahead = [start]
    while ahead:
        new = within.intersection(edges[ahead.pop()]) - found
        found |= new
        ahead += new
    return found


def _cycles(after: dict[int, list[int]], before: dict[int, list[int]], within: set[int]) -> list[set[int]]:
    """The innermost loops among the blocks `within`: sets of blocks that lead to each other, without such a set inside.

    A branch back alone makes no loop: compilers put rare code behind the end of a kernel, from where it jumps back.
    """
    loops: list[set[int]] = []
    seen: set[int] = set()
    for block in sorted(block for block in within if any(source >= block for source in before[block])):
        loop = set() if block in seen else _reached(block, after, within) & _reached(block, before, within)
        seen |= loop
        if loop:
            entries = [b for b in loop if not loop.issuperset(before[b])]
            loops += _cycles(after, before, loop - {min(entries, default=block)}) or [loop]
    return loops


def _innermost_loops(code: list[tuple[str, str]], labels: dict[str, int]) -> tuple[Loop, ...]:
    blocks = _blocks(code, labels)
    after = {start: follow for start, (_, follow) in blocks.items()}
    before: dict[int, list[int]] = {start: [] for start in blocks}
    for start, follow in after.items():
        for block in follow:
            before[block].append(start)
    names = {position: name for name, position in labels.items() if not name.startswith(".Ltmp")}
    loops = []
    for loop in sorted(_cycles(after, before, set(blocks)), key=min):
        counts = Counter(instruction_class(code[i][0]) for start in loop for i in range(start, blocks[start][0]))
        loops.append(Loop(names.get(min(loop), ""), dict(sorted(counts.items()))))
    return tuple(loops)


def read_assembly(text: str) -> KernelCost:
    """The cost of the one kernel in an .amdgcn text. Raises ValueError where the text is none."""

    def number(key: str) -> int:
        found = re.search(rf"^\s*\.{key}:\s*(\d+)", text, re.MULTILINE)
        return int(found[1]) if found else 0

    if not re.search(r"^\s*\.vgpr_count:", text, re.MULTILINE):
        raise ValueError("not the assembly of an AMD kernel: it states no .vgpr_count")
    code, labels = _instructions(text)
    names = Counter(mnemonic for mnemonic, _ in code)
    size = re.search(r"codeLenInByte\s*=\s*(\d+)", text)
    waves = re.search(r"^; Occupancy: (\d+)", text, re.MULTILINE)
    return KernelCost(
        vgprs=number("vgpr_count"),
        agprs=number("agpr_count"),
        sgprs=number("sgpr_count"),
        vgpr_spills=number("vgpr_spill_count"),
        sgpr_spills=number("sgpr_spill_count"),
        scratch_bytes=number("private_segment_fixed_size"),
        mfma=sum(n for name, n in names.items() if "mfma" in name),
        wmma=sum(n for name, n in names.items() if "wmma" in name),
        code_bytes=int(size[1]) if size else 0,
        compiler_occupancy=int(waves[1]) if waves else None,
        workgroup_processor_mode=bool(re.search(r"amdhsa_workgroup_processor_mode\s+1", text)),
        loops=_innermost_loops(code, labels),
    )


def _register_waves(cost: KernelCost, limits: Target) -> int:
    """Waves a SIMD that the register files leave room for."""
    waves = limits.max_waves
    # On targets with one file, vgpr_count already holds the accumulation registers.
    for used in (cost.vgprs,) if limits.unified else (cost.vgprs, cost.agprs):
        if used:
            waves = min(waves, limits.vgprs // (-(-used // limits.granule) * limits.granule))
    if limits.sgprs:
        waves = min(waves, next((n for n, most in ((10, 80), (9, 88), (8, 100)) if cost.sgprs <= most), 7))
    return waves


def occupancy(cost: KernelCost, limits: Target, num_warps: int, lds_bytes: int) -> int:
    """Waves a SIMD that can be in flight at once: the least of what registers, LDS and the hardware's limit allow.

    A workgroup's waves are spread evenly over the SIMDs of a compute unit. In workgroup processor mode (RDNA) two compute
    units with their LDS serve a workgroup together. 0 means that the kernel cannot be launched.
    """
    together = 2 if cost.workgroup_processor_mode else 1
    simds = limits.simds * together
    by_registers = _register_waves(cost, limits)
    if lds_bytes > limits.workgroup_lds or -(-num_warps // simds) > by_registers:
        return 0
    groups = by_registers * simds // num_warps
    if lds_bytes:
        groups = min(groups, limits.lds * together // lds_bytes)
    return min(by_registers, -(-groups * num_warps // simds))
