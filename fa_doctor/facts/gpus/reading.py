"""What one source says of one device, and how the sources write PCI addresses and numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = [
    "AMD",
    "Reading",
    "address_of_location",
    "hexadecimal",
    "location_of_address",
    "lookup_text",
    "normal_address",
    "plain_unique_id",
    "rows_of_csv",
    "size_in_bytes",
]

AMD = 0x1002  # the PCI vendor id of AMD's graphics

_ADDRESS = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE)
_NOTHING = {"", "n/a", "na", "none", "unknown", "not supported", "-"}
_UNITS = {"b": 1, "kb": 1 << 10, "kib": 1 << 10, "mb": 1 << 20, "mib": 1 << 20, "gb": 1 << 30, "gib": 1 << 30}


@dataclass(frozen=True, slots=True)
class Reading:
    """One device in one source; None: that source does not say. Bytes, decimal ids, `pci` in full ("0000:03:00.0").

    `gfx` is the target of the silicon, `gfx_reported` what a runtime says, which an override changes. `pool_bytes` is
    the memory pool a runtime hands out, `location` the bus, device and function in one number where a source gives
    no PCI domain (bus << 8 | device << 3 | function).
    """

    source: str
    index: int | None = None  # the source's own number of the device
    gfx: str | None = None
    gfx_reported: str | None = None
    gfx_target_version: int | None = None
    isas: tuple[str, ...] | None = None
    name: str | None = None
    vendor_id: int | None = None
    device_id: int | None = None
    revision: int | None = None
    pci: str | None = None
    location: int | None = None
    unique_id: str | None = None
    wavefront_size: int | None = None
    compute_units: int | None = None
    simd_count: int | None = None
    simd_per_cu: int | None = None
    xcc_count: int | None = None
    vram_bytes: int | None = None
    gtt_bytes: int | None = None
    pool_bytes: int | None = None
    partition: str | None = None
    partition_id: int | None = None  # from 0 on each card
    memory_partition: str | None = None
    integrated: bool | None = None
    render_minor: int | None = None
    card_index: int | None = None
    kfd_node: int | None = None
    kfd_id: int | None = None
    hive_id: int | None = None
    kernel_driver: str | None = None
    pci_class: int | None = None
    vbios: str | None = None
    before_rocm: bool | None = None  # the source names the chip as only software of before ROCm does


def lookup_text(text: str | None) -> str | None:
    """The stripped text, or None where it only says that there is none ("N/A", "NA", "")."""
    stripped = (text or "").strip()
    return None if stripped.lower() in _NOTHING else stripped


def normal_address(text: str | None) -> str | None:
    """A PCI address in full and in lower case: "07:00.0" gives "0000:07:00.0". None if there is none in the text."""
    match = _ADDRESS.search(text or "")
    if not match:
        return None
    domain = int(match[1] or "0", 16)
    return f"{domain:04x}:{match[2]}:{match[3]}.{match[4]}".lower()


def address_of_location(location: int, domain: int = 0) -> str:
    """The PCI address behind KFD's `location_id` or rocminfo's BDFID (Linux amdgpu: bus << 8 | device << 3 | function)."""
    return f"{domain & 0xFFFFFFFF:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}.{location & 7}"


def location_of_address(address: str) -> int | None:
    """The inverse of address_of_location, without the domain."""
    match = _ADDRESS.search(address)
    return int(match[2], 16) << 8 | int(match[3], 16) << 3 | int(match[4]) if match else None


def hexadecimal(text: str | None) -> int | None:
    """A number as sysfs and tools print ids: "0x744c", "744c"; None if it is none."""
    stripped = (text or "").strip().lower().removeprefix("0x")
    return int(stripped, 16) if re.fullmatch(r"[0-9a-f]{1,16}", stripped) else None


def plain_unique_id(text: str | None) -> str | None:
    """A device's unique id as sysfs prints it, 16 hexadecimal digits; None for zero, "GPU-XX" and what is no number."""
    number = hexadecimal((text or "").strip().lower().removeprefix("gpu-"))
    return f"{number:016x}" if number else None


def rows_of_csv(text: str) -> list[dict[str, str]]:
    """The rows of a table whose first line names the columns; none where it cannot be read."""
    import csv

    try:
        rows = list(csv.DictReader(text.replace("\0", "").strip().splitlines()))
    except csv.Error:
        return []
    return [{key: value for key, value in row.items() if isinstance(key, str) and value} for row in rows]


def size_in_bytes(text: str | None, default_unit: str = "mb") -> int | None:
    """A size as tools print it: "64289 MB" (which is MiB, as amd-smi and rocm-smi divide by 1024 twice)."""
    match = re.fullmatch(r"(\d{1,18})(?:\.\d*)?\s*([a-z]{0,3})", (text or "").strip().lower())
    if not match or (match[2] and match[2] not in _UNITS):
        return None
    return int(match[1]) * _UNITS[match[2] or default_unit]
