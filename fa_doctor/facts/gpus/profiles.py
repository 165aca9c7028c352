"""Tables that other programs left on a recorded machine: a profiler's sysinfo.csv, hwloc's XML, clinfo and bug reports.

Nothing here is ever asked of a live machine; on one that somebody recorded these can be all that there is.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fa_doctor.facts.gpus.others import can_compute
from fa_doctor.facts.gpus.reading import (
    Reading,
    location_of_address,
    lookup_text,
    normal_address,
    plain_unique_id,
    rows_of_csv,
)
from fa_doctor.facts.gpus.rocm_smi import parse_rocm_smi
from fa_doctor.knowledge.gpus import normalize_gfx

__all__ = ["Profile", "parse_clinfo", "parse_lstopo", "parse_sysinfo", "parse_system_info"]

_DEPTH_LIMIT = 10


@dataclass(frozen=True, slots=True)
class Profile:
    """What such a table says. `complete`: it lists every GPU, not one of perhaps several. `others` are display
    controllers and accelerators that are no compute device of AMD's."""

    gpus: tuple[Reading, ...] = ()
    others: tuple[Reading, ...] = ()
    complete: bool = True
    kernel: str | None = None
    distribution: str | None = None
    processor: str | None = None
    rocm_version: str | None = None
    runtime_version: str | None = None
    hip_version: str | None = None
    driver_version: str | None = None
    source: str | None = None


def parse_sysinfo(text: str, source: str = "sysinfo.csv") -> Profile:
    """The one-row table of AMD's profiler (omniperf, rocprof-compute); it describes one GPU and does not count them."""
    rows = rows_of_csv(text)
    if not rows or "gpu_arch" not in rows[0]:
        return Profile()
    row = {key: lookup_text(value) for key, value in rows[0].items()}
    gfx = normalize_gfx(row.get("gpu_arch") or "")
    rocm = re.match(r"[0-9]+(?:\.[0-9]+)*", row.get("rocm_version") or "")
    reading = Reading(
        source=source,
        index=0,
        gfx_reported=gfx,
        name=row.get("gpu_model") or row.get("gpu_series"),
        device_id=_integer(row.get("gpu_chip_id")),
        wavefront_size=_integer(row.get("wave_size")),
        compute_units=_integer(row.get("cu_per_gpu")),
        simd_per_cu=_integer(row.get("simd_per_cu")),
        xcc_count=_integer(row.get("num_xcd")),
        partition=row.get("compute_partition"),
        memory_partition=row.get("memory_partition"),
        vbios=row.get("vbios"),
    )
    return Profile(
        gpus=(reading,) if gfx else (),
        complete=False,
        kernel=row.get("linux_kernel_version"),
        distribution=row.get("linux_distro"),
        processor=row.get("cpu_model"),
        rocm_version=rocm[0] if rocm else None,
        driver_version=row.get("amd_gpu_kernel_version"),
    )


def parse_lstopo(text: str, source: str = "lstopo.xml") -> Profile:
    """hwloc's XML. Read tag by tag with a pattern: an XML parser would expand whatever entities the text declares."""
    gpus: list[Reading] = []
    others: list[Reading] = []
    infos: dict[str, str] = {}
    device: dict[str, str] = {}
    facts: dict[str, str] = {}

    def close() -> None:
        if device and (reading := _lstopo_gpu(device, facts, source)):
            (gpus if can_compute(reading) else others).append(reading)

    for tag in re.finditer(r"<(object|info)\b([^<>]{0,2000})>", text):
        attributes = {key: html.unescape(value) for key, value in re.findall(r"(\w+)=\"([^\"]*)\"", tag[2])}
        if tag[1] == "info":
            name, value = attributes.get("name", ""), attributes.get("value", "").strip()
            infos.setdefault(name, value)
            facts.setdefault(name, value)
        elif attributes.get("type") == "OSDev" and attributes.get("subtype") == "RSMI":
            facts.setdefault("name", attributes.get("name", ""))
        elif attributes.get("type") == "PCIDev":
            close()
            device, facts = attributes, {}
    close()
    # The XML follows the NUMA domains; rsmiN is the number that rocm-smi gives the device.
    gpus.sort(key=lambda gpu: gpu.index if gpu.index is not None else len(gpus))
    return Profile(
        gpus=tuple(gpus),
        others=tuple(others),
        kernel=lookup_text(infos.get("OSRelease")),
        processor=lookup_text(infos.get("CPUModel")),
    )


def _lstopo_gpu(device: Mapping[str, str], facts: Mapping[str, str], source: str) -> Reading | None:
    # Class, ids, ids of the board (absent in old releases) and revision: "0380 [1002:66a1] [1002:0834] 02".
    kind = re.match(
        r"([0-9a-f]{4}) \[([0-9a-f]{4}):([0-9a-f]{4})\](?:.*?\] ([0-9a-f]{2})\b)?",
        device.get("pci_type", ""),
        re.IGNORECASE,
    )
    address = normal_address(device.get("pci_busid"))
    if not kind or not address or kind[1][:2] not in ("03", "12"):
        return None
    vram = _integer(facts.get("RSMIVRAMSize"))  # in KiB
    hive = facts.get("XGMIHiveID", "")
    rsmi = re.fullmatch(r"rsmi([0-9]{1,4})", facts.get("name", ""), re.ASCII)
    return Reading(
        source=f"{source}, {address}",
        index=int(rsmi[1]) if rsmi else None,
        name=lookup_text(facts.get("GPUModel")) or lookup_text(facts.get("PCIDevice")),
        vendor_id=int(kind[2], 16),
        device_id=int(kind[3], 16),
        revision=int(kind[4], 16) if kind[4] else None,
        pci=address,
        location=location_of_address(address),
        unique_id=plain_unique_id(facts.get("AMDUUID")),
        vram_bytes=vram * 1024 if vram else None,
        hive_id=int(hive, 16) if re.fullmatch(r"[0-9a-fA-F]{1,16}", hive) else None,
        pci_class=int(kind[1], 16) << 8,
    )


def parse_clinfo(text: str, source: str = "clinfo") -> Profile:
    """clinfo's JSON. Its unit counts are left out: AMD's OpenCL counts work-group processors on RDNA, Mesa's not."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return Profile()
    found: list[Reading] = []
    for device in _objects(document):
        name = device.get("CL_DEVICE_NAME")
        if not isinstance(name, str) or not re.match(r"gfx[0-9a-f]{3,5}\b", name):
            continue  # of the platforms only AMD's own names the device by its gfx target alone
        device_id, board = device.get("CL_DEVICE_PCIE_ID_AMD"), device.get("CL_DEVICE_BOARD_NAME_AMD")
        # The bus number is printed sign-extended ("0000:ffffffc1:00.0").
        topology = re.sub(r"\bf{6}([0-9a-f]{2})\b", r"\1", str(device.get("CL_DEVICE_TOPOLOGY_AMD", "")))
        found.append(
            Reading(
                source=f"{source}, {name[:40]}",
                index=len(found),
                gfx_reported=normalize_gfx(name),
                name=lookup_text(board) if isinstance(board, str) else None,
                device_id=device_id if isinstance(device_id, int) else None,
                pci=normal_address(topology),
                location=location_of_address(topology),
            )
        )
    return Profile(gpus=tuple(found))


def parse_system_info(text: str, source: str = "system_info.json") -> Profile:
    """The report of a benchmark suite: kernel, versions, and rocm-smi's JSON inside a string."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return Profile()
    if not isinstance(document, dict):
        return Profile()

    def text_of(key: str) -> str | None:
        value = document.get(key)
        return lookup_text(value) if isinstance(value, str) else None

    import dataclasses

    gpus = parse_rocm_smi(text_of("gpu") or "", f"{source}, rocm-smi").gpus
    details = document.get("gpu_details")
    if len(gpus) == 1 and isinstance(details, dict):
        name, kind = details.get("device_name"), details.get("gpu_type")
        gpus = (
            dataclasses.replace(
                gpus[0],
                name=lookup_text(name) if isinstance(name, str) else gpus[0].name,
                integrated=kind == "APU" if isinstance(kind, str) and kind else None,
            ),
        )
    hip = re.search(r"[0-9]+\.[0-9]+\.\S+", text_of("hip_version") or "")
    # What it calls rocm_version is the version of the HSA runtime (1.x), unless it has ROCm's form.
    version = text_of("rocm_version")
    is_runtime = bool(version and re.fullmatch(r"1\.[0-9]+", version))
    return Profile(
        gpus=gpus,
        kernel=text_of("kernel"),
        processor=text_of("cpu"),
        rocm_version=None if is_runtime else version,
        runtime_version=version if is_runtime else None,
        hip_version=hip[0] if hip else None,
        driver_version=text_of("amdgpu_driver"),
    )


def _objects(value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    if depth > _DEPTH_LIMIT:
        return
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _objects(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner, depth + 1)


def _integer(text: str | None) -> int | None:
    match = re.fullmatch(r"([0-9]{1,18})(?:\.0)?", (text or "").strip(), re.ASCII)
    return int(match[1]) if match else None
