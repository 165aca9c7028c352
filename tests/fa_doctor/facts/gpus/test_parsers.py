"""The parsers of the tools' outputs, on samples of each form, and on anything at all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fa_doctor.facts.driver import blacklist_lines, groups_by_id
from fa_doctor.facts.gpus.amd_smi import parse_amd_smi
from fa_doctor.facts.gpus.kept_texts import parse_clinfo_text, parse_dmesg, parse_nvidia_smi
from fa_doctor.facts.gpus.kfd import parse_properties
from fa_doctor.facts.gpus.lspci import parse_lspci
from fa_doctor.facts.gpus.override import dotted, overrides_in, parse_override
from fa_doctor.facts.gpus.pci_bus import parse_modalias, parse_uevent
from fa_doctor.facts.gpus.profiles import parse_clinfo, parse_lstopo, parse_sysinfo, parse_system_info
from fa_doctor.facts.gpus.reading import (
    address_of_location,
    hexadecimal,
    location_of_address,
    normal_address,
    plain_unique_id,
    rows_of_csv,
    size_in_bytes,
)
from fa_doctor.facts.gpus.rocm_smi import parse_rocm_smi
from fa_doctor.facts.gpus.rocminfo import parse_agent_enumerator, parse_rocminfo
from fa_doctor.facts.gpus.system_reports import (
    parse_collect_env,
    parse_hipconfig,
    parse_modinfo,
    parse_os_release_text,
    parse_uname,
)
from fa_doctor.facts.health import parse_dpm, parse_link_level, parse_ras
from fa_doctor.facts.kernel_trouble import find_trouble, state_of_stat
from fa_doctor.facts.node import chosen_option

PARSERS: list[Callable[[str], Any]] = [
    parse_rocminfo,
    parse_agent_enumerator,
    parse_amd_smi,
    parse_rocm_smi,
    parse_lspci,
    parse_sysinfo,
    parse_lstopo,
    parse_clinfo,
    parse_system_info,
    parse_properties,
    parse_modalias,
    parse_uevent,
    parse_override,
    normal_address,
    hexadecimal,
    plain_unique_id,
    rows_of_csv,
    size_in_bytes,
    location_of_address,
    blacklist_lines,
    groups_by_id,
    parse_dpm,
    parse_link_level,
    parse_ras,
    state_of_stat,
    chosen_option,
    lambda text: find_trouble(text, "dmesg"),
    lambda text: overrides_in({"HSA_OVERRIDE_GFX_VERSION": text, text: "10.3.0"}),
    dotted,
    parse_clinfo_text,
    parse_dmesg,
    parse_nvidia_smi,
    parse_collect_env,
    parse_uname,
    parse_os_release_text,
    parse_hipconfig,
    parse_modinfo,
]

# Those that are given whole outputs, of any size.
MADE_FROM_TEXTS = [
    parse
    for parse in PARSERS
    if parse.__name__.startswith("parse_") and parse not in (parse_modalias, parse_uevent, parse_override)
]

# Pieces that lead a parser deep into its branches, mixed with anything.
PIECES = st.sampled_from(
    [
        "Agent 1\n", "  Name:  gfx1100\n", "Device Type:  GPU\n", "Size:  64(0x40) KB\n", "Segment: GLOBAL; FLAGS: COARSE GRAINED\n",
        "GPU: 0\n", "    ASIC:\n", "        DEVICE_ID: 0x74a1\n", "{\"card0\": {\"Device ID\": \"0x74a1\"}}", "[{\"gpu\": 0, \"asic\": []}]",
        "GPU[0]\t\t: Device ID: 0x74a1\n", "0  1  0x744c,  47521  45.0°C\n", "| 0000:03:00.0    X | 0 % |\n", "|   0       0       0        SPX/NPS1 | 0 |\n",
        "07:00.0 VGA compatible controller [0300]: AMD [1002:744c] (rev c8)\n", "Slot:\t07:00.0\nClass:\tDisplay controller [0380]\nDevice:\tX [744c]\n",
        "07:00.0 \"VGA compatible controller\" \"AMD\" \"X\" -rc8\n", "<object type=\"PCIDev\" pci_busid=\"0000:d1:00.0\" pci_type=\"0380 [1002:7408]\">", "<info name=\"RSMIVRAMSize\" value=\"1\"/>",
        "gpu_arch,cu_per_gpu\n", "gfx942,304\n", "simd_count 152\n", "ue: 1\nce: 2\n", "0: 2.5GT/s, x1 310Mhz *\n", "amdgpu ring gfx timeout", "ROCk module version 6.1 is NOT loaded\n",
        "kfd kfd: amdgpu: added device 1002:744c\n", "  Device Name    gfx1100\n", "|   0  NVIDIA L4    On  |   00000000:00:03.0 Off |\n",
        "GPU models and configuration: X (gfx1100)\n", "Linux version 6.1.0\n", "PRETTY_NAME=\"X\"\n", "HIP version: 6.2\n", "blacklist amdgpu\n", "render:x:109:a,b\n", "12.3.4", "\x00", "\x1b[37m", "¼", "\n", "9" * 30,
    ]
)  # fmt: skip
ANYTHING = st.one_of(st.text(max_size=300), st.lists(st.one_of(PIECES, st.text(max_size=12)), max_size=25).map("".join))


@given(text=ANYTHING)
@settings(max_examples=150, deadline=None)
def test_no_parser_raises(text: str) -> None:
    for parse in PARSERS:
        parse(text)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["gpu", "card0", "asic", "gpu_data", "vram", "value", "unit", "platforms", "CL_DEVICE_NAME", "size", "gpu_details"]), inner, max_size=4),
    ),
    max_leaves=12,
)  # fmt: skip


@given(document=JSON)
@settings(max_examples=100, deadline=None)
def test_no_parser_raises_on_json_of_another_shape(document: Any) -> None:
    text = json.dumps(document)
    for parse in (parse_amd_smi, parse_rocm_smi, parse_clinfo, parse_system_info):
        parse(text)


@pytest.mark.parametrize("parse", MADE_FROM_TEXTS, ids=lambda parse: parse.__name__)
@pytest.mark.parametrize(
    "text",
    [
        "9" * 1_000_000,
        "[" * 250_000,
        "{" * 250_000,
        "GPU[0]\t\t: " * 60_000,
        "<object " * 120_000,
        '07:00.0 "' * 80_000,
        "Agent 1\n" * 80_000,
        "| 0000:03:00.0 " * 60_000,
        "amdgpu MES " * 60_000,
        ("GPU: 0\n" + " " * 40 + "A:\n") * 15_000,
        " \n" * 300_000,
    ],
    ids=["digits", "lists", "objects", "sections", "tags", "quotes", "agents", "rows", "log", "nested", "blank"],
)
def test_no_parser_is_slow_on_megabytes(parse: Callable[[str], Any], text: str) -> None:
    started = time.process_time()
    parse(text)
    assert time.process_time() - started < 3.0


@given(location=st.integers(0, 0xFFFF), domain=st.integers(0, 0xFFFF))
def test_a_location_and_its_address_are_the_same_place(location: int, domain: int) -> None:
    address = address_of_location(location, domain)
    assert normal_address(address) == address
    assert location_of_address(address) == location
    assert int(address.split(":")[0], 16) == domain


def test_rocminfo_with_and_without_colours_and_blanks() -> None:
    text = "\x1b[37mROCk module version 6.12.12 is loaded\x1b[0m\nRuntime Version: 1.15\n" + AGENT
    plain = "ROCk module version 6.12.12 is loaded\nRuntime Version: 1.15\n" + "\n".join(
        line.rstrip() for line in AGENT.splitlines()
    )
    assert parse_rocminfo(text) == parse_rocminfo(plain)
    found = parse_rocminfo(text)
    assert (found.module_loaded, found.module_version, found.runtime_version) == (True, "6.12.12", "1.15")
    (gpu,) = found.gpus
    assert gpu.gfx_reported == "gfx90a"  # neither gfx90 nor gfx9
    assert gpu.isas == ("gfx90a:sramecc+:xnack-",)
    assert (gpu.device_id, gpu.pool_bytes, gpu.compute_units, gpu.wavefront_size) == (0x740F, 67092480 * 1024, 104, 64)
    assert gpu.unique_id == "1901ead3a2ecd4a6"
    assert gpu.integrated is None  # this release does not print the line


def test_rocminfo_that_finds_nothing() -> None:
    found = parse_rocminfo("ROCk module is NOT loaded, possibly no GPU devices\n")
    assert found.module_loaded is False
    assert not found.listed
    assert found.trouble


AGENT = """\
Agent 1
  Name:                    AMD EPYC 7763 64-Core Processor
  Device Type:             CPU
  Chip ID:                 0(0x0)
Agent 2
  Name:                    gfx90a
  Uuid:                    GPU-1901ead3a2ecd4a6
  Marketing Name:          AMD Instinct MI210
  Device Type:             GPU
  Chip ID:                 29711(0x740f)
  BDFID:                   25344
  Compute Unit:            104
  Wavefront Size:          64(0x40)
  Pool Info:
    Pool 1
      Segment:                 GLOBAL; FLAGS: COARSE GRAINED
      Size:                    67092480(0x3ffc000) KB
    Pool 2
      Segment:                 GROUP
      Size:                    64(0x40) KB
  ISA Info:
    ISA 1
      Name:                    amdgcn-amd-amdhsa--gfx90a:sramecc+:xnack-
"""


def test_amd_smi_as_text_and_as_json_say_the_same() -> None:
    text = """\
GPU: 0
    ASIC:
        MARKET_NAME: AMD Instinct MI300X
        VENDOR_ID: 0x1002
        DEVICE_ID: 0x74a1
        REV_ID: 0x00
        ASIC_SERIAL: 0x8D1457E2C20F59D2
        NUM_COMPUTE_UNITS: 304
        TARGET_GRAPHICS_VERSION: gfx942
    BUS:
        BDF: 0000:26:00.0
    DRIVER:
        NAME: amdgpu
        VERSION: 6.12.12
    PARTITION:
        ACCELERATOR_PARTITION: SPX
        MEMORY_PARTITION: NPS1
    VRAM:
        SIZE: 196592 MB
"""
    record = {
        "gpu": 0,
        "asic": {
            "market_name": "AMD Instinct MI300X",
            "vendor_id": "0x1002",
            "device_id": "0x74a1",
            "rev_id": "0x00",
            "asic_serial": "0x8D1457E2C20F59D2",
            "num_compute_units": 304,
            "target_graphics_version": "gfx942",
        },
        "bus": {"bdf": "0000:26:00.0"},
        "driver": {"name": "amdgpu", "version": "6.12.12"},
        "partition": {"accelerator_partition": "SPX", "memory_partition": "NPS1"},
        "vram": {"size": {"value": 196592, "unit": "MB"}},
    }
    from_text = parse_amd_smi(text)
    assert from_text == parse_amd_smi(json.dumps([record]))
    assert from_text == parse_amd_smi(json.dumps({"gpu_data": [record]}))
    (gpu,) = from_text.gpus
    assert (gpu.gfx, gpu.pci, gpu.partition, gpu.vram_bytes) == ("gfx942", "0000:26:00.0", "SPX", 196592 << 20)
    assert gpu.unique_id == "8d1457e2c20f59d2"
    assert from_text.driver_version == "6.12.12"


@pytest.mark.parametrize(
    "text",
    [
        "03:00.0 VGA compatible controller [0300]: Advanced Micro Devices, Inc. [AMD/ATI] Navi 31 [Radeon RX 7900 XT] [1002:744c] (rev c8)\n\tSubsystem: X [1da2:e471]\n\tKernel driver in use: amdgpu\n",
        '0000:03:00.0 "VGA compatible controller [0300]" "Advanced Micro Devices, Inc. [AMD/ATI] [1002]" "Navi 31 [Radeon RX 7900 XT] [744c]" -rc8 "Sapphire [1da2]" "X [e471]"\n',
        '03:00.0 "0300" "1002" "744c" -rc8 "1da2" "e471"\n',
        "Slot:\t03:00.0\nClass:\tVGA compatible controller [0300]\nVendor:\tAdvanced Micro Devices, Inc. [AMD/ATI] [1002]\nDevice:\tNavi 31 [744c]\nRev:\tc8\nDriver:\tamdgpu\n\nSlot:\t04:00.0\nClass:\tAudio device [0403]\n",
    ],
    ids=["-nnk", "-Dmmnn", "-mmn", "-vmmnnk"],
)
def test_every_form_of_lspci(text: str) -> None:
    (gpu,) = parse_lspci(text)
    assert (gpu.vendor_id, gpu.device_id, gpu.revision) == (0x1002, 0x744C, 0xC8)
    assert (gpu.pci, gpu.pci_class) == ("0000:03:00.0", 0x030000)


def test_lspci_without_ids_tells_the_vendor_by_name() -> None:
    gpus = parse_lspci(
        "07:00.0 Display controller: Advanced Micro Devices, Inc. [AMD/ATI] Vega 20 (rev 02)\n"
        "24:00.0 VGA compatible controller: ASPEED Technology, Inc. ASPEED Graphics Family (rev 41)\n"
        "25:00.0 USB controller: ASMedia Technology Inc. ASM1042A\n"
        "26:00.0 3D controller: NVIDIA Corporation GA100 (rev a1)\n"
        "0001:01:00.0 Processing accelerators: Advanced Micro Devices, Inc. [AMD/ATI] Aqua Vanjaram\n"
    )
    assert [(gpu.vendor_id, gpu.pci) for gpu in gpus] == [
        (0x1002, "0000:07:00.0"),
        (0x1A03, "0000:24:00.0"),
        (0x10DE, "0000:26:00.0"),
        (0x1002, "0001:01:00.0"),
    ]
    assert gpus[0].name == "Vega 20"


def test_rocm_smi_of_every_age() -> None:
    sections = "GPU[0]\t\t: Device Name: \t\tAMD Instinct MI300X\nGPU[0]\t\t: Device ID: \t\t0x74a1\nGPU[0]\t\t: GUID: \t\t29001\nGPU[1]\t\t: GPU ID: 0x74a1\n"
    first, second = parse_rocm_smi(sections).gpus
    assert (first.name, first.device_id, first.kfd_id) == ("AMD Instinct MI300X", 0x74A1, 29001)
    assert second.device_id == 0x74A1
    document = {
        "card0": {"Device ID": "0x744c", "VRAM Total Memory (B)": "25753026560", "PCI Bus": "0000:2D:00.0"},
        "system": {"Driver version": "6.8.5"},
    }
    found = parse_rocm_smi(json.dumps(document))
    assert (found.gpus[0].vram_bytes, found.gpus[0].pci, found.driver_version) == (25753026560, "0000:2d:00.0", "6.8.5")


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("10.3.0", (10, 3, 0)),
        ("9.0.10", (9, 0, 10)),
        ("9.0.a", None),
        ("gfx1030", None),
        ("1030", None),
        ("10.3", None),
        ("10.3.0.0", None),
        ("10.3.0 ", None),
        ("64.0.0", None),
        ("10.256.0", None),
        ("", None),
        ("-1.0.0", None),
    ],
)
def test_an_override_is_read_as_the_runtime_reads_it(value: str, parsed: tuple[int, int, int] | None) -> None:
    assert parse_override(value) == parsed


def test_overrides_of_nodes_stand_behind_the_one_for_all() -> None:
    found = overrides_in({"HSA_OVERRIDE_GFX_VERSION_2": "9.0.10", "HSA_OVERRIDE_GFX_VERSION": "11.0.0", "X": "1"})
    assert [(item.node, item.gfx) for item in found] == [(None, "gfx1100"), (2, "gfx90a")]
    assert dotted("gfx90a") == "9.0.10"
    assert dotted("gfx1030") == "10.3.0"


def test_files_of_health() -> None:
    assert parse_dpm("S: 19Mhz *\n0: 615Mhz\n1: 2500Mhz\n") == (19, 2500)
    assert parse_link_level("0: 2.5GT/s, x1 310Mhz \n1: 16.0GT/s, x16 619Mhz *\n") == (16.0, 16)
    assert parse_ras("ue: 3\nce: 70\n") == (3, 70)
    assert chosen_option("always [madvise] never") == "madvise"
    assert state_of_stat("4242 (a (b) c) D 1 2") == ("a (b) c", "D")


def test_lines_of_the_kernel_log(shared: Path) -> None:
    """The logs of real failures: each that tells of a hang is seen as one, and WSL's chatter is none."""
    for name, kind in (("072-mi300x-axolotl-gpu-hang-reset", "hang"), ("075-gfx900-xformers-ring-timeout", "hang")):
        case = json.loads((shared / "cases" / f"{name}.json").read_text())
        kinds = {line.kind for line in find_trouble(case["text"], "dmesg")}
        assert kinds & {kind, "reset", "hardware"}, name
    text = (shared / "machines/wsl-rx7600-no-adapter/outputs/dmesg-excerpt.txt").read_text()
    assert find_trouble(text, "dmesg") == ()


def test_texts_of_bug_reports(shared: Path) -> None:
    rocm = "  Device Type:  CL_DEVICE_TYPE_GPU\n  Board name:  AMD Radeon RX 7900 XTX\n  Device Topology: PCI[ B#45, D#0, F#0 ]\n  Name:  gfx1100\n"
    (gpu,) = parse_clinfo_text(rocm + "  Device Type:  CL_DEVICE_TYPE_CPU\n  Name:  pthread\n").gpus
    assert (gpu.gfx_reported, gpu.name, gpu.location) == ("gfx1100", "AMD Radeon RX 7900 XTX", 0x2D00)
    plain = "  Device Name                                     gfx90a:sramecc+:xnack-\n  Device Board Name (AMD)                         AMD Instinct MI210\n  Device Topology (AMD)                           PCI-E, 0000:63:00.0\n"
    (gpu,) = parse_clinfo_text("  Device Name    AMD Radeon Graphics (radeonsi, gfx90a)\n" + plain).gpus
    assert (gpu.gfx_reported, gpu.name, gpu.pci) == ("gfx90a", "AMD Instinct MI210", "0000:63:00.0")
    log = (
        "[    3.1] amdgpu 0000:2d:00.0: amdgpu: initializing kernel modesetting (IP DISCOVERY 0x1002:0x744C 0x1EAE:0x7901 0xC8).\n"
        "[    5.0] kfd kfd: amdgpu: added device 1002:744c\n"
    )
    (gpu,) = parse_dmesg(log).gpus
    assert (gpu.device_id, gpu.revision, gpu.pci) == (0x744C, 0xC8, "0000:2d:00.0")
    (gpu,) = parse_nvidia_smi((shared / "machines/nvidia-rtx4080/outputs/nvidia-smi-other-l4.txt").read_text())
    assert gpu.name == "NVIDIA L4"


def test_partitions_in_rocminfo_are_counted_on_their_card() -> None:
    """A MI300X in CPX mode as the runtime lists it: no dies are named, and the function number counts partitions."""
    from fa_doctor.facts.gpus.merge import card_keys, merge_device

    agent = "Agent {0}\n  Name: gfx942\n  Device Type: GPU\n  Chip ID: 29857(0x74a1)\n  Uuid: GPU-e3aa140f9a5f9e31\n  BDFID: {1}\n  Compute Unit: 38\n"
    text = "".join(agent.format(number + 1, 1280 + number) for number in range(8))
    devices = parse_rocminfo(text).gpus
    keys = card_keys(devices)
    assert len(set(keys)) == 1
    merged = [merge_device(number, 0, 8, [device]) for number, device in enumerate(devices)]
    assert {(gpu.partition, gpu.pci) for gpu in merged} == {("CPX", "0000:05:00.0")}
