"""Triton by version: who ships it, where it looks for libamdhip64 and ld.lld, what it needs; ROCm kernel drivers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fa_doctor.knowledge.gpus import version_key
from fa_doctor.knowledge.tables import load, sources_of

__all__ = [
    "DISTRIBUTIONS",
    "Driver",
    "activation_rule",
    "conflict_rule",
    "driver_of",
    "needs",
    "oldest_llvm",
    "python_range",
    "search",
]

# The distributions that write site-packages/triton; at most one may be installed.
DISTRIBUTIONS: tuple[str, ...] = ("triton", "pytorch-triton-rocm", "triton-rocm", "pytorch-triton", "amd-triton")


@dataclass(frozen=True, slots=True)
class Driver:
    """A release of the amdgpu kernel driver and the ROCm user-space releases that it serves by AMD's own rule."""

    rocm: str
    serves_rocm: tuple[str, ...]
    confidence: str
    sources: tuple[str, ...]


def search(what: str, triton_version: str) -> tuple[str, ...]:
    """Where this Triton looks, in order, for `what`: "hip_library" (libamdhip64) or "linker" (ld.lld).

    Each entry is KIND:VALUE: `env` a variable that names the file, `env-list` a colon list of folders, `env-dir` a
    variable's folder and what is below it, `site` a folder in site-packages, `path` a folder, `command` a program to
    ask; or `mapped` (already in the process), `ldconfig`, `in-process` (no file needed). Empty when unknown.
    """
    row = _row("search", triton_version, what=what)
    return tuple(row["order"]) if row else ()


def needs(triton_version: str) -> tuple[str, ...]:
    """What this Triton needs on the machine at run time, in words."""
    version = version_key(triton_version)[:2]
    return tuple(row["needs"] for row in load("triton")["need"] if _covers(row, version))


def activation_rule(triton_version: str) -> str | None:
    """When this Triton takes its AMD driver to be active, in words."""
    row = _row("activation", triton_version)
    return str(row["rule"]) if row else None


def oldest_llvm(triton_version: str) -> int | None:
    """The oldest LLVM release whose ld.lld links the objects of this Triton; None where any does, or none is called."""
    row = _row("linker", triton_version)
    return int(row["oldest_llvm"]) if row else None


def python_range(triton_version: str) -> str | None:
    """The Requires-Python of this Triton's wheels; None where it is not recorded."""
    row = _row("python", triton_version)
    return str(row["requires"]) if row else None


def conflict_rule() -> tuple[str, str]:
    """What happens when two distributions own triton/, and the cure."""
    row = load("triton")["conflict"]
    return row["fact"], row["cure"]


@lru_cache(maxsize=64)
def driver_of(module_version: str) -> Driver | None:
    """The driver release behind /sys/module/amdgpu/version (DKMS); None when it is not in the table."""
    table = load("triton")
    for row in table["driver"]:
        if any(module_version.startswith(prefix) for prefix in row["module_versions"]):
            sources = sources_of(table, row["sources"])
            return Driver(row["rocm"], _served(row, table["driver_rule"]), row["confidence"], sources)
    return None


def _served(row: Mapping[str, Any], rule: Mapping[str, Any]) -> tuple[str, ...]:
    """What a driver's own row lists, and the releases within the reach of AMD's rule, oldest first."""
    releases: list[str] = rule["releases"]
    at = releases.index(row["rocm"])
    near = releases[max(0, at - rule["reach"]) : at + rule["reach"] + 1]
    return tuple(release for release in releases if release in near or release in row.get("serves_rocm", ()))


def _covers(row: Mapping[str, Any], version: tuple[int, ...]) -> bool:
    last = row.get("triton_to")
    return version >= version_key(row["triton_from"]) and (last is None or version <= version_key(last))


def _row(kind: str, triton_version: str, **fields: str) -> Mapping[str, Any] | None:
    version = version_key(triton_version)[:2]
    rows: list[Mapping[str, Any]] = load("triton")[kind]
    for row in rows:
        if _covers(row, version) and all(row[key] == value for key, value in fields.items()):
            return row
    return None
