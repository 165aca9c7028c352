"""Texts that people paste into bug reports besides ROCm's own: clinfo's, the kernel log's, nvidia-smi's."""

from __future__ import annotations

import re

from fa_doctor.facts.gpus.profiles import Profile
from fa_doctor.facts.gpus.reading import (
    AMD,
    Reading,
    address_of_location,
    location_of_address,
    lookup_text,
    normal_address,
)
from fa_doctor.knowledge.gpus import normalize_gfx

__all__ = ["given_to_vfio", "parse_clinfo_text", "parse_dmesg", "parse_nvidia_smi"]

NVIDIA = 0x10DE


def parse_clinfo_text(text: str, source: str = "clinfo") -> Profile:
    """clinfo as text, in the form of ROCm's own ("Name: gfx1100") and of the distributions' ("Device Name  gfx1100").

    Only AMD's OpenCL names a device by its gfx target; what other platforms say of the same device is passed over.
    The same OpenCL of before ROCm names it by its chip ("Spectre"): a GPU that has no gfx target for ROCm.
    """
    found: list[Reading] = []
    older: list[Reading] = []
    block: dict[str, str] = {}

    def close() -> None:
        name = block.get("name", "")
        match = re.fullmatch(r"gfx[0-9a-f]{3,5}(:\S*)?", name)
        amd = re.search(r"\b1002h?$", block.get("vendor", "")) and block.get("type", "").endswith("GPU")
        if not match and not (amd and block.get("topology")):
            return
        place = re.search(r"B#([0-9]{1,3}), D#([0-9]{1,2}), F#([0-7])", block.get("topology", ""))
        location = int(place[1]) << 8 | int(place[2]) << 3 | int(place[3]) if place else None
        address = normal_address(block.get("topology"))
        if not match:
            chip = " ".join(part for part in (block.get("board"), f"({name})") if part)
            address = address_of_location(location) if location is not None else address
            older.append(
                Reading(source=f"{source}, {name[:40]}", name=chip[:80], vendor_id=AMD, pci=address, before_rocm=True)
            )
            return
        found.append(
            Reading(
                source=f"{source}, {name[:40]}",
                index=len(found),
                gfx_reported=normalize_gfx(name),
                name=lookup_text(block.get("board")),
                pci=address,
                location=location if location is not None else location_of_address(address or ""),
            )
        )

    for line in text.splitlines():
        match = re.match(
            r"\s*(Device Type|Vendor ID|Device Name|Name|Board name|Device Board Name \(AMD\)|Device Topology(?: \(AMD\))?)\s*(?::|\s{2})\s*(.*\S)",
            line[:500],
        )
        if not match:
            continue
        key, value = match[1], match[2]
        if key in ("Device Type", "Device Name") and ("name" in block or key == "Device Name"):
            close()
            block = {}
        if key == "Device Type":
            block["type"] = value
        elif key == "Vendor ID":
            block["vendor"] = value
        if key in ("Device Name", "Name"):
            block["name"] = value
        elif key.startswith(("Board", "Device Board")):
            block["board"] = value
        elif key.startswith("Device Topology"):
            block["topology"] = value
    close()
    # Where the gfx targets are named, the other names are of the same devices on other platforms.
    return Profile(gpus=tuple(found), others=() if found else tuple(older))


def parse_dmesg(text: str, source: str = "dmesg") -> Profile:
    """The GPUs that a kernel log names: those that the compute driver added, with what amdgpu says of them."""
    added = [int(device, 16) for device in re.findall(r"kfd: (?:amdgpu: )?added device 1002:([0-9a-f]{4})", text)]
    seen: dict[int, list[tuple[str | None, int]]] = {}
    for match in re.finditer(
        r"(?:amdgpu ([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]): (?:amdgpu: )?)?initializing kernel modesetting \([^()\n]{0,40} "
        r"0x1002:0x([0-9A-F]{4}) 0x[0-9A-F]{4}:0x[0-9A-F]{4} 0x([0-9A-F]{2})\)",
        text,
    ):
        seen.setdefault(int(match[2], 16), []).append((match[1], int(match[3], 16)))
    # amdgpu counts the compute units of a device right after the compute driver has added it.
    counted = [
        re.search(r"amdgpu (\S+): (?:amdgpu: )?SE [^\n]{1,40}, active_cu_number ([0-9]{1,4})\b", part)
        for part in re.split(r"kfd: (?:amdgpu: )?added device 1002:", text)[1:]
    ]
    gpus = []
    for number, device in enumerate(added):
        address, revision = seen[device].pop(0) if seen.get(device) else (None, None)
        units = counted[number] if number < len(counted) else None
        address = address or (units[1] if units else None)
        gpus.append(
            Reading(
                source=f"{source}, added device 1002:{device:04x}",
                index=number,
                vendor_id=AMD,
                device_id=device,
                revision=revision,
                pci=normal_address(address),
                location=location_of_address(address or ""),
                compute_units=int(units[2]) if units else None,
                kernel_driver="amdgpu",
            )
        )
    kernel = re.search(r"Linux version (\S{1,100})", text)
    module = re.search(r"\bamdgpu version: ([0-9]\S{0,60})", text)  # printed by AMD's package only
    return Profile(gpus=tuple(gpus), kernel=kernel[1] if kernel else None, driver_version=module[1] if module else None)


def given_to_vfio(text: str) -> set[str]:
    """The PCI functions of which a kernel log says that vfio-pci has them: they belong to a virtual machine."""
    found = re.findall(r"\bvfio-pci ([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]): ", text)
    return {address for text_ in found if (address := normal_address(text_))}


def parse_nvidia_smi(text: str, source: str = "nvidia-smi") -> tuple[Reading, ...]:
    """The GPUs of nvidia-smi's table: `|   0  NVIDIA L4   On  |   00000000:00:03.0 Off |`."""
    rows = re.findall(
        r"^\|\s+[0-9]{1,3}\s+(\S.{0,60}?)\s+(?:On|Off|N/A)\s+\|\s+([0-9A-Fa-f]{8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])\s",
        text,
        re.MULTILINE,
    )
    return tuple(
        Reading(source=source, name=name, vendor_id=NVIDIA, pci=normal_address(address), kernel_driver="nvidia")
        for name, address in rows
    )
