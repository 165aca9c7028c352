"""The compute devices of the kernel's KFD topology (/sys/class/kfd): what the ROCm runtime itself enumerates.

Each GPU, or each partition of one, is a node with a `properties` file of decimal numbers. The files answer at once
even when the GPU hangs, and HSA_OVERRIDE_GFX_VERSION does not change them: they tell the silicon.
Source of the format: Linux drivers/gpu/drm/amd/amdkfd/kfd_topology.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from fa_doctor.facts.gpus.reading import AMD, Reading, address_of_location
from fa_doctor.host import Host, Problem
from fa_doctor.knowledge.gpus import gfx_from_target_version

__all__ = ["NODES", "KfdTopology", "parse_properties", "read_kfd"]

NODES = "/sys/class/kfd/kfd/topology/nodes"

_BANK_LIMIT = 16  # memory banks of a node that are read; real ones have one or two


@dataclass(frozen=True, slots=True)
class KfdTopology:
    """The GPU nodes in the runtime's order. `present`: whether the kernel shows a topology; None: not recorded.

    `withheld` are GPU nodes whose properties this process may not read: the kernel answers EPERM for a GPU that the
    container's device list does not hold. `unreadable` are nodes whose properties gave an error or nothing.
    """

    present: bool | None
    gpus: tuple[Reading, ...] = ()
    cpu_nodes: tuple[int, ...] = ()
    withheld: tuple[int, ...] = ()
    unreadable: tuple[int, ...] = ()


def parse_properties(text: str) -> dict[str, int]:
    """The `name value` lines of a properties file; lines of another form are passed over."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and len(words[1]) <= 20 and words[1].isascii() and words[1].isdigit():
            found[words[0]] = int(words[1])
    return found


def read_kfd(host: Host) -> KfdTopology:
    """Reads the topology; about three small files a node."""
    listing = host.list(NODES)
    if listing.problem is not None:
        return KfdTopology(None if listing.problem is Problem.UNRECORDED else False)
    gpus: list[Reading] = []
    cpu_nodes: list[int] = []
    withheld: list[int] = []
    unreadable: list[int] = []
    for node in sorted(int(name) for name in listing.names if name.isascii() and name.isdigit() and len(name) < 6):
        path = f"{NODES}/{node}/properties"
        found = host.read(path, limit=1 << 16)
        if found.text is None or not (properties := parse_properties(found.text)):
            if found.problem is Problem.DENIED:
                withheld.append(node)
            elif found.problem is not Problem.UNRECORDED:
                unreadable.append(node)
            continue
        if properties.get("cpu_cores_count"):
            cpu_nodes.append(node)
        if properties.get("simd_count"):
            gpus.append(_gpu(host, node, path, properties, len(gpus)))
    return KfdTopology(True, tuple(gpus), tuple(cpu_nodes), tuple(withheld), tuple(unreadable))


def _gpu(host: Host, node: int, path: str, properties: dict[str, int], index: int) -> Reading:
    location, domain = properties.get("location_id"), properties.get("domain", 0)
    vendor = properties.get("vendor_id", AMD)
    gfx_version = properties.get("gfx_target_version") or None
    simds, simds_per_cu = properties["simd_count"], properties.get("simd_per_cu") or None
    unique_id = properties.get("unique_id")
    gpu_id = host.read_line(f"{NODES}/{node}/gpu_id")
    return Reading(
        source=path,
        index=index,
        gfx=gfx_from_target_version(gfx_version) if gfx_version else None,
        gfx_target_version=gfx_version,
        vendor_id=vendor,
        device_id=properties.get("device_id"),
        # Zero is an address only with a domain: a virtual function in a cloud can be 0002:00:00.0.
        pci=address_of_location(location, domain) if location is not None and (location or domain) else None,
        location=location,
        unique_id=f"{unique_id:016x}" if unique_id else None,
        wavefront_size=properties.get("wave_front_size") or None,
        compute_units=simds // simds_per_cu if simds_per_cu else None,
        simd_count=simds,
        simd_per_cu=simds_per_cu,
        xcc_count=properties.get("num_xcc") or None,
        pool_bytes=_pool_bytes(host, node, properties),
        # An APU before about 2022 is one node with processor cores and SIMDs; later ones have two nodes, and only
        # the architecture tells.
        integrated=True if properties.get("cpu_cores_count") else None,
        render_minor=properties.get("drm_render_minor") or None,
        kfd_node=node,
        kfd_id=int(gpu_id) if gpu_id and gpu_id.isascii() and gpu_id.isdigit() and len(gpu_id) < 20 else None,
        hive_id=properties.get("hive_id") or None,
    )


def _pool_bytes(host: Host, node: int, properties: dict[str, int]) -> int | None:
    """The memory that the runtime hands out: the banks of type 1 (visible) and 2 (private), else local_mem_size.

    On an APU this is not the carve-out but what the driver lets it use of system memory.
    """
    total = 0
    for bank in range(min(properties.get("mem_banks_count", 0), _BANK_LIMIT)):
        found = parse_properties(host.read(f"{NODES}/{node}/mem_banks/{bank}/properties", limit=4096).text or "")
        if found.get("heap_type") in (1, 2):
            total += found.get("size_in_bytes", 0)
    return total or properties.get("local_mem_size") or None
