"""Every key of every answer key in the recorded machines against the facts, and the gfx targets against AMD's own tool."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fa_doctor.diagnosis.check import all_checks
from fa_doctor.diagnosis.engine import run_checks
from fa_doctor.diagnosis.gather import gather
from fa_doctor.diagnosis.model import Finding, Status
from fa_doctor.facts.gpus.reading import location_of_address, normal_address
from fa_doctor.facts.gpus.rocminfo import parse_rocminfo
from fa_doctor.facts.machine import Machine
from fa_doctor.host import RecordedHost
from fa_doctor.knowledge.gpus import architecture, target_version_from_gfx
from fa_doctor.level import Level


@dataclass(frozen=True)
class Examined:
    host: RecordedHost
    machine: Machine
    findings: list[Finding]

    @property
    def gpus(self) -> Any:
        return self.machine.gpus

    @property
    def devices(self) -> tuple[Any, ...]:
        assert self.machine.gpus.devices is not None
        return self.machine.gpus.devices

    @property
    def amd_others(self) -> list[Any]:
        return [other for other in self.machine.gpus.others if other.vendor == "AMD"]


def same(values: Any) -> Any:
    """The one value that all devices share; a list of them where they differ."""
    values = list(values)
    return values[0] if len(set(values)) == 1 else values


def matching(wanted: Any, values: list[Any]) -> Any:
    """`values` in the form of the answer: one for all devices, one a device, or each distinct one once."""
    if isinstance(wanted, list):
        return values if len(values) == len(wanted) else list(dict.fromkeys(values))
    return same(values)


def ranges(text: str) -> list[int]:
    """ "2..5" and "128-131,136-139 (gaps)" as numbers."""
    numbers: list[int] = []
    for first, last in re.findall(r"(\d+)(?:-|\.\.)(\d+)", text):
        numbers += range(int(first), int(last) + 1)
    return numbers


def numbers(wanted: Any, values: list[Any]) -> bool:
    return values == (ranges(wanted) if isinstance(wanted, str) else wanted)


def partition(wanted: str, it: Examined) -> bool:
    modes = same((gpu.partition, gpu.memory_partition) for gpu in it.devices)
    if wanted.upper().startswith(("NA/NA", "N/A")):
        return bool(modes == (None, None))
    per_card = re.match(r"(\d+) per card", wanted)
    if per_card:
        counts = Counter(gpu.card for gpu in it.devices)
        return set(counts.values()) == {int(per_card[1])} and modes[0] == "CPX"
    compute, _, memory = wanted.split(" ")[0].partition("/")
    return bool(modes[0] == compute and (not memory or modes[1] == memory))


def addresses(wanted: list[str], it: Examined) -> bool:
    found = [gpu.pci for gpu in it.devices] or [other.pci for other in it.amd_others]
    normal = [normal_address(text) for text in wanted]
    return bool(matching(normal, found) == normal)


def other_gpus(wanted: list[dict[str, str]], it: Examined) -> bool:
    found = [
        {"vendor": f"{other.vendor_id:#06x}", "pci_id": other.pci_id.upper(), "pci": other.pci, "driver": other.driver}
        for other in it.gpus.others
    ]
    return bool(found == wanted)


def adapters(wanted: list[str], it: Examined) -> bool:
    found = {(other.vendor, other.pci) for other in it.gpus.others}
    return all((text.split(" at ")[0], normal_address(text)) in found for text in wanted)


def memory(wanted: Any, it: Examined) -> bool:
    values = [gpu.vram_bytes for gpu in it.devices]
    if isinstance(wanted, list):
        return bool(values == wanted)
    # The last partition of a card can be some MiB smaller: what most devices have is meant.
    return bool(Counter(values).most_common(1)[0][0] == wanted)


def usable(wanted: bool, it: Examined) -> bool:
    failed = [
        found.id for found in it.findings if found.status is Status.FAIL and found.id[:3] in ("GPU", "DRV", "CON")
    ]
    return bool(failed) is not wanted


def advice(wanted: str, it: Examined) -> bool:
    commands = " ".join(line for found in it.findings for fix in found.verdict.fixes for line in fix.commands)
    return all(flag.replace(" ", "=") in commands for flag in re.findall(r"--device /dev/\w+", wanted))


def drivers(it: Examined) -> Any:
    return same(gpu.kernel_driver for gpu in it.devices) if it.devices else it.gpus.others[0].driver


def device_ids(wanted: list[str], it: Examined) -> bool:
    found = [gpu.device_id for gpu in it.devices] or [other.device_id for other in it.amd_others]
    return bool(matching(wanted, [f"{number:#06x}" if number is not None else None for number in found]) == wanted)


def equals(value: Callable[[Examined], Any]) -> Callable[[Any, Examined], bool]:
    return lambda wanted, it: bool(value(it) == wanted)


def each(field: str) -> Callable[[Any, Examined], bool]:
    return lambda wanted, it: bool(matching(wanted, [getattr(gpu, field) for gpu in it.devices]) == wanted)


FACTS: dict[str, Callable[[Any, Examined], bool]] = {
    "amd_gpu_count": equals(lambda it: it.gpus.cards),
    "amd_gpu_count_visible": equals(lambda it: len(it.devices)),
    "compute_device_count": equals(lambda it: len(it.devices)),
    "gfx": lambda wanted, it: matching(wanted, [gpu.gfx_in_force for gpu in it.devices]) == wanted,
    "gfx_native": lambda wanted, it: [gpu.gfx for gpu in it.devices] == wanted,
    "gfx_target_version": lambda wanted, it: (
        same(target_version_from_gfx(gpu.gfx or "") for gpu in it.devices) == wanted
    ),
    "override": lambda wanted, it: (it.gpus.override is not None) is wanted,
    "device_ids": device_ids,
    "chip_id": each("device_id"),
    "cpu_nodes": lambda wanted, it: list(it.gpus.cpu_nodes) == wanted,
    "cpu_hsa_devices": equals(lambda it: it.gpus.cpu_agents),
    "kfd_gpu_nodes": lambda wanted, it: numbers(wanted, [gpu.kfd_node for gpu in it.devices]),
    "render_minors": lambda wanted, it: numbers(wanted, [gpu.render_minor for gpu in it.devices]),
    "pci": addresses,
    "pci_first_function": addresses,
    "pci_domains": lambda wanted, it: sorted({int(str(gpu.pci)[:4], 16) for gpu in it.devices}) == wanted,
    "pci_class": lambda wanted, it: f"{same(gpu.pci_class for gpu in it.devices):06x}".startswith(
        wanted.removeprefix("0x")
    ),
    "bdfids": lambda wanted, it: [location_of_address(gpu.pci or "") for gpu in it.devices] == wanted,
    "wavefront_size": each("wavefront_size"),
    "cu_per_device": each("compute_units"),
    "simd_count": each("simd_count"),
    "simd_per_cu": lambda wanted, it: (
        same((gpu.simd_count or 0) // (gpu.compute_units or 1) for gpu in it.devices) == wanted
    ),
    "num_xcc": each("xcc_count"),
    "num_xcd": each("xcc_count"),
    "xgmi_hives": lambda wanted, it: Counter(str(gpu.hive_id) for gpu in it.devices) == wanted,
    "vram_bytes_per_device": memory,
    "vram_kib_per_device": lambda wanted, it: memory(wanted * 1024, it),
    "vram_reported_mb": lambda wanted, it: memory(wanted << 20, it),
    "vram_mb": lambda wanted, it: memory(wanted << 20, it),
    "kfd_bank_bytes": each("pool_bytes"),
    "partition": partition,
    "partitions_per_card": lambda wanted, it: list(Counter(gpu.card for gpu in it.devices).values()) == wanted,
    "unique_ids": equals(lambda it: len({gpu.unique_id for gpu in it.devices})),
    "unique_id": each("unique_id"),
    "gpu_id_files": lambda wanted, it: any(gpu.kfd_id is not None for gpu in it.devices) is wanted,
    "gpu_ids": each("kfd_id"),
    "kfd_id": each("kfd_id"),
    "kfd_guid": each("kfd_id"),
    "kfd_node": each("kfd_node"),
    "hip_index": each("index"),
    "card_index": each("card_index"),
    "apu": each("integrated"),
    "isa": lambda wanted, it: all(wanted.endswith(f"--{gpu.isas[0]}") for gpu in it.devices),
    "isas": lambda wanted, it: all(list(gpu.isas) == wanted for gpu in it.devices),
    "marketing_name": lambda wanted, it: all(
        wanted.startswith(gpu.name or "?") for gpu in parse_rocminfo(it.host.run(["rocminfo"]).stdout).gpus
    ),
    "primary_device": lambda wanted, it: next(gpu.gfx for gpu in it.devices if not gpu.integrated) == wanted,
    "unsupported_by_rocm": lambda wanted, it: (
        [gpu.gfx for gpu in it.devices if (row := architecture(gpu.gfx or "")) and row.rocm_status != "supported"]
        == wanted
    ),
    "driver": equals(drivers),
    "driver_version": equals(lambda it: it.machine.driver.version),
    "rocm_version": equals(lambda it: it.gpus.versions.rocm),
    "runtime_version": equals(lambda it: it.gpus.versions.hsa_runtime),
    "hsa_runtime_version": equals(lambda it: it.gpus.versions.hsa_runtime),
    "hip_version": equals(lambda it: it.gpus.versions.hip),
    "amd_smi_version": equals(lambda it: it.gpus.versions.amd_smi),
    "platform": lambda wanted, it: wanted.startswith(it.gpus.versions.platform or "?"),
    "vbios": lambda wanted, it: same(gpu.vbios for gpu in it.devices) == (None if wanted == "N/A" else wanted),
    "kernel": equals(lambda it: it.machine.system.kernel),
    "os": equals(lambda it: it.machine.system.pretty_name),
    "cpu": equals(lambda it: it.gpus.versions.processor),
    "container": equals(lambda it: it.machine.container.inside),
    "wsl": equals(lambda it: it.machine.system.wsl),
    "dev_kfd": equals(lambda it: it.machine.driver.kfd.exists),
    "dev_dri": equals(lambda it: it.machine.driver.dri),
    "dev_dxg": equals(lambda it: it.machine.driver.dxg.exists),
    "device_file": lambda wanted, it: all(
        (it.host.read_line(f"/sys/class/drm/card{gpu.card_index}/device/device") is not None) is wanted
        for gpu in it.devices
    ),
    "other_gpus": other_gpus,
    "other_display_adapters": adapters,
    "usable_for_current_rocm": usable,
    "advice": advice,
}

# Keys that no fact answers, and why.
NOT_A_FACT = {
    "derived": "the list of keys that follow from other keys",
    "exit_codes": "the recorded files hold what commands printed, not how they ended",
    "gfx_of_the_hidden_card": "stands in the page only: the card is seen by Windows, not by this system",
    "ip_discovery_gc": "the version of the graphics block, which is not the gfx target",
    "node_name_gpu": "a label that names the method by which the driver found the chip",
    "node_name_cpu": "an empty label",
}
# Single answers that are in no recorded file, and where the one who wrote the key has them from.
NOT_IN_THE_FILES = {
    ("mi350-container-sysinfo", "num_xcd"): "the file says 8; the 4 is its value of pipes_per_gpu",
    ("mi350-container-sysinfo", "container"): "the host name of 12 digits, which was replaced",
    ("rx9070xt-plus-igpu", "rocm_version"): "the text of the issue",
    ("rx9070xt-plus-igpu", "os"): "the text of the issue",
    ("wsl-rx7600-no-adapter", "kernel"): "the text of the page",
    ("wsl-rx7600-no-adapter", "os"): "the text of the page",
}


def machines(shared: Path) -> list[Path]:
    return sorted(folder for folder in (shared / "machines").iterdir() if (folder / "machine.json").is_file())


def examine(folder: Path) -> Examined:
    host = RecordedHost(folder)
    machine = gather(host, level=Level.QUICK)
    assert machine.faults == ()
    return Examined(host, machine, run_checks(machine, all_checks(), Level.QUICK))


def test_every_answer(shared: Path) -> None:
    problems: list[str] = []
    compared = 0
    for folder in machines(shared):
        expected = json.loads((folder / "machine.json").read_text())["expected"]
        derived = expected.get("derived", ())
        it = examine(folder)
        for key, wanted in expected.items():
            if key.endswith("note") or key in NOT_A_FACT or (folder.name, key) in NOT_IN_THE_FILES:
                continue
            if key not in FACTS:
                problems.append(f"{folder.name}: no fact answers the key {key}")
            elif wanted is None:
                continue  # the files cannot tell
            else:
                compared += 1
                if not FACTS[key](wanted, it) and key not in derived:
                    problems.append(f"{folder.name}: {key} should be {wanted!r}")
    assert problems == []
    assert compared > 250


def test_derived_answers_that_the_tables_know(shared: Path) -> None:
    """What the files do not say but the device id does; only the pod's id stands nowhere but inside a UUID."""
    wrong = []
    for folder in machines(shared):
        expected = json.loads((folder / "machine.json").read_text())["expected"]
        it = examine(folder)
        wrong += [
            (folder.name, key)
            for key in expected.get("derived", ())
            if key in FACTS and expected.get(key) is not None and not FACTS[key](expected[key], it)
        ]
    assert wrong in ([], [("mi300x-pod-one-of-eight", "device_ids")])


def test_gfx_targets_agree_with_rocm_bootstrap(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AMD's own detection on the same KFD trees. It cannot name a GPU whose kernel is too old to do so."""
    from rocm_bootstrap import _platform
    from rocm_bootstrap.detect import _detect_via_kfd_topology

    compared = 0
    for folder in machines(shared):
        nodes = folder / "sysroot/sys/class/kfd/kfd/topology/nodes"
        if not nodes.is_dir():
            continue
        monkeypatch.setattr(_platform, "KFD_TOPOLOGY", nodes)
        theirs = {gpu.node_id: gpu.target.name for gpu in _detect_via_kfd_topology()}
        devices = gather(RecordedHost(folder), level=Level.QUICK).gpus.known
        named = {gpu.kfd_node: gpu.gfx for gpu in devices if gpu.kfd_node in theirs}
        assert named == theirs, folder.name
        assert len(devices) == len(theirs) or not theirs, folder.name
        compared += len(theirs)
    assert compared > 100


def test_machines_without_a_usable_gpu_say_what_is_there_instead(shared: Path) -> None:
    words = {
        "nvidia-rtx4080": "NVIDIA",
        "intel-igpu-only": "Intel",
        "hd7870-radeon-driver": "radeon",
        "vega10-mi25-old-kernel": "too old",
        "wsl-rx7600-no-adapter": "WSL",
        "container-without-dev-kfd": "container",
    }
    for name, word in words.items():
        folder = shared / "machines" / name
        if folder.is_dir():
            failed = [found for found in examine(folder).findings if found.status is Status.FAIL]
            told = [found for found in failed if found.id[:3] in ("GPU", "DRV", "CON")]
            assert len(told) == 1, (name, told)
            assert word in told[0].verdict.title, (name, told[0].verdict.title)
