"""Every output that somebody kept of a recorded machine, whatever its form; loaded for recorded machines only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from textwrap import dedent

from fa_doctor.facts.gpus.amd_smi import AmdSmi, parse_amd_smi
from fa_doctor.facts.gpus.kept_texts import given_to_vfio, parse_clinfo_text, parse_dmesg, parse_nvidia_smi
from fa_doctor.facts.gpus.lspci import parse_lspci
from fa_doctor.facts.gpus.profiles import Profile, parse_clinfo, parse_lstopo, parse_sysinfo, parse_system_info
from fa_doctor.facts.gpus.reading import Reading
from fa_doctor.facts.gpus.rocm_smi import parse_rocm_smi
from fa_doctor.facts.gpus.rocminfo import parse_agent_enumerator, parse_rocminfo
from fa_doctor.facts.gpus.system_reports import (
    parse_collect_env,
    parse_hipconfig,
    parse_inxi,
    parse_modinfo,
    parse_os_release_text,
    parse_uname,
)
from fa_doctor.facts.gpus.tool_readings import ToolReadings, take_amd_smi, take_rocminfo
from fa_doctor.host import Host, Problem

__all__ = ["read_recorded"]


def read_recorded(host: Host, found: ToolReadings) -> None:
    """Whatever lies among the outputs. Names with "-other" hold the output of another machine of the same kind."""
    vfio: set[str] = set()
    output = host.run(["rocminfo"])
    if output.problem is not Problem.UNRECORDED:
        take_rocminfo(output, found)
    output = host.run(["amd-smi", "list"])
    if output.problem in (Problem.TIMED_OUT, Problem.FAILED, Problem.DENIED):
        take_amd_smi(output, found)
    for name in host.recorded_names():
        if "-other" in name:
            continue
        text = host.recorded(name).text
        if text is None:
            continue
        text = dedent(text)  # what was cut out of a document is often indented as a whole
        if name.startswith("dmesg"):
            vfio |= given_to_vfio(text)
        if name.startswith("rocminfo"):
            if not found.rocminfo.listed and not found.rocminfo.trouble:
                found.rocminfo = parse_rocminfo(text, name)
        elif name.startswith("amd-smi"):
            found.amd_smi.append(replace(parse_amd_smi(text, name), source=name))
        elif name.startswith("rocm-smi"):
            found.rocm_smi.append(parse_rocm_smi(text, name))
        elif name.startswith("rocm_agent_enumerator"):
            found.enumerator = found.enumerator or parse_agent_enumerator(text, name)
        elif name.startswith("lspci"):
            found.lspci = _joined(found.lspci, parse_lspci(text, name))
            found.bus_listing = found.bus_listing or (name if found.lspci else None)
        elif name.startswith("nvidia-smi"):
            found.lspci = _joined(found.lspci, parse_nvidia_smi(text, name))
        elif parser := next((parse for prefix, parse in _PROFILES.items() if name.startswith(prefix)), None):
            profile = parser(text, name)
            if replace(profile, complete=True) != Profile():
                found.profiles.append(replace(profile, source=name))
                found.bus_listing = found.bus_listing or (name if profile.complete and profile.others else None)

    found.amd_smi = _by_number(found.amd_smi)
    found.lspci = tuple(
        replace(reading, kernel_driver="vfio-pci") if reading.pci in vfio and not reading.kernel_driver else reading
        for reading in found.lspci
    )


def _by_number(answers: list[AmdSmi]) -> list[AmdSmi]:
    """All that amd-smi's commands said of each GPU as one: they number the GPUs alike (`list`, `static`, `partition`)."""
    gpus: dict[int | None, Reading] = {}
    for reading in (reading for answer in answers for reading in answer.gpus):
        first = gpus.setdefault(reading.index, reading)
        if first is not reading:
            gaps = {name: getattr(reading, name) for name in _FIELDS if getattr(first, name) is None}
            gpus[reading.index] = replace(first, **gaps, source=f"{first.source}; {reading.source}")
    if not gpus:
        return answers
    whole = AmdSmi(gpus=tuple(gpus.values()), complete=any(answer.complete and answer.gpus for answer in answers))
    return [whole, *(replace(answer, gpus=()) for answer in answers)]


def _joined(known: tuple[Reading, ...], more: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """Two outputs of lspci as one: `-k` tells the drivers, `-nn` the ids."""
    by_slot = {reading.pci: reading for reading in known}
    for reading in more:
        first = by_slot.get(reading.pci, reading)
        gaps = {name: getattr(reading, name) for name in _FIELDS if getattr(first, name) is None}
        by_slot[reading.pci] = replace(first, **gaps)
    return tuple(by_slot.values())


_FIELDS = tuple(reading_field.name for reading_field in fields(Reading))
_PROFILES: dict[str, Callable[[str, str], Profile]] = {
    "sysinfo": parse_sysinfo,
    "lstopo": parse_lstopo,
    "clinfo": lambda text, name: (parse_clinfo if text.lstrip().startswith("{") else parse_clinfo_text)(text, name),
    "dmesg": parse_dmesg,
    "system_info": parse_system_info,
    "collect": parse_collect_env,
    "uname": parse_uname,
    "inxi": parse_inxi,
    "proc-version": parse_uname,
    "os-release": parse_os_release_text,
    "lsb": parse_os_release_text,
    "hostnamectl": parse_os_release_text,
    "hipconfig": parse_hipconfig,
    "hipcc": parse_hipconfig,
    "modinfo": parse_modinfo,
    "dkms": parse_modinfo,
}
