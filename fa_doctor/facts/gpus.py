"""The GPUs of a machine: compute devices as HIP would enumerate them, and the cards that carry them."""

from __future__ import annotations

from dataclasses import dataclass

from fa_doctor.evidence import Evidence

__all__ = ["Gpu", "Gpus", "OtherGpu", "Tool"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One compute device (a whole card, or one partition of it). None: not known.

    `gfx` is the target of the silicon; `gfx_in_force` what the runtime reports, which an override changes.
    `vram_bytes` is the card's own memory or an APU's carve-out, `gtt_bytes` the system memory it can use besides.
    `hidden_by` names the variable that hides the device from this process; `visible` is None if that is not known.
    """

    index: int
    gfx: str | None = None
    gfx_in_force: str | None = None
    name: str | None = None
    family: str | None = None
    wavefront_size: int | None = None
    compute_units: int | None = None
    vram_bytes: int | None = None
    gtt_bytes: int | None = None
    pci: str | None = None  # "0000:03:00.0"
    device_id: int | None = None
    revision: int | None = None
    unique_id: str | None = None  # hexadecimal, as in sysfs
    partition: str | None = None  # compute partition mode: "SPX", "CPX", ...
    memory_partition: str | None = None  # "NPS1", "NPS4"
    integrated: bool | None = None
    visible: bool | None = None
    hidden_by: str | None = None
    render_minor: int | None = None
    kfd_node: int | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class OtherGpu:
    """A display or compute device that ROCm cannot use: another vendor's, or an AMD GPU without a KFD node.

    `why` says which of these it is, in a sentence.
    """

    vendor: str  # "NVIDIA", "Intel", "AMD", or the PCI vendor id
    name: str | None
    pci: str | None
    driver: str | None
    why: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """How a ROCm tool answered: "ok", "absent", "failed" (with what it said), "hung", or "not recorded"."""

    name: str
    state: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class Gpus:
    """`devices` in HIP's order; `cards` counts packages (8 MI300X in CPX mode: 8 cards, up to 64 devices).

    Both are None where nothing that was recorded can tell; an empty tuple says that there is none.
    """

    devices: tuple[Gpu, ...] | None
    cards: int | None
    others: tuple[OtherGpu, ...] = ()
    tools: tuple[Tool, ...] = ()
    override: str | None = None  # HSA_OVERRIDE_GFX_VERSION as it is in force, or as the facts show it must have been
    evidence: tuple[Evidence, ...] = ()

    @property
    def known(self) -> tuple[Gpu, ...]:
        """The devices, or none where they are not known."""
        return self.devices or ()

    @property
    def gfx_targets(self) -> tuple[str, ...]:
        """The distinct gfx targets of the discrete devices, or of all devices if there are only integrated ones."""
        discrete = [gpu for gpu in self.known if not gpu.integrated] or list(self.known)
        return tuple(dict.fromkeys(gpu.gfx for gpu in discrete if gpu.gfx))
