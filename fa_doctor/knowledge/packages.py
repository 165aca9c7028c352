"""Packages around torch: what they are called, where their extensions lie, which of them run on NVIDIA only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fa_doctor.knowledge.gpus import version_key
from fa_doctor.knowledge.tables import load, sources_of

__all__ = ["Package", "package", "packages"]


@dataclass(frozen=True, slots=True)
class Package:
    """`module` is the folder it installs, `extensions` glob patterns of its compiled files below site-packages.

    `cuda_only_from` is the version from which on the package runs on NVIDIA only ("0": every version), `instead` what
    to use on AMD. `rocm_index`: its ROCm build lies on torch's own index and is pinned as the stack says.
    """

    name: str
    module: str
    extensions: tuple[str, ...]
    cuda_only_from: str | None
    cuda_only_default_index: bool
    rocm_index: bool
    instead: str | None
    sources: tuple[str, ...]

    def is_cuda_only(self, version: str) -> bool:
        """Whether this version of the package has kernels for NVIDIA only, whoever built it."""
        return self.cuda_only_from is not None and version_key(version) >= version_key(self.cuda_only_from)


@lru_cache(maxsize=1)
def packages() -> dict[str, Package]:
    """Every known package by its normalised name."""
    table = load("packages")
    return {
        row["name"]: Package(
            name=row["name"],
            module=row["module"],
            extensions=tuple(row.get("extensions", ())),
            cuda_only_from=row.get("cuda_only_from"),
            cuda_only_default_index=row.get("cuda_only_default_index", False),
            rocm_index=row.get("rocm_index", False),
            instead=row.get("instead"),
            sources=sources_of(table, row["sources"]),
        )
        for row in table["package"]
    }


def package(name: str) -> Package | None:
    """One package by its normalised name; None when it is not in the table."""
    return packages().get(name)
