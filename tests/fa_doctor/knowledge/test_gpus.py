"""The table of GPUs against itself, against the recorded machines, and against the facts it was distilled from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa_doctor.knowledge.gpus import (
    architecture,
    architectures,
    gfx_from_target_version,
    normalize_gfx,
    target_version_from_gfx,
    version_key,
)
from fa_doctor.knowledge.products import gfx_from_pci, legacy_from_pci, product_name, products, products_from_pci


@pytest.mark.parametrize(
    ("number", "gfx"),
    [
        (90010, "gfx90a"),
        (90402, "gfx942"),
        (90500, "gfx950"),
        (90012, "gfx90c"),
        (100300, "gfx1030"),
        (110001, "gfx1101"),
        (110501, "gfx1151"),
        (120001, "gfx1201"),
        (0, None),
        (-1, None),
        (91600, None),
    ],
)
def test_target_version_is_decoded(number: int, gfx: str | None) -> None:
    assert gfx_from_target_version(number) == gfx


@given(st.integers(min_value=1, max_value=99), st.integers(0, 15), st.integers(0, 15))
def test_target_version_round_trip(major: int, minor: int, stepping: int) -> None:
    gfx = gfx_from_target_version(major * 10000 + minor * 100 + stepping)
    assert gfx is not None
    assert target_version_from_gfx(gfx) == major * 10000 + minor * 100 + stepping


@given(st.text(max_size=40))
def test_any_text_is_a_gfx_target_or_none(text: str) -> None:
    gfx = normalize_gfx(text)
    assert gfx is None or target_version_from_gfx(gfx) is not None


def test_names_with_features_are_normalized() -> None:
    assert normalize_gfx("gfx90a:sramecc+:xnack-") == "gfx90a"
    assert normalize_gfx("amdgcn-amd-amdhsa--gfx1100") == "gfx1100"
    assert normalize_gfx("gfx10-3-generic") is None


def test_every_row_agrees_with_the_rule_of_names() -> None:
    for row in architectures().values():
        assert gfx_from_target_version(row.gfx_target_version) == row.gfx
        assert row.wavefront_size == (64 if row.gfx_target_version < 100000 else 32)
        assert row.sources


def test_an_override_stays_inside_its_family() -> None:
    for row in architectures().values():
        if row.override:
            target = architecture(row.override.runs_as)
            assert target is not None
            assert target.family == row.family
            major, minor, stepping = (int(part) for part in row.override.value.split("."))
            assert gfx_from_target_version(major * 10000 + minor * 100 + stepping) == target.gfx


def test_aotriton_came_back_behind_its_flag_for_navi_31_in_torch_2_9() -> None:
    navi31 = architectures()["gfx1100"]
    states = [
        navi31.aotriton_state(torch) for torch in ("2.4.1", "2.5.1", "2.6.0+rocm6.2.4", "2.9.1+rocm6.4", "2.10.0")
    ]
    assert states == ["none", "experimental", "official", "experimental", "official"]
    assert architectures()["gfx908"].aotriton_state("2.13.0") == "none"


def test_versions_compare_as_numbers() -> None:
    assert version_key("2.10.0+rocm7.1") == (2, 10, 0)
    assert version_key("2.10.0") > version_key("2.9.1")
    assert version_key("2.8.3.post2") == (2, 8, 3)


def test_device_id_and_revision_name_a_product() -> None:
    assert product_name(0x744C, 0xC8) == "Radeon RX 7900 XTX"
    assert product_name(0x744C, 0xCC) == "Radeon RX 7900 XT"
    assert product_name(0x744C, None) is None
    assert product_name(0x74A1, None) == "Instinct MI300X"
    assert [product.name for product in products_from_pci(0x7550, 0xC0)] == ["Radeon RX 9070 XT"]
    assert legacy_from_pci(0x6818) is not None
    assert legacy_from_pci(0x744C) is None


def test_every_product_has_a_known_architecture() -> None:
    assert {product.gfx for product in products()} <= set(architectures())


def test_device_ids_of_the_recorded_machines_give_their_gfx(shared: Path) -> None:
    checked = 0
    for file in sorted((shared / "machines").glob("*/machine.json")):
        expected = json.loads(file.read_text())["expected"]
        targets, ids = expected.get("gfx_native") or expected.get("gfx"), expected.get("device_ids")
        if not targets or not ids or not expected.get("amd_gpu_count"):
            continue
        for device_id in ids:
            gfx = gfx_from_pci(int(device_id, 16))
            assert gfx in targets, f"{file.parent.name}: {device_id} is {gfx}, recorded are {set(targets)}"
            checked += 1
    assert checked >= 15
