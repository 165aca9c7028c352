"""Display and accelerator functions on the PCI bus (/sys/bus/pci), whatever driver they have, or none."""

from __future__ import annotations

import re

from fa_doctor.facts.gpus.reading import Reading, location_of_address, normal_address
from fa_doctor.host import Host

__all__ = ["DEVICES", "ModuleAlias", "is_gpu_class", "parse_modalias", "parse_uevent", "read_pci_bus"]

DEVICES = "/sys/bus/pci/devices"

_MODALIAS = re.compile(
    r"pci:v([0-9A-F]{8})d([0-9A-F]{8})sv[0-9A-F]{8}sd[0-9A-F]{8}bc([0-9A-F]{2})sc([0-9A-F]{2})i([0-9A-F]{2})",
    re.IGNORECASE,
)

ModuleAlias = tuple[int, int, int]


def parse_modalias(text: str) -> ModuleAlias | None:
    """Vendor id, device id and class (24 bits, as in the file `class`) of a PCI function's modalias."""
    match = _MODALIAS.search(text)
    if not match:
        return None
    return int(match[1], 16), int(match[2], 16), int(match[3] + match[4] + match[5], 16)


def is_gpu_class(pci_class: int) -> bool:
    """Whether a 24-bit PCI class is a display controller (03xxxx) or a processing accelerator (12xxxx)."""
    return pci_class >> 16 in (0x03, 0x12)


def parse_uevent(text: str) -> dict[str, str]:
    """The KEY=value lines of a uevent file."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, sign, value in pairs if sign}


def read_pci_bus(host: Host) -> tuple[Reading, ...] | None:
    """Every display controller and accelerator on the bus, or None if the bus cannot be seen."""
    listing = host.list(DEVICES)
    if listing.problem is not None:
        return None
    found: list[Reading] = []
    for name in listing.names:
        address = normal_address(name)
        alias = parse_modalias(host.read_line(f"{DEVICES}/{name}/modalias") or "") if address else None
        if address is None or alias is None or not is_gpu_class(alias[2]):
            continue
        events = parse_uevent(host.read(f"{DEVICES}/{name}/uevent", limit=1 << 14).text or "")
        found.append(
            Reading(
                source=f"{DEVICES}/{name}",
                vendor_id=alias[0],
                device_id=alias[1],
                pci=address,
                location=location_of_address(address),
                kernel_driver=events.get("DRIVER"),
                pci_class=alias[2],
            )
        )
    return tuple(found)
