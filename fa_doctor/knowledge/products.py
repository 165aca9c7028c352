"""What a PCI device id of AMD (vendor 1002) stands for: the product, its gfx target, its memory and peaks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

from fa_doctor.knowledge.tables import load, sources_of

__all__ = [
    "Legacy",
    "Product",
    "any_name",
    "gfx_from_pci",
    "is_integrated",
    "legacy_from_pci",
    "product_from_name",
    "product_name",
    "products",
    "products_from_pci",
]

_NAME_LENGTH = 56  # letters of a name that is put together of several


@dataclass(frozen=True, slots=True)
class Product:
    """One product: memory in GiB, bandwidth in GB/s, peaks in dense TFLOPS; of the whole card (both GCDs)."""

    name: str
    gfx: str
    pci: tuple[str, ...]
    vram_gib: float | None
    compute_units: int | None
    bandwidth_gb_s: float | None
    fp16_tflops: float | None
    bf16_tflops: float | None
    infinity_cache_mib: int | None
    peak_confidence: str | None
    integrated: bool
    note: str | None
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Legacy:
    """A chip older than anything ROCm's present releases run on; `gfx` is None before there were gfx targets.

    `compute_node`: where amdgpu drives it, the kernel makes a compute device of it, and the runtime can list it.
    """

    codename: str
    gfx: str | None
    generation: str
    kernel_driver: str
    compute_node: bool
    sources: tuple[str, ...]


@lru_cache(maxsize=1)
def products() -> tuple[Product, ...]:
    """Every known product."""
    table = load("products")
    return tuple(
        Product(
            name=row["name"],
            gfx=row["gfx"],
            pci=tuple(row.get("pci", ())),
            vram_gib=row.get("vram_gib"),
            compute_units=row.get("compute_units"),
            bandwidth_gb_s=row.get("bandwidth_gb_s"),
            fp16_tflops=row.get("fp16_tflops"),
            bf16_tflops=row.get("bf16_tflops"),
            infinity_cache_mib=row.get("infinity_cache_mib"),
            peak_confidence=row.get("peak_confidence"),
            integrated=row.get("integrated", False),
            note=row.get("note"),
            sources=sources_of(table, row["sources"]),
        )
        for row in table["product"]
    )


def products_from_pci(device_id: int, revision: int | None = None) -> tuple[Product, ...]:
    """The products a PCI device id of vendor 1002 may be; with the revision, those whose name it confirms."""
    key = _pci_key(device_id)
    found = tuple(product for product in products() if key in product.pci)
    name = product_name(device_id, revision) if revision is not None else None
    if name and len(found) > 1:
        exact = tuple(product for product in found if product.name == name)
        return exact or tuple(product for product in found if product.name in name) or found
    return found


def product_name(device_id: int, revision: int | None) -> str | None:
    """The marketing name of a device id and revision (as in amdgpu.ids), else the only one that the id has."""
    key = _pci_key(device_id)
    by_revision = _names(key)
    for name, revisions in by_revision.items():
        if revision is not None and f"{revision:02x}" in revisions:
            return str(name)
    names = [product.name for product in products() if key in product.pci]
    names = names or [name for name, revisions in by_revision.items() if not revisions]
    return names[0] if len(names) == 1 else None


def any_name(device_id: int) -> str | None:
    """Every name that the device id may stand for as one, products with known figures first.

    "Radeon RX 9070 XT / 9070 / 9070 GRE": the words that all begin with are said once. None for an unknown id.
    """
    key = _pci_key(device_id)
    named = _names(key)
    rows = [row.name for row in products() if key in row.pci and not (named and " / " in row.name)]
    names = list(dict.fromkeys([*rows, *named]))
    if not names:
        return None
    words = [name.split() for name in names]
    columns = zip(*(parts[:-1] for parts in words), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    rest = [" ".join(parts[shared:]) for parts in words[1:3]]
    while rest and len(" / ".join([names[0], *rest])) > _NAME_LENGTH:
        rest.pop()
    return " / ".join([names[0], *rest]) + (" / ..." if len(rest) + 1 < len(names) else "")


def _names(key: str) -> Mapping[str, Sequence[str]]:
    """The names of a device id and the revisions, in hexadecimal, that bear them."""
    device = load("pci_names")["device"].get(key)
    if device is None:
        legacy = legacy_from_pci(int(key, 16))
        named: Mapping[str, Sequence[str]] = load("pci_names_legacy")["device"].get(key, {}) if legacy else {}
        return named
    only: Mapping[str, Sequence[str]] = {device["name"]: ()} if "name" in device else device["names"]
    return only


def gfx_from_pci(device_id: int) -> str | None:
    """The gfx target of a PCI device id of vendor 1002 (a chip has one target, whatever the product is called)."""
    key = _pci_key(device_id)
    for product in products():
        if key in product.pci:
            return product.gfx
    device = load("pci_names")["device"].get(key)
    if device:
        return str(device["gfx"])
    legacy = legacy_from_pci(device_id)
    return legacy.gfx if legacy else None


def product_from_name(name: str) -> Product | None:
    """The product that a marketing name contains ("AMD Instinct MI300X OAM"), the longest fit; None if none is known."""
    best: Product | None = None
    text = name.replace("_", " ")
    for product in products():
        short = product.name.removeprefix("Instinct ").removeprefix("Radeon ")
        if (best is None or len(product.name) > len(best.name)) and re.search(
            rf"(?<!\w){re.escape(short)}(?!\w)", text, re.IGNORECASE
        ):
            best = product
    return best


def is_integrated(gfx: str, device_id: int | None = None) -> bool | None:
    """Whether the GPU is part of an APU: by its device id, else by what all products of its gfx target are."""
    legacy = legacy_from_pci(device_id) if device_id is not None else None
    if legacy is not None:
        return legacy.generation.endswith("APU")
    known = products_from_pci(device_id) if device_id is not None else ()
    kinds = {product.integrated for product in known or products() if product.gfx == gfx}
    return kinds.pop() if len(kinds) == 1 else None


def legacy_from_pci(device_id: int) -> Legacy | None:
    """The chip of a PCI device id that is too old for ROCm; None when the id is not of that kind."""
    table = load("products")
    key = _pci_key(device_id)
    for row in table["legacy"]:
        ranges = ((int(first, 16), int(last, 16)) for first, last in row.get("pci_ranges", ()))
        if key in row.get("pci", ()) or any(first <= device_id <= last for first, last in ranges):
            return Legacy(
                codename=row["codename"],
                gfx=row.get("gfx"),
                generation=row["generation"],
                kernel_driver=row["kernel_driver"],
                compute_node=row.get("compute_node", False),
                sources=sources_of(table, row["sources"]),
            )
    return None


def _pci_key(device_id: int) -> str:
    return f"0x{device_id:04x}"
