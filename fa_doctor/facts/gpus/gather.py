"""Gathers the GPUs of a machine: sysfs first, tools where sysfs is not enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fa_doctor.evidence import Evidence
from fa_doctor.facts.gpus.drm import CARDS, read_drm
from fa_doctor.facts.gpus.kfd import NODES, KfdTopology, read_kfd
from fa_doctor.facts.gpus.merge import card_keys, match, merge_device
from fa_doctor.facts.gpus.model import Gpu, Gpus
from fa_doctor.facts.gpus.others import can_compute, describe_others
from fa_doctor.facts.gpus.override import VARIABLE, dotted, overrides_in
from fa_doctor.facts.gpus.pci_bus import read_pci_bus
from fa_doctor.facts.gpus.reading import AMD, Reading
from fa_doctor.facts.gpus.tool_readings import ToolReadings
from fa_doctor.facts.gpus.tools import ask_tools
from fa_doctor.facts.gpus.visibility import apply_visibility
from fa_doctor.host import Host

__all__ = ["gather"]


def gather(host: Host, *, deep: bool = False) -> Gpus:
    """The GPUs of the machine. `deep` also runs rocminfo (under a deadline) where sysfs already tells, to prove that
    the devices answer; without it no tool is run unless only a runtime can tell (WSL)."""
    kfd = read_kfd(host)
    drm = read_drm(host)
    bus = read_pci_bus(host)
    needed = not kfd.gpus and not kfd.withheld and (host.exists("/dev/dxg") or host.exists("/dev/kfd")) is True
    tools = ask_tools(host, needed=needed, deep=deep and (bool(kfd.gpus) or needed))
    base, evidence, counted = _base(host, kfd, drm, tools)
    cards = tuple(card for card in (drm or ()) if card.vendor_id == AMD)
    profiled = (reading for profile in tools.profiles for reading in profile.others)
    everything = (*(drm or ()), *tools.lspci, *(bus or ()), *profiled)
    if base is None:
        devices: tuple[Gpu, ...] | None = None
        taken: set[str] = set()
    else:
        devices, taken = _devices(base, kfd, cards, bus or (), tools)
    others = describe_others(everything, taken)
    environ = host.environ
    rejected: tuple[tuple[str, str], ...] = ()
    override = None
    if devices is not None:
        devices, override = _with_override(devices, environ)
        if environ is not None:
            devices, rejected = _with_visibility(devices, environ)
    amd_others = sum(other.vendor == "AMD" for other in others)
    number_of_cards = None
    if devices is not None and counted:
        number_of_cards = len({device.card for device in devices}) + amd_others
    return Gpus(
        devices=devices,
        cards=number_of_cards,
        others=others,
        tools=tuple(tools.tools),
        withheld=kfd.withheld,
        unreadable=kfd.unreadable,
        rejected=rejected,
        versions=tools.versions,
        cpu_nodes=kfd.cpu_nodes,
        cpu_agents=len(kfd.cpu_nodes) or tools.rocminfo.cpu_agents or None,
        overrides=overrides_in(environ) if environ is not None else (),
        override=override,
        evidence=evidence,
    )


def _base(
    host: Host, kfd: KfdTopology, drm: tuple[Reading, ...] | None, tools: ToolReadings
) -> tuple[Sequence[Reading] | None, tuple[Evidence, ...], bool]:
    """The list of compute devices of the best source, why that one, and whether it lists all of them.

    None where nothing can tell; empty where it is known that there is none.
    """
    if kfd.gpus:
        return kfd.gpus, (Evidence(NODES, f"{len(kfd.gpus)} GPU nodes"),), True
    lists = tools.device_lists
    if lists and not kfd.withheld:
        return lists[0], (Evidence(lists[0][0].source.split(",")[0], f"{len(lists[0])} GPUs listed"),), True
    if kfd.present:
        text = f"{len(kfd.withheld)} GPU nodes may not be read" if kfd.withheld else "no GPU node"
        return (), (Evidence(NODES, text),), True
    # Without a KFD tree the cards tell only where the tree was not recorded; a live kernel without it has no devices.
    usable = [card for card in drm or () if can_compute(card)]
    if kfd.present is None and usable:
        return usable, (Evidence(CARDS, f"{len(usable)} cards with the amdgpu driver"),), True
    if tools.says_none:
        return (), tuple(Evidence(tool.name, tool.said) for tool in tools.tools if tool.said), True
    partial = [profile.gpus for profile in tools.profiles if profile.gpus]
    partial += [answer.gpus for answer in tools.amd_smi if answer.gpus]
    if partial:
        said = "describes a GPU and does not say how many there are"
        return partial[0], (Evidence(partial[0][0].source, said),), False
    listed = [reading for reading in tools.lspci if can_compute(reading)]
    if kfd.present is None and listed:
        return listed, (Evidence("lspci", f"{len(listed)} AMD GPUs"),), True
    if kfd.present is None and tools.bus_listing:
        return (), (Evidence(tools.bus_listing, "no AMD GPU that could compute"),), True
    if kfd.present is False:
        return (), (Evidence(NODES, "not there"),), True
    if drm is not None:
        return (), (Evidence(CARDS, "no card with the amdgpu driver"),), True
    if host.exists("/dev/kfd") is False:
        return (), (Evidence("/dev/kfd", "not there"),), True
    return None, (), False


def _devices(
    base: Sequence[Reading], kfd: KfdTopology, cards: Sequence[Reading], bus: Sequence[Reading], tools: ToolReadings
) -> tuple[tuple[Gpu, ...], set[str]]:
    """Merges what every source says of the devices; also the PCI slots that they take."""
    sources: list[Sequence[Reading]] = [kfd.gpus, cards, tools.rocminfo.gpus]
    sources += [answer.gpus for answer in tools.amd_smi]
    sources += [answer.gpus for answer in tools.rocm_smi]
    sources += [[reading for reading in tools.lspci if reading.vendor_id == AMD]]
    sources += [[reading for reading in bus if reading.vendor_id == AMD]]
    sources += [profile.gpus for profile in tools.profiles]
    sources.append(tools.enumerator)
    keys = card_keys(base)
    sizes = Counter(keys)
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    by_source = [list(base) if source is base else match(base, source) for source in sources if source]
    devices: list[Gpu] = []
    taken: set[str] = set()
    for index, device in enumerate(base):
        readings = [hit for hits in by_source if (hit := hits[index]) is not None]
        if device not in readings:
            readings.insert(0, device)
        devices.append(merge_device(index, numbers[keys[index]], sizes[keys[index]], readings))
        taken.update(reading.pci.rpartition(".")[0] for reading in readings if reading.pci)
    return tuple(devices), taken


def _with_override(devices: tuple[Gpu, ...], environ: Mapping[str, str] | None) -> tuple[tuple[Gpu, ...], str | None]:
    """The devices with the gfx target in force, and the override that makes it so.

    Without a known environment an override shows only where a runtime reported another target than the silicon's.
    """
    if environ is None:
        changed = next((gpu.gfx_in_force for gpu in devices if gpu.gfx_in_force and gpu.gfx_in_force != gpu.gfx), None)
        return devices, dotted(changed) if changed else None
    overrides = overrides_in(environ)
    by_node = {override.node: override for override in overrides}
    found: list[Gpu] = []
    value: str | None = None
    for gpu in devices:
        override = by_node.get(gpu.kfd_node) if gpu.kfd_node is not None else None
        override = override or by_node.get(None)
        if override is None:
            found.append(replace(gpu, gfx_in_force=gpu.gfx))
            continue
        value = value or override.value
        evidence = (*gpu.evidence, Evidence(override.variable, override.value))
        found.append(replace(gpu, gfx_in_force=override.gfx, evidence=evidence))
    return tuple(found), value or environ.get(VARIABLE)


def _with_visibility(
    devices: tuple[Gpu, ...], environ: Mapping[str, str]
) -> tuple[tuple[Gpu, ...], tuple[tuple[str, str], ...]]:
    """The devices with `visible` and the variable that hides each."""
    left = apply_visibility([gpu.unique_id for gpu in devices], environ)
    marked = (
        replace(gpu, visible=gpu.index not in left.hidden_by, hidden_by=left.hidden_by.get(gpu.index))
        for gpu in devices
    )
    return tuple(marked), left.rejected
