"""What `rocm-smi` prints: its table, the sections of `-a` and the --show options, and their JSON form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fa_doctor.facts.gpus.reading import (
    Reading,
    hexadecimal,
    location_of_address,
    lookup_text,
    normal_address,
    plain_unique_id,
    rows_of_csv,
)
from fa_doctor.facts.gpus.rocminfo import without_ansi
from fa_doctor.knowledge.gpus import normalize_gfx
from fa_doctor.knowledge.products import product_from_name

__all__ = ["RocmSmi", "parse_rocm_smi"]

_PARTITION = r"[A-Z]{2}X|N/A"
_TROUBLE = re.compile(r"\bERROR\b|not initialized|No AMD GPUs specified")
_COMPUTE_MODES = ("SPX", "DPX", "TPX", "QPX", "CPX")


@dataclass(frozen=True, slots=True)
class RocmSmi:
    """The GPUs of one output, the driver version that stands in it, and what went wrong."""

    gpus: tuple[Reading, ...] = ()
    driver_version: str | None = None
    trouble: tuple[str, ...] = ()


def parse_rocm_smi(text: str, source: str = "rocm-smi") -> RocmSmi:
    """Reads any of the forms; text that is none of them gives an empty result."""
    text = without_ansi(text)
    if text.lstrip().startswith("{"):
        return _from_json(text, source)
    if text.lstrip().startswith("device,"):
        return _from_cards({row.pop("device", ""): row for row in rows_of_csv(text)}, source)
    records: dict[int, dict[str, str]] = {}
    for match in re.finditer(r"^GPU\[([0-9]{1,4})\]\s*: ([^:\n]{1,100}?):[ \t]*(.*)$", text, re.MULTILINE):
        records.setdefault(int(match[1]), {}).setdefault(match[2].strip(), match[3].strip())
    gpus = _from_records(records, source) if records else _from_table(text, source)
    version = re.search(r"^Driver version:\s*(\S+)", text, re.MULTILINE)
    trouble = [line.strip()[:300] for line in text.splitlines() if _TROUBLE.search(line)]
    return RocmSmi(gpus, lookup_text(version[1]) if version else None, tuple(trouble[:8]))


def _from_json(text: str, source: str) -> RocmSmi:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return RocmSmi()
    return _from_cards(document, source)


def _from_cards(cards: Mapping[str, Any], source: str) -> RocmSmi:
    """From "card0" and the like to what is said of each; "system" holds the driver's version."""
    records: dict[int, dict[str, str]] = {}
    version = None
    for card, values in cards.items():
        if not isinstance(values, dict):
            continue
        match = re.fullmatch(r"card([0-9]{1,4})", card)
        texts = {str(key): str(value) for key, value in values.items() if isinstance(value, str | int | float)}
        if match:
            records[int(match[1])] = texts
        elif card in ("system", "cardsystem"):
            version = lookup_text(texts.get("Driver version"))
    return RocmSmi(_from_records(records, source), version)


def _from_records(records: Mapping[int, Mapping[str, str]], source: str) -> tuple[Reading, ...]:
    return tuple(_reading(records[number], number, source) for number in sorted(records) if records[number])


def _reading(record: Mapping[str, str], number: int, source: str) -> Reading:
    def first(*keys: str) -> str | None:
        return next((value for key in keys if (value := lookup_text(record.get(key)))), None)

    def decimal(key: str) -> int | None:
        text = first(key) or ""
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else None

    address = normal_address(first("PCI Bus"))
    # "Card model" was the id of the board until ROCm 6.0; where it knew no name, the series was the id of the device.
    names = (first("Card Model"), first("Card series"))
    model = next((text for text in names if text and text.startswith("0x") and text != "0x1002"), None)
    gfx = first("GFX Version")
    return Reading(
        source=f"{source}, GPU[{number}]",
        index=number,
        gfx=normalize_gfx(gfx) if gfx else None,
        name=first("Device Name", "Card Series", "Card series"),
        # "GPU ID" was the name of the PCI device id before ROCm 6.
        device_id=hexadecimal(first("Device ID", "GPU ID") or model),
        revision=hexadecimal(first("Device Rev")),
        pci=address,
        location=location_of_address(address) if address else None,
        unique_id=plain_unique_id(first("Unique ID")),
        vram_bytes=decimal("VRAM Total Memory (B)"),
        gtt_bytes=decimal("GTT Total Memory (B)"),
        partition=first("Compute Partition"),
        memory_partition=first("Memory Partition"),
        kfd_node=decimal("Node ID"),
        kfd_id=decimal("GUID"),
        vbios=first("VBIOS version"),
    )


def _from_table(text: str, source: str) -> tuple[Reading, ...]:
    """The concise table. Rows are `0 [0x74a1 : 0x00] ...` with the name below, or `0 1 0x744c, 47521 ...`."""
    gpus: list[Reading] = []
    rows = [
        re.compile(r"(?P<index>[0-9]{1,4})\s+\[(?P<device>0x[0-9a-fA-F]{1,4}) : (?P<revision>0x[0-9a-fA-F]{1,2})\]"),
        re.compile(
            r"(?P<index>[0-9]{1,4})\s+(?P<node>[0-9]{1,5})\s+(?P<device>0x[0-9a-fA-F]{1,4}|N/A),\s+(?P<guid>[0-9]{1,10})"
        ),
        # Before ROCm 6 the rows named no ids: number, temperature, power.
        re.compile(r"(?P<index>[0-9]{1,4})\s+(?:[0-9.]+c|N/A)\s+(?:[0-9.]+W|N/A)\s"),
    ]
    lines = text.splitlines()
    for place, line in enumerate(map(str.lstrip, lines)):
        match = next((hit for row in rows if (hit := row.match(line))), None)
        if not match:
            continue
        found = match.groupdict()
        modes = re.search(rf"\b(NPS[0-9]|N/A),\s*({_PARTITION})(?:,\s*([0-9]{{1,3}}))?", line)
        below = lines[place + 1].strip() if place + 1 < len(lines) and rows[0].match(line) else ""
        reading = Reading(
            source=f"{source}, Device {found['index']}",
            index=int(found["index"]),
            name=below if below and not below.startswith("=") and len(below) < 80 else None,
            device_id=_of_model(found["device"], below) if rows[0].match(line) else hexadecimal(found.get("device")),
            revision=hexadecimal(found.get("revision")),
            partition_id=int(modes[3]) if modes and modes[3] else None,
            partition=modes[2] if modes and modes[2] in _COMPUTE_MODES else None,
            memory_partition=lookup_text(modes[1]) if modes else None,
            kfd_node=int(found["node"]) if found.get("node") else None,
            kfd_id=int(found["guid"]) if found.get("guid") else None,
        )
        if reading.partition_id and reading.device_id is None and gpus:
            # Of the partitions of a card only the first row says what the card is.
            shared = {name: getattr(gpus[-1], name) for name in ("device_id", "partition", "memory_partition")}
            reading = replace(reading, **shared)
        gpus.append(reading)
    return tuple(gpus)


def _of_model(model: str, name: str) -> int | None:
    """The device id of a row `[model : revision]`, where the model is the board's id, which on OAM cards is the same.

    Below stands the name of the card, or the device id where the tool knew no name.
    """
    if name.startswith("0x"):
        return hexadecimal(name)
    product = product_from_name(name)
    return hexadecimal(model) if product is None or model.lower() in product.pci else None
