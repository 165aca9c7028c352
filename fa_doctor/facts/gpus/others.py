"""GPUs that ROCm cannot use: another vendor's, or one of AMD that is too old, has another driver, or has no KFD node."""

from __future__ import annotations

from collections.abc import Iterable

from fa_doctor.evidence import Evidence
from fa_doctor.facts.gpus.model import OtherGpu
from fa_doctor.facts.gpus.reading import AMD, Reading
from fa_doctor.knowledge.products import any_name, gfx_from_pci, legacy_from_pci, product_name

__all__ = ["can_compute", "describe_others"]

_VENDORS = {
    0x10DE: ("NVIDIA", "an NVIDIA GPU: it needs CUDA builds of torch, and ROCm cannot use it"),
    0x8086: ("Intel", "an Intel GPU: ROCm cannot use it"),
    0x1A03: ("ASPEED", "the display of a server's management controller: it computes nothing"),
    0x102B: ("Matrox", "the display of a server's management controller: it computes nothing"),
    0x1AF4: ("Red Hat (virtio)", "the display of a virtual machine: no GPU has been passed through to it here"),
    0x1B36: ("Red Hat (QXL)", "the display of a virtual machine: no GPU has been passed through to it here"),
    0x1234: ("QEMU", "the display of a virtual machine: no GPU has been passed through to it here"),
    0x1013: ("Cirrus", "the display of a virtual machine: no GPU has been passed through to it here"),
    0x15AD: ("VMware", "the display of a virtual machine: no GPU has been passed through to it here"),
    0x80EE: ("VirtualBox", "the display of a virtual machine: no GPU has been passed through to it here"),
    0x1414: ("Microsoft", "the display of a virtual machine on Hyper-V: no GPU has been passed through to it here"),
}


def can_compute(reading: Reading) -> bool:
    """Whether a graphics card should be a compute device: AMD's, on amdgpu (or nothing said), and no chip that the
    kernel's compute driver leaves out."""
    legacy = legacy_from_pci(reading.device_id) if reading.device_id is not None else None
    known = legacy is None or legacy.compute_node
    return reading.vendor_id == AMD and reading.kernel_driver in (None, "amdgpu") and known


def describe_others(readings: Iterable[Reading], taken: set[str]) -> tuple[OtherGpu, ...]:
    """The readings whose PCI slot is not in `taken` (slots of compute devices), one for each slot, best source first."""
    found: dict[str, OtherGpu] = {}
    for reading in readings:
        slot = reading.pci.rpartition(".")[0] if reading.pci else reading.source
        if slot in taken or reading.vendor_id is None:
            continue
        known = found.get(slot)
        if known is None:
            found[slot] = _describe(reading)
        elif known.name is None and reading.name:
            found[slot] = _describe(reading, known.driver)
    return tuple(found.values())


def _describe(reading: Reading, driver: str | None = None) -> OtherGpu:
    driver = reading.kernel_driver or driver
    if reading.vendor_id == AMD:
        vendor, why = "AMD", _why_unusable(reading, driver)
        name = reading.name
        if name is None and reading.device_id:
            name = product_name(reading.device_id, reading.revision) or any_name(reading.device_id)
    else:
        unknown = f"vendor {reading.vendor_id or 0:#06x}"
        vendor, why = _VENDORS.get(reading.vendor_id or 0, (unknown, "not an AMD GPU: ROCm cannot use it"))
        name = reading.name
    ids = f"PCI id {reading.vendor_id or 0:04x}:{reading.device_id or 0:04x}"
    text = f"{ids}, driver {driver}" if driver else f"{ids}, no kernel driver named"
    return OtherGpu(
        vendor=vendor,
        name=name,
        pci=reading.pci,
        driver=driver,
        why=why,
        vendor_id=reading.vendor_id,
        device_id=reading.device_id,
        evidence=(Evidence(reading.source, text),),
    )


def _why_unusable(reading: Reading, driver: str | None) -> str:
    legacy = legacy_from_pci(reading.device_id) if reading.device_id is not None else None
    if legacy is not None or driver == "radeon" or reading.before_rocm:  # that driver knows no chip of after 2014
        chip = "an AMD GPU"
        if legacy is not None:
            chip = f"{legacy.codename} ({', '.join(part for part in (legacy.generation, legacy.gfx) if part)})"
        on = " on the old radeon driver, which has no compute interface" if driver == "radeon" else ""
        return f"{chip}{on}: too old for any current ROCm"
    gfx = gfx_from_pci(reading.device_id) if reading.device_id is not None else None
    what = f"an AMD GPU ({gfx})" if gfx else "an AMD GPU"
    if driver == "amdgpu":
        return f"{what} that amdgpu drives, but the kernel made no compute node of it: its log says why"
    if driver == "vfio-pci":
        return f"{what} that is handed on to a virtual machine (vfio-pci): this system cannot use it"
    if driver:
        return f"{what} on the driver {driver}: ROCm needs amdgpu"
    return f"{what} that no kernel driver has taken: amdgpu is not loaded, or refused it"
