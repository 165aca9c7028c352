"""Machines of which somebody kept a few files and nothing else: what these tell, and what they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from fa_doctor.diagnosis.check import all_checks
from fa_doctor.diagnosis.engine import run_checks
from fa_doctor.diagnosis.gather import gather
from fa_doctor.diagnosis.model import Finding, Status
from fa_doctor.facts.gpus.others import can_compute
from fa_doctor.facts.gpus.reading import AMD, Reading
from fa_doctor.facts.machine import Machine
from fa_doctor.host import RecordedHost
from fa_doctor.level import Level


def kept(folder: Path, outputs: dict[str, str] | None = None, files: dict[str, str] | None = None) -> Machine:
    """The facts of a machine of which only these outputs and files were recorded."""
    for below, contents in (("outputs", outputs or {}), ("sysroot", files or {})):
        for name, text in contents.items():
            path = folder / below / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    machine = gather(RecordedHost(folder), level=Level.QUICK)
    assert machine.faults == ()
    return machine


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


@pytest.mark.parametrize(
    ("device_id", "driver", "words"),
    [
        ("6617", "amdgpu", ("Oland (GCN1, gfx602)", "too old")),
        ("679A", "amdgpu", ("Tahiti (GCN1, gfx600)", "too old")),
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
