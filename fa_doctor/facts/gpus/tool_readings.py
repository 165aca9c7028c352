"""What each tool answered about GPUs, and in what state it was found."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fa_doctor.facts.gpus.model import Tool, ToolVersions
from fa_doctor.facts.gpus.reading import Reading
from fa_doctor.facts.gpus.rocminfo import Rocminfo, parse_rocminfo
from fa_doctor.host import CommandOutput, Problem

if TYPE_CHECKING:
    from fa_doctor.facts.gpus.amd_smi import AmdSmi
    from fa_doctor.facts.gpus.profiles import Profile
    from fa_doctor.facts.gpus.rocm_smi import RocmSmi

__all__ = ["ToolReadings", "take_amd_smi", "take_rocminfo"]


@dataclass
class ToolReadings:
    """Readings by tool, best first, and how each tool answered."""

    rocminfo: Rocminfo = field(default_factory=Rocminfo)
    amd_smi: list[AmdSmi] = field(default_factory=list)
    rocm_smi: list[RocmSmi] = field(default_factory=list)
    enumerator: tuple[Reading, ...] = ()
    lspci: tuple[Reading, ...] = ()
    bus_listing: str | None = None  # the output that lists the display controllers on the PCI bus, if there is one
    profiles: list[Profile] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)

    @property
    def device_lists(self) -> list[tuple[Reading, ...]]:
        """The lists of compute devices, best first; the enumerator's says only gfx targets."""
        lists = [self.rocminfo.gpus]
        lists += [answer.gpus for answer in self.amd_smi if answer.complete]
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

        releases = [(a.rocm_version, a.source) for a in smi] + [(p.rocm_version, p.source) for p in profiles]
        rocm, rocm_source = next((named for named in releases if named[0]), (None, None))
        drivers = [
            self.rocminfo.module_version,
            *(a.driver_version for a in smi),
            *(a.driver_version for a in self.rocm_smi),
            *(p.driver_version for p in profiles),
        ]
        # For the kernel's own driver the tools print the kernel's release: "6.8.0-60-generic". Cut ones have no letters.
        releases_of_kernel = [said for said in drivers if said and re.match(r"[0-9]+\.[0-9]+\.[0-9]+-.*[a-z]", said)]
        named_in = first(*(p.source for p in profiles if p.kernel or p.distribution))
        return ToolVersions(
            rocm=rocm,
            rocm_source=rocm_source,
            driver=first(*drivers),
            hsa_runtime=first(self.rocminfo.runtime_version, *(p.runtime_version for p in profiles)),
            hip=first(*(p.hip_version for p in profiles)),
            amd_smi=first(*(a.tool_version for a in smi)),
            platform=first(*(a.platform for a in smi)),
            kernel=first(*(p.kernel for p in profiles), *releases_of_kernel),
            distribution=first(*(p.distribution for p in profiles)),
            system_source=named_in or ("amd-smi or rocm-smi" if releases_of_kernel else None),
            processor=first(*(p.processor for p in profiles)),
            wsl=self.rocminfo.wsl or None,
            module_loaded=self.rocminfo.module_loaded,
            driver_missing=next((line for line in self._smi_trouble if "found in modules" in line), None),
        )


def take_rocminfo(output: CommandOutput, found: ToolReadings) -> None:
    """Adds what rocminfo answered."""
    found.rocminfo = parse_rocminfo(output.stdout + "\n" + output.stderr if output.stderr else output.stdout)
    said = found.rocminfo.trouble[0] if found.rocminfo.trouble else ""
    found.tools.append(_state("rocminfo", output, found.rocminfo.listed, said))


def take_amd_smi(output: CommandOutput, found: ToolReadings) -> None:
    """Adds what amd-smi answered."""
    from fa_doctor.facts.gpus.amd_smi import parse_amd_smi

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
