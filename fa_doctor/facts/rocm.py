"""Every ROCm user space on the machine: trees under /opt, distribution packages, wheels, libraries inside torch."""

from __future__ import annotations

from dataclasses import dataclass

from fa_doctor.evidence import Evidence

__all__ = ["RocmInstall"]


@dataclass(frozen=True, slots=True)
class RocmInstall:
    """`origin`: "opt", "distribution" (files in /usr), "wheel" (the rocm packages from an index) or "torch" (bundled)."""

    version: str | None
    path: str
    origin: str
    evidence: tuple[Evidence, ...] = ()
