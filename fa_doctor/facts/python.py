"""The target Python: the interpreter that is examined and installed into, and its distributions, from metadata."""

from __future__ import annotations

from dataclasses import dataclass

from fa_doctor.evidence import Evidence

__all__ = ["Distribution", "Python"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """An installed distribution, from its dist-info. `name` is normalised (PEP 503); `requires` as in the metadata.

    `owns` lists the top-level names below which its RECORD has files ("triton", "torch", "flash_attn").
    """

    name: str
    version: str
    location: str  # the site-packages folder
    metadata_path: str
    requires: tuple[str, ...] = ()
    owns: tuple[str, ...] = ()
    installer: str | None = None
    direct_url: str | None = None


@dataclass(frozen=True, slots=True)
class Python:
    """`environment`: "venv", "conda", "system" or "other"; `chosen_because` says which rule picked this interpreter."""

    executable: str | None
    version: str | None
    prefix: str | None = None
    environment: str | None = None
    chosen_because: str = ""
    externally_managed: bool | None = None
    include_folder: str | None = None  # where Python.h should be
    has_headers: bool | None = None
    site_packages: tuple[str, ...] = ()
    writable: bool | None = None
    distributions: tuple[Distribution, ...] | None = None
    problem: str | None = None  # what happened when it did not start
    evidence: tuple[Evidence, ...] = ()

    def find(self, *names: str) -> tuple[Distribution, ...]:
        """The installed distributions of these (normalised) names."""
        return tuple(found for found in self.distributions or () if found.name in names)
