"""What `lspci` prints: plain, -nn, -k, -mm and -vmm: display controllers and accelerators of every vendor."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

from fa_doctor.facts.gpus.reading import AMD, Reading, hexadecimal, location_of_address, normal_address

__all__ = ["parse_lspci"]

_CLASSES = {
    "vga compatible controller": 0x030000,
    "xga compatible controller": 0x030100,
    "3d controller": 0x030200,
    "display controller": 0x038000,
    "processing accelerators": 0x120000,
}
_ACCELERATORS = 0x12
# With -P or -PP the bridges on the way stand before the slot, and the domain before them.
_SLOT = re.compile(
    r"(?:([0-9a-f]{4,8}:)?(?:[0-9a-f]{2}:)?[0-9a-f]{2}\.[0-7]/(?:\S+/)?)?((?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) (.*)",
    re.IGNORECASE,
)
_IDS = re.compile(r"\[([0-9a-f]{4}):([0-9a-f]{4})\]", re.IGNORECASE)
_VENDORS = {
    "advanced micro devices": AMD,
    "amd/ati": AMD,
    "nvidia": 0x10DE,
    "intel": 0x8086,
    "aspeed": 0x1A03,
    "matrox": 0x102B,
    "vmware": 0x15AD,
    "red hat": 0x1AF4,
}


def parse_lspci(text: str, source: str = "lspci") -> tuple[Reading, ...]:
    """Reads any of the forms; lines of other devices and text that is none give nothing."""
    if re.search(r"^Slot:\s", text, re.MULTILINE):
        return _from_records(text, source)
    found: list[Reading] = []
    open_slot = False
    for line in text.splitlines():
        match = _SLOT.match(line)
        if match:
            slot = match[2] if match[2].count(":") == 2 else (match[1] or "") + match[2]
            reading = _from_line(slot, match[3], source)
            open_slot = reading is not None
            if reading is not None:
                found.append(reading)
        elif open_slot and (driver := re.match(r"\s+Kernel driver in use: (\S+)", line)):
            found[-1] = replace(found[-1], kernel_driver=driver[1])
    return tuple(found)


def _from_line(slot: str, rest: str, source: str) -> Reading | None:
    if rest.startswith('"'):
        return _from_quoted(slot, rest, source)
    kind, colon, device = rest.partition(": ")
    pci_class = _class_of(kind)
    if not colon or pci_class is None:
        return None
    if pci_class >> 16 == _ACCELERATORS and re.search(r"\[AMD\](?! nee ATI)|\[1022:", device):
        return None  # an NPU: AMD's processors have another vendor id than its graphics
    revision = re.search(r"\(rev ([0-9a-f]{2})\)", device, re.IGNORECASE)
    ids = list(_IDS.finditer(device))
    # Where the list of names is too old for the chip, lspci prints its id: "... [AMD/ATI] Device 15d8".
    bare = None if ids else re.search(r"(?:\]|\.|Corporation) Device ([0-9a-f]{4})\b", device)
    name = re.sub(
        r"^Advanced Micro Devices, Inc\. (\[AMD(/ATI)?\] )?", "", _IDS.sub("", device.partition(" (rev ")[0]).strip()
    )
    reading = _reading(
        slot, pci_class, device, name, ids[-1].groups() if ids else (), revision[1] if revision else None, source
    )
    return replace(reading, device_id=int(bare[1], 16), name=None) if bare else reading


def _from_quoted(slot: str, rest: str, source: str) -> Reading | None:
    """The -mm form: "class" "vendor" "device" -rNN "subsystem vendor" "subsystem"."""
    try:
        words = shlex.split(rest)
    except ValueError:
        return None
    if len(words) < 3 or (pci_class := _class_of(words[0])) is None:
        return None
    ids = [match[1] for word in words[1:3] if (match := re.search(r"\[([0-9a-f]{4})\]$", word, re.IGNORECASE))]
    if not ids and all(re.fullmatch(r"[0-9a-f]{4}", word, re.IGNORECASE) for word in words[1:3]):
        ids = words[1:3]  # -mm -n prints numbers alone
    revision = next((word[2:] for word in words[3:] if re.fullmatch(r"-r[0-9a-f]{2}", word, re.IGNORECASE)), None)
    name = re.sub(r"\s*\[[0-9a-f]{4}\]", "", words[2], flags=re.IGNORECASE)
    return _reading(slot, pci_class, words[1], name, tuple(ids) if len(ids) == 2 else (), revision, source)


def _from_records(text: str, source: str) -> tuple[Reading, ...]:
    """The -vmm form: blocks of `Key:<tab>value`."""
    found: list[Reading] = []
    for block in re.split(r"\n\s*\n", text):
        values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        pci_class = _class_of(values.get("Class", ""))
        if pci_class is None or not normal_address(values.get("Slot")):
            continue
        pair = tuple(
            match[1]
            for key in ("Vendor", "Device")
            if (match := re.search(r"\[?([0-9a-f]{4})\]?$", values.get(key, ""), re.IGNORECASE))
        )
        name = re.sub(r"\s*\[[0-9a-f]{4}\]$", "", values.get("Device", ""), flags=re.IGNORECASE)
        ids = pair if len(pair) == 2 and "[" in values.get("Device", "") else ()
        reading = _reading(values["Slot"], pci_class, values.get("Vendor", ""), name, ids, values.get("Rev"), source)
        found.append(replace(reading, kernel_driver=values.get("Driver")))
    return tuple(found)


def _class_of(text: str) -> int | None:
    """The PCI class of a description, of "VGA compatible controller [0300]", or of a bare number ("0300")."""
    match = re.search(r"\[?\b(03[0-9a-f]{2}|12[0-9a-f]{2})\]?$", text.strip(), re.IGNORECASE)
    if match:
        return int(match[1], 16) << 8
    return _CLASSES.get(re.sub(r"\s*\[.*", "", text).strip().lower())


def _reading(
    slot: str, pci_class: int, vendor: str, name: str, ids: tuple[str | None, ...], revision: str | None, source: str
) -> Reading:
    address = normal_address(slot)
    vendor_id = hexadecimal(ids[0]) if len(ids) == 2 else None
    if vendor_id is None:
        vendor_id = next((number for word, number in _VENDORS.items() if word in vendor.lower()), None)
    return Reading(
        source=f"{source}, {slot}",
        name=name[:200] or None,
        vendor_id=vendor_id,
        device_id=hexadecimal(ids[1]) if len(ids) == 2 else None,
        revision=hexadecimal(revision),
        pci=address,
        location=location_of_address(slot),
        pci_class=pci_class,
    )
