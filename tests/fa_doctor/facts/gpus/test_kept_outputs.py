"""Machines of which somebody kept a few files and nothing else: what these tell, and what they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from kept_machines import kept

from fa_doctor.diagnosis.check import all_checks
from fa_doctor.diagnosis.engine import run_checks
from fa_doctor.diagnosis.gather import gather
from fa_doctor.diagnosis.model import Finding, Status
from fa_doctor.facts.gpus.others import can_compute
from fa_doctor.facts.gpus.reading import AMD, Reading
from fa_doctor.facts.machine import Machine
from fa_doctor.host import RecordedHost
from fa_doctor.level import Level


def failures(machine: Machine) -> list[Finding]:
    findings = run_checks(machine, all_checks(), Level.QUICK)
    assert not [found for found in findings if "itself broke" in found.verdict.title]
    return [found for found in findings if found.status is Status.FAIL]


def card(device_id: str, driver: str = "amdgpu") -> dict[str, str]:
    """The uevent of a graphics card of AMD, all that is recorded of it."""
    lines = [f"DRIVER={driver}", "PCI_CLASS=30000", f"PCI_ID=1002:{device_id}", "PCI_SLOT_NAME=0000:03:00.0"]
    return {"/sys/class/drm/card0/device/uevent": "\n".join(lines) + "\n"}


LSTOPO = """\
<topology version="2.0">
  <object type="Machine"><info name="OSRelease" value="4.18.0-513.el8.x86_64"/>
  <info name="CPUModel" value="AMD EPYC 7763 64-Core Processor                "/>
{devices}
  </object>
</topology>
"""
ASPEED = '<object type="PCIDev" pci_busid="0000:05:00.0" pci_type="0300 [1a03:2000] [1a03:2000] 41"></object>'
NVIDIA = (
    '<object type="PCIDev" pci_busid="0000:18:00.0" pci_type="0302 [10de:1eb8] [10de:12a2] a1">'
    '<info name="PCIDevice" value="TU104GL [Tesla T4]"/></object>'
)
MI60 = (
    '<object type="PCIDev" pci_busid="0000:{bus}:00.0" pci_type="0380 [1002:66a1] [1002:0834] 02">'
    '<info name="PCIDevice" value="Vega 20"/></object>'
)


def test_hwloc_lists_more_than_compute_devices(tmp_path: Path) -> None:
    devices = "\n".join([ASPEED, NVIDIA, MI60.format(bus="43"), MI60.format(bus="03")])
    machine = kept(tmp_path, {"lstopo.xml": LSTOPO.format(devices=devices)})
    assert [(gpu.gfx, gpu.pci) for gpu in machine.gpus.known] == [
        ("gfx906", "0000:43:00.0"),
        ("gfx906", "0000:03:00.0"),
    ]
    assert machine.gpus.known[0].name == "Instinct MI60 / MI50"  # by the revision; "Vega 20" says less
    assert machine.gpus.cards == 2
    assert [other.vendor for other in machine.gpus.others] == ["ASPEED", "NVIDIA"]
    assert machine.system.kernel == "4.18.0-513.el8.x86_64"
    assert machine.gpus.versions.processor == "AMD EPYC 7763 64-Core Processor"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lstopo.xml", LSTOPO.format(devices=NVIDIA)),
        ("lspci-nn.txt", "18:00.0 3D controller [0302]: NVIDIA Corporation TU104GL [Tesla T4] [10de:1eb8] (rev a1)\n"),
    ],
)
def test_a_bus_with_another_vendors_card_only(name: str, text: str, tmp_path: Path) -> None:
    machine = kept(tmp_path, {name: text})
    assert machine.gpus.devices == ()
    assert machine.gpus.cards == 0
    (failure,) = failures(machine)
    assert failure.id == "GPU001"
    assert "NVIDIA" in failure.verdict.title
    assert "Tesla T4" in failure.verdict.title


def test_many_cards_of_another_vendor_are_one_line(tmp_path: Path) -> None:
    cards = [NVIDIA.replace("0000:18", f"0000:{bus:02x}") for bus in range(24, 32)]
    (failure,) = failures(kept(tmp_path, {"lstopo.xml": LSTOPO.format(devices="\n".join([ASPEED, *cards]))}))
    assert failure.verdict.title == "no AMD GPU in this machine: there is only 8 x NVIDIA TU104GL [Tesla T4]"
    assert failure.verdict.detail.count("NVIDIA GPU") == 1


@pytest.mark.parametrize(
    ("device_id", "driver", "words"),
    [
        ("6617", "amdgpu", ("Oland (GCN1, gfx602)", "too old")),
        ("679A", "amdgpu", ("Radeon HD 7900 Series", "Tahiti (GCN1, gfx600)", "too old")),
        ("68F9", "radeon", ("before GCN", "old radeon driver", "too old")),
        ("1309", "radeon", ("Kaveri", "old radeon driver", "too old")),
        ("73BF", "vfio-pci", ("gfx1030", "vfio-pci")),
    ],
)
def test_a_card_that_the_compute_driver_leaves_out(
    device_id: str, driver: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    machine = kept(tmp_path, files=card(device_id, driver))
    assert (machine.gpus.devices, machine.gpus.cards) == ((), 1)
    (failure,) = failures(machine)
    assert failure.id == "GPU001"
    assert all(word in failure.verdict.title for word in words), failure.verdict.title


@pytest.mark.parametrize(
    ("device_id", "gfx", "name", "integrated"),
    [
        ("67DF", "gfx803", "Radeon Pro 580X / RX 580 Series / RX 570 Series / ...", False),
        ("687F", "gfx900", "Radeon RX Vega", False),
        ("15D8", "gfx902", None, True),
    ],
)
def test_a_card_that_the_runtime_lists_but_nobody_builds_for(
    device_id: str, gfx: str, name: str | None, integrated: bool, tmp_path: Path
) -> None:
    machine = kept(tmp_path, files=card(device_id))
    (gpu,) = machine.gpus.known
    assert (gpu.gfx, gpu.wavefront_size, gpu.integrated) == (gfx, 64, integrated)
    assert name is None or gpu.name == name
    (failure,) = failures(machine)
    assert (failure.id, failure.verdict.cause) == ("GPU003", "gpu-arch-unsupported")


def test_an_old_card_without_a_word_on_its_driver() -> None:
    """`lspci -nn` names no driver: the id alone must keep a Radeon HD 6450 from being counted."""
    assert not can_compute(Reading("lspci", vendor_id=AMD, device_id=0x6779))
    assert can_compute(Reading("lspci", vendor_id=AMD, device_id=0x744C))
    assert can_compute(Reading("lspci", vendor_id=AMD, device_id=0x7FFF)), "a chip of tomorrow"


def test_a_table_with_commas_inside_its_fields(tmp_path: Path) -> None:
    table = (
        "cpu_model,sbios,linux_distro,linux_kernel_version,rocm_version,gpu_arch,cu_per_gpu\n"
        '"AMD EPYC 9354, 32 cores","American Megatrends International, LLC.1.8",Ubuntu 22.04.5 LTS,5.15.0-70-generic,7.0.0-42,gfx942,304\n'
    )
    machine = kept(tmp_path, {"sysinfo.csv": table})
    assert machine.rocm is not None
    assert [(install.version, install.origin) for install in machine.rocm] == [("7.0.0", "report")]
    assert machine.system.pretty_name == "Ubuntu 22.04.5 LTS"
    assert machine.gpus.versions.processor == "AMD EPYC 9354, 32 cores"


COLLECT_ENV = """\
PyTorch version: 2.6.0+rocm6.2.4
CUDA used to build PyTorch: N/A
ROCM used to build PyTorch: 6.2.41134-65d174c3e

OS: {os} (x86_64)
Python platform: Linux-{kernel}-x86_64-with-glibc2.39
GPU models and configuration: {gpus}
HIP runtime version: {hip}

CPU:
Model name:                           AMD EPYC 9654 96-Core Processor
"""


def test_collect_env_tells_of_one_gpu_and_of_the_system(tmp_path: Path) -> None:
    text = COLLECT_ENV.format(
        os="Ubuntu 24.04.2 LTS",
        kernel="6.8.0-60-generic",
        gpus="AMD Instinct MI300X (gfx942:sramecc+:xnack-)",
        hip="6.2.41134",
    )
    machine = kept(tmp_path, {"collect_env.txt": text})
    assert [(gpu.gfx, gpu.name) for gpu in machine.gpus.known] == [("gfx942", "AMD Instinct MI300X")]
    assert machine.gpus.cards is None, "how many there are it does not say"
    assert (machine.system.kernel, machine.system.pretty_name) == ("6.8.0-60-generic", "Ubuntu 24.04.2 LTS")
    assert machine.system.wsl is False
    assert machine.gpus.versions.hip == "6.2.41134"


def test_collect_env_of_wsl_and_of_nvidia(tmp_path: Path) -> None:
    text = COLLECT_ENV.format(
        os="Ubuntu 22.04.5 LTS", kernel="5.15.167.4-microsoft-standard-WSL2", gpus="Could not collect", hip="N/A"
    )
    machine = kept(tmp_path / "wsl", {"collect_env.txt": text})
    assert (machine.system.wsl, machine.gpus.devices) == (True, None)
    text = COLLECT_ENV.format(os="Debian 12", kernel="6.1.0-21-amd64", gpus="\nGPU 0: NVIDIA H100 PCIe", hip="N/A")
    machine = kept(tmp_path / "nvidia", {"collect_env.txt": text})
    assert [other.name for other in machine.gpus.others] == ["NVIDIA H100 PCIe"]
    assert machine.gpus.devices is None, "an AMD GPU besides would not be in the list of a CUDA build"


@pytest.mark.parametrize(
    ("name", "text", "kernel", "distribution"),
    [
        ("uname.txt", "Linux node7 5.14.0-503.11.1.el9_5.x86_64 #1 SMP Tue\n", "5.14.0-503.11.1.el9_5.x86_64", None),
        ("uname-r.txt", "6.14.11-300.fc42.x86_64\n", "6.14.11-300.fc42.x86_64", None),
        ("dmesg.txt", "[ 0.0] Linux version 6.1.0-21-amd64 (gcc-12)\n", "6.1.0-21-amd64", None),
        ("lsb_release.txt", "Distributor ID:\tUbuntu\nDescription:\tUbuntu 24.04.1 LTS\n", None, "Ubuntu 24.04.1 LTS"),
        (
            "hostnamectl.txt",
            "Operating System: openSUSE Leap 15.6\n          Kernel: Linux 6.4.0-150600\n",
            "6.4.0-150600",
            "openSUSE Leap 15.6",
        ),
        ("os-release.txt", 'NAME="Arch Linux"\nPRETTY_NAME="Arch Linux"\n', None, "Arch Linux"),
    ],
)
def test_texts_that_name_the_system(
    name: str, text: str, kernel: str | None, distribution: str | None, tmp_path: Path
) -> None:
    system = kept(tmp_path, {name: text}).system
    assert (system.kernel, system.pretty_name) == (kernel, distribution)


@pytest.mark.parametrize(
    ("name", "text", "rocm", "driver"),
    [
        ("hipconfig.txt", "HIP version  : 6.2.41134-65d\nROCM_PATH    : /opt/rocm-6.2.4\n", "6.2.4", None),
        ("amd-smi-version.txt", "AMDSMI Tool: 25.4.2 | ROCm version: 6.4.2 | amdgpu version: 6.12.12\n", "6.4.2", "6.12.12"),
        (
            "amd-smi-version.json",
            '[{"tool": "AMDSMI Tool", "version": "25.4.2", "rocm_version": "6.4.2", "amdgpu_version": "N/A"}]',
            "6.4.2",
            None,
        ),
        ("modinfo-amdgpu.txt", "filename: /lib/modules/x/amdgpu.ko\nversion:        6.10.5\n", None, "6.10.5"),
        ("dkms-status.txt", "amdgpu/6.12.12-2164967.24.04, 6.8.0-60-generic, x86_64: installed\n", None, "6.12.12-2164967.24.04"),
    ],
)  # fmt: skip
def test_texts_that_name_a_version(name: str, text: str, rocm: str | None, driver: str | None, tmp_path: Path) -> None:
    machine = kept(tmp_path, {name: text})
    assert [install.version for install in machine.rocm or ()] == ([rocm] if rocm else [])
    assert machine.gpus.versions.driver == driver


def test_lines_picked_out_of_rocminfo(tmp_path: Path) -> None:
    text = (
        "  Name:                    AMD Ryzen 9 7950X 16-Core Processor\n"
        "  Marketing Name:          AMD Ryzen 9 7950X 16-Core Processor\n"
        "  Name:                    gfx1100                            \n"
        "  Marketing Name:          Radeon RX 7900 XTX                 \n"
        "      Name:                    amdgcn-amd-amdhsa--gfx1100         \n"
        "  Name:                    gfx1036                            \n"
        "      Name:                    amdgcn-amd-amdhsa--gfx1036         \n"
    )
    gpus = kept(tmp_path, {"rocminfo-grep.txt": text}).gpus
    assert [(gpu.gfx, gpu.integrated) for gpu in gpus.known] == [("gfx1100", False), ("gfx1036", True)]
    assert gpus.cpu_agents == 1


AGENT = """\
Agent {number}
  Name:                    {name}
  Marketing Name:          {marketing}
  Device Type:             {kind}
  Chip ID:                 {chip}
  Max Clock Frequency (MHz):1630
  BDFID:                   {bdf}
  Compute Unit:            {units}
  Wavefront Size:          64
  Pool Info:
    Pool 1
      Segment:                 GLOBAL; FLAGS: COARSE GRAINED
      Size:                    8372224KB
"""


def test_rocminfo_of_2018_and_an_npu_of_today(tmp_path: Path) -> None:
    """The first releases print numbers without their hexadecimal form; new ones list the NPU as an agent besides."""
    old = AGENT.format(number=2, name="gfx900", marketing="", kind="GPU", chip=26751, bdf=256, units=56)
    (gpu,) = kept(tmp_path / "old", {"rocminfo.txt": old}).gpus.known
    assert (gpu.device_id, gpu.pci, gpu.compute_units) == (0x687F, "0000:01:00.0", 56)
    assert (gpu.vram_bytes, gpu.wavefront_size) == (8372224 * 1024, 64)
    new = (
        AGENT.format(number=1, name="AMD Ryzen AI 9", marketing="AMD Ryzen AI 9", kind="CPU", chip=0, bdf=0, units=24)
        + AGENT.format(number=2, name="gfx1150", marketing="AMD Radeon 890M", kind="GPU", chip="5390(0x150e)", bdf=50432, units=16)
        + AGENT.format(number=3, name="aie2", marketing="AIE-ML", kind="DSP", chip=0, bdf=0, units=0)
    )  # fmt: skip
    gpus = kept(tmp_path / "new", {"rocminfo.txt": new}).gpus
    assert [gpu.gfx for gpu in gpus.known] == ["gfx1150"]
    assert gpus.cpu_agents == 1


def test_under_wsl_no_amdgpu_is_said_to_be_loaded(tmp_path: Path) -> None:
    agent = AGENT.format(number=2, name="gfx1100", marketing="X", kind="GPU", chip="29772(0x744c)", bdf=0, units=96)
    text = "WSL environment detected.\n" + agent.replace("  BDFID:                   0\n", "  Internal Node ID: 1\n")
    machine = kept(tmp_path, {"rocminfo.txt": text})
    assert machine.system.wsl is True
    assert machine.driver.loaded is None


def test_rocm_smi_without_ids_counts_and_no_more(tmp_path: Path) -> None:
    text = (
        "GPU  Temp   AvgPwr  SCLK    MCLK     Fan    Perf  PwrCap  VRAM%  GPU%  \n"
        "0    31.0c  38.0W   800Mhz  1600Mhz  0%     auto  300.0W    0%   0%    \n"
        "1    32.0c  N/A     800Mhz  1600Mhz  0%     auto  0.0W      0%   0%    \n"
    )
    gpus = kept(tmp_path, {"rocm-smi.txt": text}).gpus
    assert gpus.cards == 2
    assert [gpu.gfx for gpu in gpus.known] == [None, None]


def test_amd_smi_names_a_device_in_its_uuid_and_cuts_names_at_their_front(tmp_path: Path) -> None:
    listed = "GPU: 0\n    BDF: 0000:03:00.0\n    UUID: 49ff744c-0000-1000-80e9-0f7e1b5d3c11\n    NODE_ID: 1\n"
    (gpu,) = kept(tmp_path / "list", {"amd-smi-list.txt": listed}).gpus.known
    assert (gpu.device_id, gpu.gfx) == (0x744C, "gfx1100")
    table = (
        "| 0000:75:00.0 ...Instinct MI325X     | 0 % |\n|   0       0       5        SPX/NPS1 | 0 %   285/262128 MB |\n"
    )
    (gpu,) = kept(tmp_path / "table", {"amd-smi.txt": table}).gpus.known
    assert (gpu.gfx, gpu.name, gpu.partition) == ("gfx942", "Instinct MI325X", "SPX")
    static = "GPU: 0\n    ASIC:\n        MARKET_NAME: 0x744b\n        DEVICE_ID: 0x744b\n        TARGET_GRAPHICS_VERSION: gfx1100\n"
    (gpu,) = kept(tmp_path / "static", {"amd-smi-static.txt": static}).gpus.known
    assert gpu.name is not None
    assert "W7900" in gpu.name, "not the id that the tool prints for a name"


def test_a_node_that_is_open_to_everybody_needs_no_known_user(tmp_path: Path) -> None:
    machine = kept(tmp_path, {"rocminfo.txt": "WSL environment detected.\n"})
    (tmp_path / "devices.txt").write_text("present\t/dev/dxg\tcrw-rw-rw- root root 10,125\n")
    machine = gather(RecordedHost(tmp_path), level=Level.QUICK)
    assert machine.user is None
    findings = run_checks(machine, all_checks(), Level.QUICK)
    assert {found.id: found.status for found in findings}["DRV003"] is Status.PASS


@pytest.mark.parametrize(
    ("gfx", "status", "words"),
    [
        ("gfx900", Status.FAIL, "wheels still have code"),
        ("gfx803", Status.FAIL, "torch on the CPU works"),
        ("gfx1013", Status.PASS, "HSA_OVERRIDE_GFX_VERSION=10.1.0"),
        ("gfx1032", Status.PASS, "torch wheels have code for it"),
        ("gfx90c", Status.PASS, "gfx900, which it can run"),
    ],
)
def test_chips_outside_of_amds_tables(gfx: str, status: Status, words: str, tmp_path: Path) -> None:
    agent = AGENT.format(number=1, name=gfx, marketing="X", kind="GPU", chip=0, bdf=256, units=8)
    machine = kept(tmp_path, {"rocminfo.txt": agent})
    (found,) = (one for one in run_checks(machine, all_checks(), Level.QUICK) if one.id == "GPU003")
    assert found.status is status
    assert words in f"{found.verdict.title} {found.verdict.detail}"


def test_virtual_functions_of_a_cloud_differ_in_their_domain_alone(tmp_path: Path) -> None:
    nodes = "/sys/class/kfd/kfd/topology/nodes"
    node = "simd_count 1216\nsimd_per_cu 4\ngfx_target_version 90402\ndevice_id 29877\nlocation_id 0\ndomain {0}\nnum_xcc 8\n"
    files = {f"{nodes}/{number}/properties": node.format(number + 1) for number in range(1, 9)}
    gpus = kept(tmp_path, files=files).gpus
    assert [gpu.pci for gpu in gpus.known] == [f"{number + 1:04x}:00:00.0" for number in range(1, 9)]
    assert gpus.cards == 8
    assert {gpu.name for gpu in gpus.known} == {"Instinct MI300X VF"}


def test_an_apu_whose_node_has_processors_too(tmp_path: Path) -> None:
    """Before about 2022 the kernel made one node of an APU."""
    node = "cpu_cores_count 8\nsimd_count 28\nsimd_per_cu 4\ngfx_target_version 90012\ndevice_id 5688\nlocation_id 1792\nwave_front_size 64\n"
    gpus = kept(tmp_path, files={"/sys/class/kfd/kfd/topology/nodes/0/properties": node}).gpus
    (gpu,) = gpus.known
    assert (gpu.gfx, gpu.integrated, gpu.compute_units, gpu.pci) == ("gfx90c", True, 7, "0000:07:00.0")
    assert gpus.cpu_nodes == (0,)


def test_tables_with_commas_of_both_tools(tmp_path: Path) -> None:
    smi = (
        "device,Card series,Card model,Card vendor,Card SKU,PCI Bus,VRAM Total Memory (B)\n"
        'card0,Arcturus GL-XL [AMD Instinct MI100],0x738c,"Advanced Micro Devices, Inc. [AMD/ATI]",D34316,0000:C3:00.0,34342961152\n'
    )
    machine = kept(
        tmp_path / "rocm-smi", {"rocm-smi.csv": smi, "rocm-smi-driver.csv": "device,Driver version\ncardsystem,6.3.6\n"}
    )
    (gpu,) = machine.gpus.known
    assert (gpu.gfx, gpu.pci, gpu.vram_bytes) == ("gfx908", "0000:c3:00.0", 34342961152)
    assert machine.gpus.versions.driver == "6.3.6"
    smi = (
        "gpu,market_name,vendor_id,device_id,rev_id,num_compute_units,target_graphics_version,bdf,size\n"
        "0,AMD Instinct MI355X,0x1002,0x75a3,0x00,256,gfx950,0000:05:00.0,294896 MB\n"
    )
    (gpu,) = kept(tmp_path / "amd-smi", {"amd-smi-static.csv": smi}).gpus.known
    assert (gpu.gfx, gpu.compute_units, gpu.pci, gpu.device_id) == ("gfx950", 256, "0000:05:00.0", 0x75A3)


def test_the_kernels_own_driver_as_amd_smi_names_it(tmp_path: Path) -> None:
    text = (
        "AMDSMI Tool: 25.3.0+ede62f2 | ROCm version: 6.4.0 | amdgpu version: Linuxversion6.8.0-79-generic(buildd@host)(x86_64-"
        "linux-gnu-gcc-13)#79-Ubuntu | amd_hsmp version: N/A\n"
    )
    driver = kept(tmp_path, {"amd-smi-version.txt": text}).driver
    assert (driver.origin, driver.version) == ("in-tree", "6.8.0-79-generic")


def test_rocm_smi_of_2018(tmp_path: Path) -> None:
    text = (
        "====================    ROCm System Management Interface    ====================\n"
        " GPU  Temp    AvgPwr   SCLK     MCLK     Fan      Perf    SCLK OD    MCLK OD\n"
        "  0   34c     11.190W  300Mhz   601Mhz   47.84%   auto      0%         0%\n"
    )
    assert kept(tmp_path, {"rocm-smi.txt": text}).gpus.cards == 1
