"""Ahead-of-time compilation: fills Triton's cache with kernels for a GPU that is not here, and reports what each costs.

Triton's ordinary cache (TRITON_CACHE_DIR) is filled by ordinary calls under a stand-in driver (standin.py), so a later run
with the same Triton on that GPU finds each kernel there.
"""

from __future__ import annotations

import os
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .assembly import occupancy, read_assembly, target_limits
from .standin import Launch, StandIn, standing_in
from .variants import Variant, call

__all__ = ["cache_folder", "cached_files", "compile_variant", "cost_row", "standing_in"]

# Compile-time constants of kernels that belong to a configuration (config.py), as against features of the call.
_CONFIG_PREFIX = "BLOCK_"
_OPTIONS = ("num_warps", "num_stages", "waves_per_eu", "matrix_instr_nonkdim", "kpack", "schedule_hint")


def cache_folder() -> Path:
    """Where Triton keeps compiled kernels: TRITON_CACHE_DIR, else below the home folder."""
    from triton.runtime.cache import get_cache_manager

    return Path(get_cache_manager("00").cache_dir).parent


def cached_files(launch: Launch) -> dict[str, Path]:
    """The files of a kernel in Triton's cache by suffix: "amdgcn", "hsaco", "json", ..."""
    from triton.runtime.cache import get_cache_manager

    name = str(launch.metadata.name)[:150]
    group = get_cache_manager(launch.metadata.hash).get_group(f"{name}.json") or {}
    return {Path(path).suffix[1:]: Path(path) for path in group.values()}


def _config(launch: Launch) -> dict[str, Any]:
    """The configuration that a kernel was compiled with, as it stands in the kernel itself."""
    blocks = {
        name.lower(): value
        for name, value in launch.constants.items()
        if name.startswith(_CONFIG_PREFIX) and isinstance(value, int)
    }
    options = {name: getattr(launch.metadata, name) for name in _OPTIONS if hasattr(launch.metadata, name)}
    return {**blocks, **options}


def cost_row(launch: Launch, arch: str) -> dict[str, Any]:
    """What a compiled kernel costs on `arch`: the fields of a `fa-doctor/kernels/1` row that concern the kernel."""
    files = cached_files(launch)
    metadata = launch.metadata
    lds = int(metadata.shared)
    row: dict[str, Any] = {
        "kernel": launch.function,
        "config": _config(launch),
        "lds_bytes": lds,
        "files": str(files["json"].parent) if "json" in files else None,
    }
    if "amdgcn" not in files:
        return row
    cost = read_assembly(files["amdgcn"].read_text(encoding="utf-8"))
    limits = target_limits(arch)
    row |= {
        "vgprs": cost.vgprs,
        "agprs": cost.agprs,
        "sgprs": cost.sgprs,
        "vgpr_spills": cost.vgpr_spills,
        "sgpr_spills": cost.sgpr_spills,
        "scratch_bytes": cost.scratch_bytes,
        "mfma": cost.mfma,
        "wmma": cost.wmma,
        "code_bytes": cost.code_bytes,
        "occupancy": occupancy(cost, limits, metadata.num_warps, lds) if limits else None,
        "inner_loops": [asdict(loop) for loop in cost.loops],
    }
    if limits and lds > limits.workgroup_lds:
        row["error"] = f"needs {lds} bytes of LDS; a workgroup on {arch} can have {limits.workgroup_lds}"
    return row


_EMPTY = dict.fromkeys(
    ("kernel", "config", "vgprs", "agprs", "sgprs", "vgpr_spills", "sgpr_spills", "scratch_bytes", "lds_bytes",
     "occupancy", "mfma", "wmma", "code_bytes", "inner_loops", "files", "error")
)  # fmt: skip


def error_row(arch: str, variant: Variant, message: str) -> dict[str, Any]:
    """The row of a variant that could not be compiled."""
    return {**_name(arch, variant), **_EMPTY, "error": message}


def _name(arch: str, variant: Variant) -> dict[str, Any]:
    return {
        "arch": arch,
        "pass": variant.kind,
        "head_dim": variant.head_dim,
        "dtype": variant.dtype,
        "features": list(variant.features),
    }


def compile_variant(arch: str, variant: Variant, api: Any, driver: StandIn) -> list[dict[str, Any]]:
    """Compiles the kernels that a call of this variant launches; one row each, or one row with the error."""
    try:
        make = call(variant, api)
        driver.launches.clear()
        make()
    except Exception as error:  # noqa: BLE001 - whatever the compiler raises is the answer for this variant
        if os.environ.get("FA_DOCTOR_TRACEBACK") == "1":
            traceback.print_exc()
        return [error_row(arch, variant, _reason(error))]
    launches = {launch.metadata.hash: launch for launch in driver.launches}
    if not launches:
        return [error_row(arch, variant, "the call launched no kernel")]
    return [{**_name(arch, variant), **_EMPTY, **cost_row(launch, arch)} for launch in launches.values()]


def _reason(error: BaseException) -> str:
    """The first line of an error, from its deepest cause: a CompilationError's own text is the source of the kernel."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
