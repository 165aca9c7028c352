"""The GPUs of a machine: compute devices as HIP would enumerate them, and the cards that carry them."""

from __future__ import annotations

from dataclasses import dataclass, field

from fa_doctor.evidence import Evidence
from fa_doctor.facts.gpus.override import Override

__all__ = ["Gpu", "Gpus", "OtherGpu", "Tool", "ToolVersions"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One compute device (a whole card, or one partition of it). None: not known.

    `gfx` is the target of the silicon; `gfx_in_force` what the runtime reports, which an override changes.
    `vram_bytes` is the card's own memory or an APU's carve-out, `gtt_bytes` the system memory it can use besides.
    Where an APU's carve-out is not known, `vram_bytes` is the pool that the runtime hands out.
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
    kfd_id: int | None = None
    card: int | None = None  # the number of the package it is on, from 0; partitions of one card share it
    card_index: int | None = None  # N of /sys/class/drm/cardN
    pool_bytes: int | None = None  # what the runtime hands out; on an APU that is system memory, not the carve-out
    simd_count: int | None = None
    xcc_count: int | None = None  # compute dies of this device
    hive_id: int | None = None  # devices of one hive are joined by XGMI links
    isas: tuple[str, ...] = ()  # as the runtime lists them: "gfx942:sramecc+:xnack-"
    kernel_driver: str | None = None
    pci_class: int | None = None  # 24 bits, as in sysfs
    vbios: str | None = None
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
    vendor_id: int | None = None
    device_id: int | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def pci_id(self) -> str | None:
        """Vendor and device id as lspci writes them: "10de:2704"."""
        if self.vendor_id is None or self.device_id is None:
            return None
        return f"{self.vendor_id:04x}:{self.device_id:04x}"


@dataclass(frozen=True, slots=True)
class Tool:
    """How a ROCm tool answered: "ok", "absent", "failed" (with what it said), "hung", or "not recorded"."""

    name: str
    state: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class ToolVersions:
    """Versions that stand in the output of tools: what they say, which may be of another moment than the files."""

    rocm: str | None = None
    rocm_source: str | None = None  # the output that names it
    driver: str | None = None
    hsa_runtime: str | None = None
    hip: str | None = None
    amd_smi: str | None = None
    platform: str | None = None  # "Linux Guest (Passthrough)", as amd-smi names it
    module_loaded: bool | None = None  # rocminfo's word on the kernel module
    kernel: str | None = None
    distribution: str | None = None
    system_source: str | None = None  # the output that names kernel or distribution
    processor: str | None = None
    wsl: bool | None = None  # True where rocminfo says that it runs under WSL
    driver_missing: str | None = None  # what amd-smi or rocm-smi said where they found no driver


@dataclass(frozen=True, slots=True)
class Gpus:
    """`devices` in HIP's order; `cards` counts packages of AMD, usable or not (8 MI300X in CPX mode: 8 cards, up to
    64 devices).

    Both are None where nothing that was recorded can tell; an empty tuple says that there is none.
    `withheld` are KFD nodes of GPUs that the kernel does not show to this container, `unreadable` nodes whose files
    gave an error. `rejected` are entries of *_VISIBLE_DEVICES that end their list, with the variable.
    """

    devices: tuple[Gpu, ...] | None
    cards: int | None
    others: tuple[OtherGpu, ...] = ()
    tools: tuple[Tool, ...] = ()
    withheld: tuple[int, ...] = ()
    unreadable: tuple[int, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()
    versions: ToolVersions = field(default_factory=ToolVersions)
    cpu_nodes: tuple[int, ...] = ()
    cpu_agents: int | None = None  # processors as the HSA runtime counts them: one a socket or NUMA domain
    overrides: tuple[Override, ...] = ()  # as the environment holds them; empty too where that is not known
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
