"""The container that this process runs in, if it does, and what it was given."""

from __future__ import annotations

from dataclasses import dataclass

from fa_doctor.evidence import Evidence

__all__ = ["Container"]


@dataclass(frozen=True, slots=True)
class Container:
    """`runtime`: "docker", "podman", "kubernetes", "apptainer", "lxc", or None. Limits in bytes; None: none or unknown."""

    inside: bool | None
    runtime: str | None = None
    rootless: bool | None = None
    seccomp: str | None = None  # "disabled", "strict", "filter", from /proc/self/status
    shm_bytes: int | None = None
    memory_limit_bytes: int | None = None
    cpu_limit: float | None = None  # in cores
    evidence: tuple[Evidence, ...] = ()
