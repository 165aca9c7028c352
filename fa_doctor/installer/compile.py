"""Compiles the installed kernels for the target GPUs ahead of time, by the environment's own Triton, without a GPU.

What it makes is a Triton cache inside the environment; the installed flash_attn looks there before it compiles.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa_doctor.installer.children import TAIL, clean_environment, run_child
from fa_doctor.installer.errors import InstallFailed
from fa_doctor.installer.memory import available_bytes

__all__ = ["CACHE", "Compiled", "compile_kernels"]

CACHE = Path("share", "fa-doctor", "triton-cache")  # below the environment; flash_attn/prebuilt.py looks there
DEADLINE_S = 1800.0
BYTES_A_COMPILER = 1536 << 20
FIND_KERNELS = "import importlib.util as u; print(u.find_spec('flash_attn').submodule_search_locations[0])"


@dataclass(frozen=True, slots=True)
class Compiled:
    """What came of one target: kernels in the cache, and the variants that do not compile, with the reason."""

    target: str
    kernels: int
    problems: tuple[str, ...]


def compile_kernels(
    python: Path, environment: Path, final: Path, targets: tuple[str, ...], environ: Mapping[str, str]
) -> tuple[Compiled, ...]:
    """Compiles for each gfx target, in `environment`, which will lie at `final`.

    Raises InstallFailed when nothing at all compiles for one of them.
    """
    child = clean_environment(environ, TRITON_CACHE_DIR=str(environment / CACHE))
    found = run_child([python, "-I", "-B", "-c", FIND_KERNELS], environ=child, deadline_s=60)
    folder = Path(found.output.strip()) / "kernels"
    if found.returncode != 0 or not folder.is_dir():
        raise InstallFailed(f"the installed flash_attn has no kernels: {found.output.strip()[-500:]}")
    workers = _workers()
    library = _hip_library(environment, final)
    with ThreadPoolExecutor(workers) as pool:
        work = [
            _Work([python, "-B", folder, "compile"], {"arch": target, "shims": True, "hip_library": library}, child)
            for target in targets
        ]
        return tuple(_compile(one, workers, pool) for one in work)


def _hip_library(environment: Path, final: Path) -> str | None:
    """Where the HIP library that torch brings will lie: Triton builds that path into what it makes to launch kernels.

    None where torch brings none (a ROCm of the system, ROCm as wheels of its own): Triton then builds anew on the GPU.
    """
    found = next(environment.glob("lib/python*/site-packages/torch/lib/libamdhip64.so"), None)
    return str(final / found.relative_to(environment)) if found else None


@dataclass(frozen=True, slots=True)
class _Work:
    """What a compiling process is told: its command, its request, its environment."""

    command: list[str | Path]
    request: Mapping[str, Any]
    environ: Mapping[str, str]

    @property
    def target(self) -> str:
        return str(self.request["arch"])


def _workers() -> int:
    """How many compilers may run at once: by the processors of this process and by the memory that is free."""
    memory = int((available_bytes() or 0) / BYTES_A_COMPILER)
    return max(1, min(len(os.sched_getaffinity(0)), memory, 16))


def _compile(work: _Work, workers: int, pool: ThreadPoolExecutor) -> Compiled:
    """One target: each worker compiles every n-th variant."""
    target = work.target
    shares = [pool.submit(_share, work, number, workers) for number in range(workers)]
    parts = [share.result() for share in shares]
    kernels = sum(count for count, _ in parts)
    problems = [problem for _, said in parts for problem in said]
    if not kernels:
        raise InstallFailed(f"no kernel compiles for {target}: {problems[0] if problems else 'nothing was compiled'}")
    return Compiled(target, kernels, tuple(problems))


def _share(work: _Work, first: int, step: int) -> tuple[int, list[str]]:
    """Kernels and problems of every `step`-th variant. One on which the compiler dies is passed over by a new process."""
    kernels, problems, target = 0, [], work.target
    while True:
        request = json.dumps({**work.request, "first": first, "step": step})
        outcome = run_child([*work.command, request], environ=work.environ, deadline_s=DEADLINE_S)
        begun, ended = None, False
        for row in _rows(outcome.output):
            if row["event"] == "refused":
                raise InstallFailed(f"the kernels cannot be compiled for {target}: {row['message']}")
            if row["event"] == "begin":
                begun = int(row["number"])
            elif row["event"] == "rows":
                errors = [str(entry["error"]) for entry in row["rows"] if entry.get("error")]
                problems += errors
                kernels += len(row["rows"]) - len(errors)
            elif row["event"] == "end":
                ended = True
        if ended:
            break
        if begun is None or begun < first:
            raise InstallFailed(f"compiling for {target} did not begin: {outcome.output.strip()[-TAIL:]}")
        problems.append(f"the compiler died on variant {begun} (status {outcome.returncode})")
        first = begun + step
    return kernels, problems


def _rows(output: str) -> list[dict[str, Any]]:
    rows = []
    for line in output.splitlines():
        if not line.startswith("{"):
            continue
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "event" in row:
            rows.append(row)
    return rows
