"""From the readings of all sources to one list of devices.

The best source that lists compute devices gives the list: KFD, else rocminfo, amd-smi, rocm-smi, a profile, else the
cards of DRM or lspci. Every other source is matched to it by KFD node, unique id or PCI address, and fills what the
better ones left open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from fa_doctor.evidence import Evidence
from fa_doctor.facts.gpus.model import Gpu
from fa_doctor.facts.gpus.reading import Reading, address_of_location
from fa_doctor.knowledge.gpus import EARLY_STEPPINGS, architecture, architecture_from_codename
from fa_doctor.knowledge.products import (
    any_name,
    gfx_from_pci,
    is_integrated,
    product_from_name,
    product_name,
    products_from_pci,
)

__all__ = ["card_keys", "match", "merge_device"]

CardKey = tuple[str | None, str | None]

_UNITS_OF_A_DIE = 40  # compute units that a die (XCD) of CDNA3 has in silicon; CDNA4 has fewer
_GENERIC_NAMES = ("AMD Radeon Graphics", "AMD Radeon(TM) Graphics", "Radeon Graphics")


def match(base: Sequence[Reading], others: Sequence[Reading]) -> list[Reading | None]:
    """For each device of `base` the reading of `others` that speaks of it, or of the card it is on.

    Where no reading has an address or id in common with any device and both lists are equally long, they are taken to
    be in the same order.
    """
    tables: list[tuple[Callable[[Reading], Any], dict[Any, Reading | None]]] = []
    for key in _KEYS:
        table: dict[Any, Reading | None] = {}
        for reading in others:
            value = key(reading)
            if value is not None:
                table[value] = None if value in table else reading  # two claim it: it tells nothing
        tables.append((key, table))
    found: list[Reading | None] = []
    for device in base:
        hit = None
        for key, table in tables:
            value = key(device)
            if value is not None and (hit := table.get(value)) is not None:
                break
        found.append(hit)
    if (
        not any(found)
        and len(others) == len(base)
        and all(_compatible(a, b) for a, b in zip(base, others, strict=True))
    ):
        return list(others)
    return found


def _card_location(reading: Reading) -> str | None:
    return reading.pci.rpartition(".")[0] if reading.pci else None


def _bare_card_location(reading: Reading) -> int | None:
    return reading.location >> 3 if reading.location is not None else None


_KEYS: tuple[Callable[[Reading], Any], ...] = (
    lambda reading: reading.kfd_node,
    lambda reading: reading.kfd_id,
    lambda reading: reading.render_minor,
    lambda reading: reading.pci,
    lambda reading: reading.unique_id,
    _card_location,
    lambda reading: reading.location,
    _bare_card_location,
)


def _compatible(one: Reading, other: Reading) -> bool:
    pairs = ((one.device_id, other.device_id), (one.pci, other.pci), (one.unique_id, other.unique_id))
    return all(a is None or b is None or a == b for a, b in pairs)


def card_keys(devices: Sequence[Reading]) -> list[CardKey]:
    """For each device a key that is the same for the partitions of one card: unique id, and PCI slot without function."""
    keys: list[CardKey] = []
    for number, device in enumerate(devices):
        place = _card_location(device) or (str(device.location >> 3) if device.location is not None else None)
        if keys and place is None and device.unique_id is None and device.partition_id:
            keys.append(keys[-1])  # a further partition of the card before it
        else:
            keys.append((device.unique_id, place or (None if device.unique_id else f"index {number}")))
    return keys


def merge_device(index: int, card: int, siblings: int, readings: Sequence[Reading]) -> Gpu:
    """One device from its readings, best first; `siblings` is the number of devices on its card."""
    best = _first_of_each(readings)
    gfx = best["gfx"] or (gfx_from_pci(best["device_id"]) if best["device_id"] is not None else None)
    named = product_from_name(best["name"]) if best["name"] and gfx is None else None
    reported = best["gfx_reported"]
    if gfx is None and named is None and reported is None and best["name"]:
        chip = architecture_from_codename(best["name"])
        gfx = chip.gfx if chip else None
    gfx = gfx or (named.gfx if named else None) or reported
    if reported in EARLY_STEPPINGS.get(gfx or "", ()):
        gfx = reported  # no override: the device id is the same, the silicon an earlier one
    known = architecture(gfx) if gfx else None
    simds = best["simd_per_cu"] * best["compute_units"] if best["simd_per_cu"] and best["compute_units"] else None
    integrated = best["integrated"]
    if integrated is None and gfx is not None:
        integrated = named.integrated if named else is_integrated(gfx, best["device_id"])
    pool = best["pool_bytes"]
    # The card's figures hold for a partition only if the card is not partitioned; an APU's pool is not its carve-out.
    vram = best["vram_bytes"] if siblings == 1 else None
    exact = next((r.vram_bytes for r in readings if r.vram_bytes and not r.source.startswith("amd-smi")), None)
    if siblings == 1 and vram and not exact and pool and not integrated:
        vram = pool  # amd-smi rounds to MiB
    partition = best["partition"] or _partition_from_shape(gfx, best, siblings)
    return Gpu(
        index=index,
        gfx=gfx,
        gfx_in_force=best["gfx_reported"] or gfx,
        name=_name(readings, best["device_id"], best["revision"]),
        family=known.family if known else None,
        wavefront_size=best["wavefront_size"] or (known.wavefront_size if known else None),
        compute_units=best["compute_units"],
        vram_bytes=vram or pool,
        gtt_bytes=best["gtt_bytes"],
        pci=_address(readings, siblings),
        device_id=best["device_id"],
        revision=best["revision"],
        unique_id=best["unique_id"],
        partition=partition,
        memory_partition=best["memory_partition"],
        integrated=integrated,
        render_minor=best["render_minor"],
        kfd_node=best["kfd_node"],
        kfd_id=best["kfd_id"],
        card=card,
        card_index=best["card_index"],
        pool_bytes=pool,
        simd_count=best["simd_count"] or simds,
        xcc_count=best["xcc_count"],
        hive_id=best["hive_id"],
        isas=best["isas"] or (),
        kernel_driver=best["kernel_driver"],
        pci_class=best["pci_class"],
        vbios=best["vbios"],
        evidence=tuple(Evidence(reading.source, _summary(reading)) for reading in readings),
    )


def _first_of_each(readings: Sequence[Reading]) -> dict[str, Any]:
    """For each field the value of the first reading that has one."""
    return {
        name: next((value for reading in readings if (value := getattr(reading, name)) is not None), None)
        for name in _FIELDS
    }


_FIELDS = tuple(field.name for field in fields(Reading))


def _name(readings: Sequence[Reading], device_id: int | None, revision: int | None) -> str | None:
    """The table's name where device id and revision make it sure; else the first that is not a placeholder."""
    # Tools that know no name print a general one, or the device id.
    names = [name for reading in readings if (name := reading.name) and name not in _GENERIC_NAMES and name[:2] != "0x"]
    known = product_name(device_id, revision) if device_id is not None else None
    if known and revision is not None:
        return known
    if names or known:
        return names[0] if names else known
    # The device id alone may not say which of several products it is.
    return any_name(device_id or 0) or next((reading.name for reading in readings if reading.name), None)


def _address(readings: Sequence[Reading], siblings: int) -> str | None:
    """The PCI function of the card. KFD numbers the partitions of a card in the place of the function."""
    for reading in readings:
        if reading.pci:
            return reading.pci.rpartition(".")[0] + ".0" if siblings > 1 else reading.pci
    location = next((reading.location for reading in readings if reading.location is not None), None)
    if location is None:
        return None
    return address_of_location(location & ~7 if siblings > 1 else location)


def _partition_from_shape(gfx: str | None, best: dict[str, Any], siblings: int) -> str | None:
    """The compute partition mode where no file names it: from the devices on the card and the dies of each.

    A card in CPX mode has one device a die (XCC), so a device of one die on a card that can be partitioned is CPX,
    even when some of its siblings are missing. One device with all the compute units or memory of its product is SPX.
    """
    known = architecture(gfx) if gfx else None
    if known is None or not known.compute_partitions:
        return None
    dies = best["xcc_count"]
    if siblings > 1:
        one_die = dies == 1 or (dies is None and 0 < (best["compute_units"] or 0) <= _UNITS_OF_A_DIE)
        return "CPX" if one_die else {2: "DPX", 3: "TPX", 4: "QPX"}.get(siblings)
    if siblings == 1:
        for product in products_from_pci(best["device_id"] or 0):
            all_units = product.compute_units is not None and best["compute_units"] == product.compute_units
            memory = (best["pool_bytes"] or 0) / (1 << 30)
            if all_units or (product.vram_gib is not None and memory > 0.9 * product.vram_gib):
                return "SPX"
    return None


def _summary(reading: Reading) -> str:
    """What a reading said, in a line."""
    parts = [
        reading.gfx or reading.gfx_reported,
        reading.name,
        f"device {reading.device_id:#06x}" if reading.device_id is not None else None,
        reading.pci
        or (
            f"BDFID {reading.location} (no PCI domain is given; 0000 is assumed)"
            if reading.location is not None
            else None
        ),
        f"driver {reading.kernel_driver}" if reading.kernel_driver else None,
    ]
    return ", ".join(part for part in parts if part) or "seen"
