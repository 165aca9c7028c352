"""Which tools are asked about GPUs, and what they answered.

A live machine is asked as little as possible: nothing where sysfs tells, rocminfo where only a runtime can tell (WSL),
and rocminfo (or amd-smi) under a deadline where a deeper look is wanted, since a GPU that is in sysfs while its tool
does not return is wedged. A recorded machine has what somebody kept, in whatever form.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from fa_doctor.facts.gpus.amd_smi import AmdSmi, parse_amd_smi
from fa_doctor.facts.gpus.lspci import parse_lspci
from fa_doctor.facts.gpus.model import Tool, ToolVersions
from fa_doctor.facts.gpus.profiles import Profile, parse_clinfo, parse_lstopo, parse_sysinfo, parse_system_info
from fa_doctor.facts.gpus.reading import Reading
from fa_doctor.facts.gpus.rocm_smi import RocmSmi, parse_rocm_smi
from fa_doctor.facts.gpus.rocminfo import Rocminfo, parse_agent_enumerator, parse_rocminfo
from fa_doctor.host import CommandOutput, Host, Problem

__all__ = ["ToolReadings", "ask_tools"]

QUICK_DEADLINE_S = 2.5  # where sysfs cannot tell (WSL), at the level that promises an answer at once
DEADLINE_S = 10.0  # a healthy rocminfo takes well under a second, with 64 devices about three


@dataclass
class ToolReadings:
    """Readings by tool, best first, and how each tool answered."""

    rocminfo: Rocminfo = field(default_factory=Rocminfo)
    amd_smi: list[AmdSmi] = field(default_factory=list)
    rocm_smi: list[RocmSmi] = field(default_factory=list)
    enumerator: tuple[Reading, ...] = ()
    lspci: tuple[Reading, ...] = ()
    profiles: list[Profile] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)

    @property
    def device_lists(self) -> list[tuple[Reading, ...]]:
        """The lists of compute devices, best first; the enumerator's says only gfx targets."""
        lists = [self.rocminfo.gpus]
        lists += [answer.gpus for answer in self.amd_smi]
        lists += [answer.gpus for answer in self.rocm_smi]
        lists += [profile.gpus for profile in self.profiles if profile.complete]
        lists.append(self.enumerator)
        return [readings for readings in lists if readings]

    @property
    def says_none(self) -> bool:
        """Whether a tool looked and found no device."""
        listed = self.rocminfo.listed and not self.rocminfo.gpus
        troubles = [self.rocminfo.trouble, *(a.trouble for a in self.amd_smi), *(a.trouble for a in self.rocm_smi)]
        return listed or any(troubles)

    @property
    def _smi_trouble(self) -> list[str]:
        said = [answer.trouble for answer in self.amd_smi] + [answer.trouble for answer in self.rocm_smi]
        return [line for lines in said for line in lines]

    @property
    def versions(self) -> ToolVersions:
        smi, profiles = self.amd_smi, self.profiles

        def first(*values: str | None) -> str | None:
            return next((value for value in values if value), None)

        return ToolVersions(
            rocm=first(*(a.rocm_version for a in smi), *(p.rocm_version for p in profiles)),
            driver=first(
                self.rocminfo.module_version,
                *(a.driver_version for a in smi),
                *(a.driver_version for a in self.rocm_smi),
                *(p.driver_version for p in profiles),
            ),
            hsa_runtime=first(self.rocminfo.runtime_version, *(p.runtime_version for p in profiles)),
            hip=first(*(p.hip_version for p in profiles)),
            amd_smi=first(*(a.tool_version for a in smi)),
            platform=first(*(a.platform for a in smi)),
            module_loaded=self.rocminfo.module_loaded,
            driver_missing=next((line for line in self._smi_trouble if "found in modules" in line), None),
        )


def ask_tools(host: Host, *, needed: bool, deep: bool) -> ToolReadings:
    """Asks the tools. `needed`: sysfs shows no device and only a runtime can tell; `deep`: also prove that one answers."""
    found = ToolReadings()
    if host.recorded_names() or host.kind == "recorded":
        _recorded(host, found)
    elif needed or deep:
        output = host.run(["rocminfo"], timeout_s=DEADLINE_S if deep else QUICK_DEADLINE_S)
        _take_rocminfo(output, found)
        if deep and output.problem is Problem.ABSENT:
            _take_amd_smi(host.run(["amd-smi", "list"], timeout_s=DEADLINE_S), found)
    return found


def _take_rocminfo(output: CommandOutput, found: ToolReadings) -> None:
    found.rocminfo = parse_rocminfo(output.stdout + "\n" + output.stderr if output.stderr else output.stdout)
    said = found.rocminfo.trouble[0] if found.rocminfo.trouble else ""
    found.tools.append(_state("rocminfo", output, found.rocminfo.listed, said))


def _take_amd_smi(output: CommandOutput, found: ToolReadings) -> None:
    answer = parse_amd_smi(output.stdout)
    found.amd_smi.append(answer)
    found.tools.append(_state("amd-smi", output, bool(answer.gpus), answer.trouble[0] if answer.trouble else ""))


def _state(name: str, output: CommandOutput, listed: bool, said: str) -> Tool:
    states = {
        Problem.ABSENT: "absent",
        Problem.TIMED_OUT: "hung",
        Problem.UNRECORDED: "not recorded",
        Problem.DENIED: "failed",
        Problem.FAILED: "failed",
    }
    if output.problem is not None:
        stuck = "it is still there after it was killed" if output.unkillable else ""
        said = f"no answer within {output.duration_s:.0f} s; {stuck}".rstrip("; ") if output.duration_s else stuck
        return Tool(name, states[output.problem], said or output.stderr.strip()[:300])
    if listed:
        return Tool(name, "ok")
    lines = (output.stderr or output.stdout).strip().splitlines()
    return Tool(name, "failed", said or (lines[-1].strip()[:300] if lines else f"exit status {output.returncode}"))


def _recorded(host: Host, found: ToolReadings) -> None:
    """Whatever lies among the outputs. Names with "-other" hold the output of another machine of the same kind."""
    output = host.run(["rocminfo"])
    if output.problem is not Problem.UNRECORDED:
        _take_rocminfo(output, found)
    output = host.run(["amd-smi", "list"])
    if output.problem in (Problem.TIMED_OUT, Problem.FAILED, Problem.DENIED):
        _take_amd_smi(output, found)
    for name in host.recorded_names():
        if "-other" in name:
            continue
        text = host.recorded(name).text
        if text is None:
            continue
        if name.startswith("rocminfo"):
            if not found.rocminfo.listed and not found.rocminfo.trouble:
                found.rocminfo = parse_rocminfo(text, name)
        elif name.startswith("amd-smi"):
            found.amd_smi.append(parse_amd_smi(text, name))
        elif name.startswith("rocm-smi"):
            found.rocm_smi.append(parse_rocm_smi(text, name))
        elif name.startswith("rocm_agent_enumerator"):
            found.enumerator = found.enumerator or parse_agent_enumerator(text, name)
        elif name.startswith("lspci"):
            found.lspci = _joined(found.lspci, parse_lspci(text, name))
        elif parser := next((parse for prefix, parse in _PROFILES.items() if name.startswith(prefix)), None):
            profile = parser(text, name)
            if profile != Profile():
                found.profiles.append(profile)


def _joined(known: tuple[Reading, ...], more: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """Two outputs of lspci as one: `-k` tells the drivers, `-nn` the ids."""
    by_slot = {reading.pci: reading for reading in known}
    for reading in more:
        first = by_slot.get(reading.pci, reading)
        gaps = {name: getattr(reading, name) for name in _FIELDS if getattr(first, name) is None}
        by_slot[reading.pci] = replace(first, **gaps)
    return tuple(by_slot.values())


_FIELDS = tuple(reading_field.name for reading_field in fields(Reading))
_PROFILES = {
    "sysinfo": parse_sysinfo,
    "lstopo": parse_lstopo,
    "clinfo": parse_clinfo,
    "system_info": parse_system_info,
}
