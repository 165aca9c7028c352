"""What `amd-smi` prints: `static` and `list` as text or JSON, and the table it shows without a command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fa_doctor.facts.gpus.reading import (
    Reading,
    hexadecimal,
    location_of_address,
    lookup_text,
    normal_address,
    plain_unique_id,
    rows_of_csv,
    size_in_bytes,
)
from fa_doctor.facts.gpus.rocminfo import without_ansi
from fa_doctor.knowledge.gpus import normalize_gfx

__all__ = ["AmdSmi", "parse_amd_smi"]

_DEPTH_LIMIT = 12  # nesting of the JSON that is followed


@dataclass(frozen=True, slots=True)
class AmdSmi:
    """The GPUs of one output, and the versions that stand in it."""

    gpus: tuple[Reading, ...] = ()
    tool_version: str | None = None
    driver_version: str | None = None
    rocm_version: str | None = None
    platform: str | None = None
    trouble: tuple[str, ...] = ()
    source: str = "amd-smi"
    complete: bool = True  # the GPUs are numbered from 0 without a gap; else somebody asked for some of them (-g 2)


def parse_amd_smi(text: str, source: str = "amd-smi") -> AmdSmi:
    """Reads any of the forms; text that is none of them gives an empty result."""
    text = without_ansi(text)
    if text.lstrip()[:1] in ("[", "{"):
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return AmdSmi()
        records = list(_json_records(document))
        return _from_records(records, source) if records else _from_version_object(document)
    if re.search(r"^GPU:\s*[0-9]", text, re.MULTILINE):
        return _from_records(_text_records(text), source)
    if "CURRENT_PARTITION:" in text:
        return AmdSmi(gpus=tuple(_current_partitions(text, source)), complete=False)
    if re.match(r"\s*gpu,", text):
        return _from_records(rows_of_csv(text), source)
    return _from_table(text, source)


def _text_records(text: str) -> list[dict[str, str]]:
    """The blocks that begin with `GPU: N`, each flattened to "asic.market_name" -> value."""
    records: list[dict[str, str]] = []
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        key, colon, value = line.strip().partition(":")
        if not colon:
            continue
        depth = len(line) - len(line.lstrip())
        key = key.strip().lower().replace(" ", "_")
        if depth == 0:
            path = []
            if key == "gpu":
                records.append({"gpu": value.strip()})
            elif key == "cpu":
                records.append({})  # the processors of an APU stand in blocks of the same kind
            continue
        if not records:
            continue
        while path and path[-1][0] >= depth:
            path.pop()
        if value.strip():
            records[-1].setdefault(".".join([name for _, name in path] + [key]), value.strip())
        else:
            path.append((depth, key))
    return [record for record in records if "gpu" in record]


def _json_records(document: Any) -> Iterator[dict[str, str]]:
    """The objects with a "gpu" number, wherever they stand ([...] or {"gpu_data": [...]}), flattened alike."""
    if isinstance(document, dict):
        if isinstance(document.get("gpu"), int | str):
            yield dict(_flat(document, ""))
            return
        document = [value for value in document.values() if isinstance(value, list)]
        document = [item for part in document for item in part]
    if isinstance(document, list):
        for item in document:
            if isinstance(item, dict) and isinstance(item.get("gpu"), int | str):
                yield dict(_flat(item, ""))


def _from_version_object(document: Any) -> AmdSmi:
    """What `amd-smi version --json` prints: one object that describes no GPU."""
    first = document[0] if isinstance(document, list) and document else document

    def said(key: str) -> str | None:
        value = first.get(key) if isinstance(first, dict) else None
        return lookup_text(value) if isinstance(value, str) else None

    return AmdSmi(
        tool_version=said("version"), rocm_version=said("rocm_version"), driver_version=said("amdgpu_version")
    )


def _flat(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    if depth > _DEPTH_LIMIT:
        return
    if isinstance(value, dict):
        if set(value) == {"value", "unit"}:
            yield path, f"{value['value']} {value['unit']}"
            return
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}".strip(".").lower(), depth + 1)
    elif isinstance(value, str | int | float):
        yield path, str(value)


def _from_records(records: list[dict[str, str]], source: str) -> AmdSmi:
    def any_value(key: str) -> str | None:
        return next((value for record in records if (value := lookup_text(record.get(key)))), None)

    return AmdSmi(
        gpus=tuple(_reading(record, number, source) for number, record in enumerate(records)),
        driver_version=_driver_version(any_value("driver.version") or any_value("driver.driver_version")),
        complete=[record.get("gpu") for record in records] == [str(number) for number in range(len(records))],
    )


def _reading(record: Mapping[str, str], number: int, source: str) -> Reading:
    def first(*keys: str) -> str | None:
        # In the form of a table the columns bear the last part of the name alone.
        names = [*keys, *(key.rpartition(".")[2] for key in keys)]
        return next((value for name in names if (value := lookup_text(record.get(name)))), None)

    def decimal(*keys: str) -> int | None:
        text = first(*keys)
        return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else None

    gpu = record.get("gpu", "?")[:10]
    address = normal_address(first("bus.bdf", "gpu_bdf"))
    gfx = first("asic.target_graphics_version")
    partition = first("partition.accelerator_partition", "partition.compute_partition")
    return Reading(
        source=f"{source}, GPU {gpu}",
        index=int(gpu) if re.fullmatch(r"[0-9]{1,5}", gpu, re.ASCII) else number,
        gfx=normalize_gfx(gfx) if gfx else None,
        name=first("asic.market_name", "board.product_name"),
        vendor_id=hexadecimal(first("asic.vendor_id")),
        device_id=hexadecimal(first("asic.device_id")) or _id_in_uuid(first("uuid", "gpu_uuid")),
        revision=hexadecimal(first("asic.rev_id")),
        pci=address,
        location=location_of_address(address) if address else None,
        unique_id=plain_unique_id(first("asic.asic_serial")) or plain_unique_id(first("hip_uuid")),
        compute_units=decimal("asic.num_compute_units") or _units_of_last_cache(record),
        vram_bytes=size_in_bytes(first("vram.size", "vram.vram_size_mb", "mem_usage.total_vram")),
        gtt_bytes=size_in_bytes(first("mem_usage.total_gtt")),
        partition=partition.partition("/")[0] if partition else None,
        memory_partition=first("partition.memory_partition"),
        kfd_node=decimal("node_id"),
        kfd_id=decimal("kfd_id"),
        render_minor=_number_after("renderD", first("render")),
        card_index=_number_after("card", first("card")),
        vbios=first("vbios.part_number", "ifwi.part_number"),  # the section's name since ROCm 7.1
    )


def _driver_version(text: str | None) -> str | None:
    """The version of the driver; for the kernel's own, the kernel's release.

    For that one amd-smi prints the line of /proc/version with its blanks taken out ("Linuxversion6.8.0-60-generic(bu..."),
    and its table cuts that ("Linuxver"): then nothing is known.
    """
    match = re.match(r"(?:Linuxversion)?([0-9][^\s(]*)", text or "")
    return match[1] if match else None


def _number_after(word: str, text: str | None) -> int | None:
    match = re.fullmatch(rf"{word}([0-9]{{1,5}})", text or "", re.ASCII)
    return int(match[1]) if match else None


def _id_in_uuid(uuid: str | None) -> int | None:
    """The PCI device id, which amd-smi makes a part of a device's UUID: "b5ff74a1-0000-1000-80..." is a 0x74a1.

    Source: amdsmi_uuid_gen in ROCm's amdsmi.
    """
    match = re.match(r"[0-9a-f]{4}([0-9a-f]{4})-0000-1000-8", uuid or "", re.IGNORECASE)
    return int(match[1], 16) if match else None


def _units_of_last_cache(record: Mapping[str, str]) -> int | None:
    """The compute units that share the one level 3 cache: all of the device. Older releases print no other count."""
    for key, value in record.items():
        cache, _, name = key.rpartition(".")
        if name == "cache_level" and value == "3" and record.get(f"{cache}.num_cache_instance") == "1":
            shared = record.get(f"{cache}.max_num_cu_shared", "")
            return int(shared) if re.fullmatch(r"[0-9]{1,5}", shared, re.ASCII) else None
    return None


def _current_partitions(text: str, source: str) -> Iterator[Reading]:
    """The first table of `amd-smi partition`: a row a GPU, "0  NPS1  SPX  0  0", up to the next blank line.

    Releases before 7 leave the accelerator's columns as N/A.
    """
    table = text.partition("CURRENT_PARTITION:")[2].lstrip("\n").split("\n\n")[0]
    for row in re.finditer(r"^\s*([0-9]{1,4})\s+(NPS[0-9]|N/A)\s+([A-Z]PX|N/A)\b", table, re.MULTILINE):
        yield Reading(
            source=f"{source}, GPU {row[1]}",
            index=int(row[1]),
            partition=lookup_text(row[3]),
            memory_partition=lookup_text(row[2]),
        )


def _from_table(text: str, source: str) -> AmdSmi:
    """The boxed table: two rows a GPU, address and name in the first, partition and memory in the second."""
    gpus: list[Reading] = []
    pending: tuple[str, str] | None = None
    for line in text.splitlines():
        row = re.match(r"\|\s*([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])\s+(.*?)\s*\|", line)
        if row:
            pending = row[1].lower(), row[2]
            continue
        detail = re.match(r"\|\s*([0-9]{1,4})\s+(\S+)\s+\S+\s+(\S+)\s*\|(.*)", line)
        if detail and pending:
            memory = re.search(r"[0-9]+/([0-9]{1,12}) MB", detail[4])
            compute, _, memory_mode = (lookup_text(detail[3]) or "").partition("/")
            gpus.append(
                Reading(
                    source=f"{source}, GPU {detail[1]}",
                    index=int(detail[1]),
                    name=lookup_text(pending[1].lstrip(".")),  # a long name is cut at its front
                    pci=normal_address(pending[0]),
                    location=location_of_address(pending[0]),
                    vram_bytes=int(memory[1]) << 20 if memory else None,
                    partition=lookup_text(compute),
                    memory_partition=lookup_text(memory_mode),
                )
            )
            pending = None

    def version(pattern: str) -> str | None:
        match = re.search(pattern, text)
        return lookup_text(match[1]) if match else None

    trouble = [
        line.strip()[:300] for line in text.splitlines() if re.search(r"\berror\b|not loaded", line, re.IGNORECASE)
    ]
    return AmdSmi(
        gpus=tuple(gpus),
        tool_version=version(r"AMD-SMI (\S+)") or version(r"AMDSMI Tool: (\S+)"),
        driver_version=_driver_version(version(r"amdgpu version: (\S+)")),
        rocm_version=version(r"ROCm version: (\S+)"),
        platform=version(r"Platform: ([^|\n]*)"),
        trouble=tuple(trouble[:8]),
    )
