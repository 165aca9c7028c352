"""Outputs of tools as people paste them: parts of a machine, forms of other releases, names in the place of ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from kept_machines import kept

AMD_SMI_LIST = """\
    GPU: 0
        BDF: 0000:05:00.0
        UUID: 11ff74a5-0000-1000-8011-111111111111
        KFD_ID: 111
        NODE_ID: 4
        RENDER: renderD130
        CARD: card3
        HIP_UUID: GPU-1111111111111111

    GPU: 1
        BDF: 0000:15:00.0
        UUID: 22ff74a5-0000-1000-8022-222222222222
        KFD_ID: 222
        NODE_ID: 5
        RENDER: renderD138
        CARD: card11
        HIP_UUID: GPU-2222222222222222
"""
AMD_SMI_STATIC = """\
GPU: 1
    ASIC:
        MARKET_NAME: AMD Instinct MI325X
        DEVICE_ID: 0x74a5
        NUM_COMPUTE_UNITS: 304
        TARGET_GRAPHICS_VERSION: gfx942
    IFWI:
        PART_NUMBER: 113-TEST-1
    DRIVER:
        NAME: amdgpu
        VERSION: Linuxversion6.14.0-33-generic(buildd@host)(x86_64-linux-gnu-gcc-13)#33-Ubuntu
"""
AMD_SMI_PARTITION = """\
CURRENT_PARTITION:
GPU_ID  MEMORY  ACCELERATOR_TYPE  ACCELERATOR_PROFILE_INDEX  PARTITION_ID
1       NPS4    CPX               3                          0

ACCELERATOR_PARTITION_PROFILES:
GPU_ID  PROFILE_INDEX  MEMORY_PARTITION_CAPS  ACCELERATOR_TYPE  PARTITION_ID
0       0              NPS1                   SPX               N/A
"""


def test_the_commands_of_amd_smi_number_the_gpus_alike(tmp_path: Path) -> None:
    """A list of two GPUs, indented as in the page that it was cut out of, and the details of the second alone."""
    outputs = {
        "amd-smi-list-e.txt": AMD_SMI_LIST,
        "amd-smi-static-g-1.txt": AMD_SMI_STATIC,
        "amd-smi-partition-g-1.txt": AMD_SMI_PARTITION,
        "amd-smi-metric.txt": "GPU: 1\n    MEM_USAGE:\n        TOTAL_VRAM: 262128 MB\n        TOTAL_GTT: 1024 MB\n",
    }
    machine = kept(tmp_path, outputs)
    first, second = machine.gpus.known
    assert machine.gpus.cards == 2
    assert (first.render_minor, first.card_index, first.unique_id) == (130, 3, "1" * 16)
    assert (first.partition, first.compute_units, first.vram_bytes) == (None, None, None)
    assert (second.render_minor, second.kfd_node, second.kfd_id) == (138, 5, 222)
    assert (second.partition, second.memory_partition, second.compute_units) == ("CPX", "NPS4", 304)
    assert (second.vram_bytes, second.gtt_bytes, second.vbios) == (262128 << 20, 1 << 30, "113-TEST-1")
    assert (machine.driver.origin, machine.system.kernel) == ("in-tree", "6.14.0-33-generic")


def test_one_gpu_out_of_several_does_not_count_them(tmp_path: Path) -> None:
    gpus = kept(tmp_path, {"amd-smi-static-g-1.txt": AMD_SMI_STATIC}).gpus
    assert [gpu.gfx for gpu in gpus.known] == ["gfx942"]
    assert gpus.cards is None


def test_amd_smis_table_where_a_column_has_no_room_or_no_value(tmp_path: Path) -> None:
    text = (
        "| AMD-SMI 26.2.2+abc           amdgpu version: Linuxver ROCm version: 7.2.2    |\n"
        "| 0000:03:00.0    AMD Radeon Pro V620 | 0 %      37 °C   0            11/250 W |\n"
        "|   0       3     N/A             N/A | 0 %        N/A             16/30704 MB |\n"
    )
    machine = kept(tmp_path, {"amd-smi.txt": text})
    (gpu,) = machine.gpus.known
    assert (gpu.gfx, gpu.partition, gpu.memory_partition) == ("gfx1030", None, None)
    assert machine.gpus.versions.driver is None


def test_ids_of_boards_and_devices_in_old_rocm_smi(tmp_path: Path) -> None:
    """ "Card model" is the board's id; the series is the device's where the tool knew no name."""
    text = "GPU[0]\t\t: Card series: \t\t0x66a0\nGPU[0]\t\t: Card model: \t\t0x0834\n"
    (gpu,) = kept(tmp_path / "text", {"rocm-smi-showproductname.txt": text}).gpus.known
    assert (gpu.device_id, gpu.gfx) == (0x66A0, "gfx906")
    table = "device,Card series,Card model\ncard0,Navi 32 [Radeon RX 7700 XT],0x6601\n"
    (gpu,) = kept(tmp_path / "csv", {"rocm-smi-showproductname-csv.txt": table}).gpus.known
    assert (gpu.device_id, gpu.gfx) == (None, "gfx1101")


@pytest.mark.parametrize(
    ("device", "gfx"),
    [
        ("Advanced Micro Devices, Inc. [AMD/ATI] Cezanne (rev c8)", "gfx90c"),
        ("Advanced Micro Devices, Inc. [AMD/ATI] Vega 20 [Instinct] (rev 02)", "gfx906"),
        ("Advanced Micro Devices, Inc. [AMD/ATI] Device 7480 (rev cf)", "gfx1102"),
        ("Advanced Micro Devices, Inc. [AMD/ATI] Renoirette (rev cf)", None),
    ],
)
def test_plain_lspci_names_chips(device: str, gfx: str | None, tmp_path: Path) -> None:
    (gpu,) = kept(tmp_path, {"lspci.txt": f"03:00.0 VGA compatible controller: {device}\n"}).gpus.known
    assert gpu.gfx == gfx


def test_a_gpu_that_the_kernel_log_gives_to_a_virtual_machine(tmp_path: Path) -> None:
    outputs = {
        "lspci-nn.txt": "05:00.0 VGA compatible controller [0300]: AMD [AMD/ATI] Lucienne [1002:164c] (rev c1)\n",
        "dmesg.txt": "[    7.1] vfio-pci 0000:05:00.0: vgaarb: deactivate vga console\n",
    }
    gpus = kept(tmp_path, outputs).gpus
    assert (gpus.devices, gpus.cards) == ((), 1)
    assert "virtual machine" in gpus.others[0].why


def test_an_early_stepping_is_no_override(tmp_path: Path) -> None:
    """Samples of MI300 have the product's device id and their own target; gfx90a on that chip would be an override."""
    agent = "Agent 2\n  Name:                    {gfx}\n  Device Type:             GPU\n  Chip ID:                 29856(0x74a0)\n"
    sample = kept(tmp_path / "sample", {"rocminfo.txt": agent.format(gfx="gfx940")}).gpus
    assert (sample.known[0].gfx, sample.override) == ("gfx940", None)
    forced = kept(tmp_path / "forced", {"rocminfo.txt": agent.format(gfx="gfx90a")}).gpus
    assert (forced.known[0].gfx, forced.override) == ("gfx942", "9.0.10")


def test_a_chip_that_opencl_of_before_rocm_names(tmp_path: Path) -> None:
    text = (
        "  Device Type:\t\t\t\t\t CL_DEVICE_TYPE_GPU\n  Vendor ID:\t\t\t\t\t 1002h\n"
        "  Board name:\t\t\t\t\t AMD Radeon R9 200 Series\n  Device Topology:\t\t\t\t PCI[ B#1, D#0, F#0 ]\n"
        "  Name:\t\t\t\t\t\t Tahiti\n\n  Device Type:\t\t\t\t\t CL_DEVICE_TYPE_CPU\n  Vendor ID:\t\t\t\t\t 1002h\n"
        "  Board name:\t\t\t\t\t \n  Name:\t\t\t\t\t\t AMD FX(tm)-8350\n"
    )
    gpus = kept(tmp_path, {"clinfo.txt": text}).gpus
    assert (gpus.devices, gpus.cards) == ((), 1)
    assert (gpus.others[0].pci, gpus.others[0].name) == ("0000:01:00.0", "AMD Radeon R9 200 Series (Tahiti)")
    assert "too old" in gpus.others[0].why


def test_inxi_names_the_system(tmp_path: Path) -> None:
    text = (
        "System:    Host: box Kernel: 6.11.5-1-default x86_64 bits: 64 compiler: gcc v: 14\n"
        "           Desktop: KDE Distro: openSUSE Tumbleweed 20241101\n"
        "CPU:       Topology: 8-Core model: AMD Ryzen 7 5800X bits: 64 type: MT MCP\n"
    )
    machine = kept(tmp_path, {"inxi-Fxz.txt": text})
    assert (machine.system.kernel, machine.system.pretty_name) == ("6.11.5-1-default", "openSUSE Tumbleweed 20241101")
    assert machine.gpus.versions.processor == "AMD Ryzen 7 5800X"


ROCM_SMI_HEAD = """\
Device  Node  IDs              Temp        Power     Partitions          SCLK    MCLK    Fan  Perf  PwrCap  VRAM%  GPU%
              (DID,     GUID)  (Junction)  (Socket)  (Mem, Compute, ID)
"""


def test_further_partitions_of_a_card_have_no_id_of_their_own_in_rocm_smi(tmp_path: Path) -> None:
    text = ROCM_SMI_HEAD + (
        "0       4     0x74a5,   1001   47.0°C      154.0W    NPS1, DPX, 0        133Mhz  900Mhz  0%   auto  750.0W  0%  0%\n"
        "1       5     N/A,      1002   N/A         N/A       N/A, N/A, 1         N/A     N/A     0%   n/a   N/A     2%  N/A\n"
        "2       6     0x74a5,   1003   47.0°C      154.0W    NPS1, DPX, 0        133Mhz  900Mhz  0%   auto  750.0W  0%  0%\n"
        "3       7     N/A,      1004   N/A         N/A       N/A, N/A, 1         N/A     N/A     0%   n/a   N/A     2%  N/A\n"
    )
    gpus = kept(tmp_path, {"rocm-smi.txt": text}).gpus
    assert [(gpu.gfx, gpu.partition, gpu.card, gpu.kfd_node) for gpu in gpus.known] == [
        ("gfx942", "DPX", 0, 4),
        ("gfx942", "DPX", 0, 5),
        ("gfx942", "DPX", 1, 6),
        ("gfx942", "DPX", 1, 7),
    ]
    assert gpus.cards == 2


@pytest.mark.parametrize(
    ("model", "below", "device_id", "gfx"),
    [
        ("0x6601", "0x73df", 0x73DF, "gfx1031"),  # the board's id, and the device's for want of a name
        ("0x6601", "AMD Radeon RX 7800 XT", None, "gfx1101"),
        ("0x74a1", "AMD Instinct MI300X", 0x74A1, "gfx942"),
    ],
)
def test_the_model_of_a_row_is_the_boards(
    model: str, below: str, device_id: int | None, gfx: str, tmp_path: Path
) -> None:
    text = f"0       [{model} : 0xc8]       46.0°C  72.0W  N/A, N/A        21Mhz  0%\n        {below}      \n=====\n"
    (gpu,) = kept(tmp_path, {"rocm-smi.txt": text}).gpus.known
    assert (gpu.device_id, gpu.gfx) == (device_id, gfx)


def test_rocm_smi_that_sees_nothing(tmp_path: Path) -> None:
    outputs = {
        "rocm-smi.txt": "WARNING: No AMD GPUs specified\nGPU  Temp  AvgPwr\n",
        "lspci.txt": "0b:00.0 VGA compatible controller: Advanced Micro Devices, Inc. [AMD/ATI] Ellesmere [Radeon RX 580]\n",
    }
    gpus = kept(tmp_path, outputs).gpus
    assert (gpus.devices, gpus.cards) == ((), 1)


def test_an_npu_is_no_gpu_and_bridges_are_no_slots(tmp_path: Path) -> None:
    text = (
        "04:00.1 Processing accelerators: Advanced Micro Devices, Inc. [AMD] XDNA\n"
        "04:00.2 Processing accelerators [1200]: Advanced Micro Devices, Inc. [AMD] Device [1022:17f0]\n"
        "0002:00:01.1/01:00.0/02:00.0 Processing accelerators: Advanced Micro Devices, Inc. [AMD/ATI] Device 74a1\n"
        "20:01.1/21:00.0 Processing accelerators: Advanced Micro Devices, Inc. [AMD/ATI] Device 74a1\n"
        "20:01.1/00.0/31:00.0 Processing accelerators: Advanced Micro Devices, Inc. [AMD/ATI] Device 74a1\n"
    )
    gpus = kept(tmp_path, {"lspci-PP.txt": text}).gpus
    assert [gpu.pci for gpu in gpus.known] == ["0002:02:00.0", "0000:21:00.0", "0000:31:00.0"]
    assert gpus.gfx_targets == ("gfx942",)
    assert gpus.others == ()


def test_a_kernel_log_places_and_counts_after_it_adds(tmp_path: Path) -> None:
    text = (
        "[    4.1] kfd kfd: amdgpu: added device 1002:744c\n"
        "[    4.1] amdgpu 0000:0c:00.0: amdgpu: SE 6, SH per SE 2, CU per SH 8, active_cu_number 96\n"
        "[    4.2] kfd kfd: amdgpu: added device 1002:164e\n"
        "[    4.3] amdgpu 0000:1b:00.0: amdgpu: SE 1, SH per SE 1, CU per SH 2, active_cu_number 2\n"
    )
    found = kept(tmp_path, {"dmesg.txt": text}).gpus.known
    assert [(gpu.pci, gpu.compute_units) for gpu in found] == [("0000:0c:00.0", 96), ("0000:1b:00.0", 2)]
