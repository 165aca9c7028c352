"""torch, Triton, flash-attn, aiter and their companions in the target Python, from metadata and files on disk."""

from __future__ import annotations

from dataclasses import dataclass

from fa_doctor.evidence import Evidence
from fa_doctor.facts.python import Distribution

__all__ = ["Companion", "FlashAttention", "Torch", "Triton"]


@dataclass(frozen=True, slots=True)
class Torch:
    """`build`: "rocm", "cuda", "cpu" or None if the files do not tell. `rocm` is the release it was built for ("6.2.4").

    `triton_wanted` is the requirement on a Triton distribution as it stands in torch's metadata, if any.
    `arch_list` are the gfx targets that it has code for; None if that cannot be known without importing it.
    """

    version: str
    folder: str
    build: str | None = None
    rocm: str | None = None
    hip: str | None = None
    cuda: str | None = None
    bundles_rocm: bool | None = None
    triton_wanted: str | None = None
    arch_list: tuple[str, ...] | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Triton:
    """What `import triton` gives, and which distributions own files in `triton/` (more than one is a mixture)."""

    folder: str | None
    version: str | None  # __version__ of the folder, not of a distribution
    owners: tuple[Distribution, ...] = ()
    has_amd_backend: bool | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class FlashAttention:
    """An installed flash_attn. `kind`: "bundled" (fa-doctor's kernels), "ck", "cuda", "triton" (no extension), or None."""

    version: str
    folder: str
    kind: str | None = None
    needs_libraries: tuple[str, ...] = ()  # DT_NEEDED of its extension, if it has one
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Companion:
    """A package that is built against torch (torchvision, torchaudio, xformers, vllm, aiter…). `build` as in Torch."""

    name: str
    version: str
    build: str | None = None
    needs_libraries: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
