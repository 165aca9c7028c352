"""What is known of each AMD GPU architecture, by gfx target, and how gfx targets are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fa_doctor.knowledge.tables import load, sources_of

__all__ = [
    "EARLY_STEPPINGS",
    "Architecture",
    "Override",
    "architecture",
    "architecture_from_codename",
    "architectures",
    "gfx_from_target_version",
    "normalize_gfx",
    "target_version_from_gfx",
    "version_key",
]


# Engineering samples of MI300 have the device ids of the product but a target of their own, which LLVM has dropped.
# Source: llvm/llvm-project#126763.
EARLY_STEPPINGS = {"gfx942": ("gfx940", "gfx941")}


@dataclass(frozen=True, slots=True)
class Override:
    """HSA_OVERRIDE_GFX_VERSION inside the family: `value` makes the GPU run code built for `runs_as`."""

    value: str
    runs_as: str
    needed_before_torch: str | None
    caveat: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """One gfx target. Versions in `aotriton_*` are releases of torch on pytorch.org, LDS is per workgroup in KiB."""

    gfx: str
    codename: str
    family: str
    gfx_target_version: int
    wavefront_size: int
    lds_kib: int | None
    matrix_instructions: str
    matrix_note: str | None
    rocm_status: str
    rocm_since: str | None
    rocm_until: str | None
    rocm_note: str | None
    flash_attn_ck_since: str | None
    flash_attn_ck_note: str | None
    flash_attn_triton_since: str | None
    flash_attn_triton_fails_to: str | None  # the newest Triton whose compiler stops at flash-attn's kernels
    flash_attn_triton_note: str | None
    aotriton_experimental_since: str | None
    aotriton_official_since: str | None
    aotriton_experimental_again: tuple[str, ...]
    aotriton_note: str | None
    override: Override | None
    compute_partitions: tuple[str, ...]
    memory_partitions: tuple[str, ...]
    note: str | None
    confidence: str
    sources: tuple[str, ...]

    def aotriton_state(self, torch_version: str) -> str:
        """How SDPA of this torch treats the GPU: `official`, `experimental` (needs the flag) or `none` (math kernel).

        `torch_version` is a release such as "2.9.1"; a local version behind it is ignored.
        """
        version = version_key(torch_version)
        minor = ".".join(torch_version.split("+")[0].split(".")[:2])
        if minor in self.aotriton_experimental_again:
            return "experimental"
        if self.aotriton_official_since and version >= version_key(self.aotriton_official_since):
            return "official"
        if self.aotriton_experimental_since and version >= version_key(self.aotriton_experimental_since):
            return "experimental"
        return "none"


def architecture_from_codename(name: str) -> Architecture | None:
    """The architecture of a chip that is named as pci.ids does: "Renoir", "Navi 22 [Radeon RX 6700 XT]", "Vega 20 GL [...]".

    None where no codename of the table begins the name, or where other words follow: "Vega 10 Graphics" is a Raven Ridge.
    """
    for known in architectures().values():
        for codename in re.sub(r"\s*\(.*?\)", "", known.codename).split(", "):
            if re.fullmatch(rf"{re.escape(codename)}[0-9]?(?: [A-Z][A-Z-]*)*(?:\s*[\[(/].*)?", name):
                return known
    return None


def version_key(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparing releases: "2.10.0+rocm7.1" gives (2, 10, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-zA-Z]", version)[0]))


def gfx_from_target_version(number: int) -> str | None:
    """The gfx target behind KFD's `gfx_target_version`: major*10000 + minor*100 + stepping, the last two in hex.

    90010 gives gfx90a, 110501 gives gfx1151. None for 0 (a CPU node) and for numbers that name no target.
    Source: Linux drivers/gpu/drm/amd/amdkfd/kfd_device.c.
    """
    major, minor, stepping = number // 10000, number // 100 % 100, number % 100
    if number <= 0 or major > 99 or minor > 15 or stepping > 15:
        return None
    return f"gfx{major}{minor:x}{stepping:x}"


def target_version_from_gfx(gfx: str) -> int | None:
    """The inverse of gfx_from_target_version; None when `gfx` is no gfx target."""
    match = re.fullmatch(r"gfx(\d{1,2})([0-9a-f])([0-9a-f])", gfx)
    if not match:
        return None
    major, minor, stepping = int(match[1]), int(match[2], 16), int(match[3], 16)
    return major * 10000 + minor * 100 + stepping


def normalize_gfx(name: str) -> str | None:
    """The plain gfx target in a name such as "gfx90a:sramecc+:xnack-" or "amdgcn-amd-amdhsa--gfx1100"."""
    match = re.search(r"\bgfx\d{1,2}[0-9a-f]{2}\b", name.strip().lower().replace("--", " "))
    return match.group(0) if match else None


@lru_cache(maxsize=1)
def architectures() -> Mapping[str, Architecture]:
    """Every known architecture by gfx target, oldest family first."""
    table = load("gpus")
    return {row["gfx"]: _architecture(row, table) for row in table["gpu"]}


def architecture(gfx: str) -> Architecture | None:
    """The row of one gfx target; None when it is not known."""
    return architectures().get(gfx)


def _architecture(row: Mapping[str, Any], table: Mapping[str, Any]) -> Architecture:
    rocm, aotriton, override = row["rocm"], row.get("aotriton", {}), row.get("hsa_override")
    return Architecture(
        gfx=row["gfx"],
        codename=row["codename"],
        family=row["family"],
        gfx_target_version=row["gfx_target_version"],
        wavefront_size=row["wavefront_size"],
        lds_kib=row.get("lds_kib"),
        matrix_instructions=row["matrix_instructions"],
        matrix_note=row.get("matrix_note"),
        rocm_status=rocm["status"],
        rocm_since=rocm.get("since"),
        rocm_until=rocm.get("until"),
        rocm_note=rocm.get("note"),
        flash_attn_ck_since=row.get("flash_attn_ck_since"),
        flash_attn_ck_note=row.get("flash_attn_ck_note"),
        flash_attn_triton_since=row.get("flash_attn_triton_since"),
        flash_attn_triton_fails_to=row.get("flash_attn_triton_fails_to"),
        flash_attn_triton_note=row.get("flash_attn_triton_note"),
        aotriton_experimental_since=aotriton.get("experimental"),
        aotriton_official_since=aotriton.get("official"),
        aotriton_experimental_again=tuple(aotriton.get("experimental_again", ())),
        aotriton_note=row.get("aotriton_note"),
        override=_override(override) if override else None,
        compute_partitions=tuple(row.get("compute_partitions", ())),
        memory_partitions=tuple(row.get("memory_partitions", ())),
        note=row.get("note"),
        confidence=row["confidence"],
        sources=sources_of(table, row["sources"]),
    )


def _override(row: Mapping[str, str]) -> Override:
    return Override(row["value"], row["runs_as"], row.get("needed_before_torch"), row["caveat"])
