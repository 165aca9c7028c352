"""The graphics cards of /sys/class/drm: every vendor's, with what the amdgpu driver tells of its own.

A card is a PCI function. The further nodes that a partitioned card has (amdgpu_xcp) stand here as cards without a PCI
identity and are passed over: the partitions themselves are nodes of the KFD topology.
Source of the files' meaning: Linux drivers/gpu/drm/amd/amdgpu/amdgpu_pm.c and its kernel-doc.
"""

from __future__ import annotations

import re

from fa_doctor.facts.gpus.pci_bus import parse_modalias, parse_uevent
from fa_doctor.facts.gpus.reading import (
    AMD,
    Reading,
    hexadecimal,
    location_of_address,
    lookup_text,
    normal_address,
    plain_unique_id,
)
from fa_doctor.host import Host, Problem

__all__ = ["CARDS", "read_drm"]

CARDS = "/sys/class/drm"


def read_drm(host: Host) -> tuple[Reading, ...] | None:
    """The cards in the order of their numbers; None if the machine's DRM folder was not recorded."""
    listing = host.list(CARDS)
    if listing.problem is not None:
        return None if listing.problem is Problem.UNRECORDED else ()
    numbers = sorted(int(name[4:]) for name in listing.names if re.fullmatch(r"card[0-9]{1,5}", name))
    cards = (_card(host, number) for number in numbers)
    return tuple(card for card in cards if card is not None)


def _card(host: Host, number: int) -> Reading | None:
    folder = f"{CARDS}/card{number}/device"
    events = parse_uevent(host.read(f"{folder}/uevent", limit=1 << 14).text or "")
    vendor, device = _identity(host, folder, events)
    if vendor is None:
        return None
    address = normal_address(events.get("PCI_SLOT_NAME")) or normal_address(
        (host.real_path(folder) or "").split("/")[-1]
    )
    pci_class = hexadecimal(events.get("PCI_CLASS")) or hexadecimal(host.read_line(f"{folder}/class"))
    reading = Reading(
        source=folder,
        vendor_id=vendor,
        device_id=device,
        pci=address,
        location=location_of_address(address) if address else None,
        card_index=number,
        kernel_driver=events.get("DRIVER"),
        pci_class=pci_class,
    )
    return _with_amdgpu_files(host, folder, reading) if vendor == AMD else reading


def _identity(host: Host, folder: str, events: dict[str, str]) -> tuple[int | None, int | None]:
    """Vendor and device id: from uevent, else from the files of their own, else from modalias."""
    vendor, _, device = events.get("PCI_ID", "").partition(":")
    ids = hexadecimal(vendor), hexadecimal(device)
    if None in ids:
        ids = (
            ids[0] if ids[0] is not None else hexadecimal(host.read_line(f"{folder}/vendor")),
            ids[1] if ids[1] is not None else hexadecimal(host.read_line(f"{folder}/device")),
        )
    if None in ids:
        alias = parse_modalias(events.get("MODALIAS", "") or host.read_line(f"{folder}/modalias") or "")
        if alias:
            ids = alias[0], alias[1]
    return ids


def _with_amdgpu_files(host: Host, folder: str, card: Reading) -> Reading:
    import dataclasses

    def number(name: str) -> int | None:
        text = host.read_line(f"{folder}/{name}")
        return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None

    minors = [int(name[7:]) for name in host.list(f"{folder}/drm").names if re.fullmatch(r"renderD[0-9]{1,5}", name)]
    return dataclasses.replace(
        card,
        revision=hexadecimal(host.read_line(f"{folder}/revision")),
        name=lookup_text(host.read_line(f"{folder}/product_name")),
        unique_id=plain_unique_id(host.read_line(f"{folder}/unique_id")),
        vram_bytes=number("mem_info_vram_total"),
        gtt_bytes=number("mem_info_gtt_total"),
        partition=lookup_text(host.read_line(f"{folder}/current_compute_partition")),
        memory_partition=lookup_text(host.read_line(f"{folder}/current_memory_partition")),
        render_minor=min(minors) if minors else None,
        vbios=lookup_text(host.read_line(f"{folder}/vbios_version")),
    )
