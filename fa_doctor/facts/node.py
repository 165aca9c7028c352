"""How the machine as a whole is set up for its GPUs: what AMD's guides on tuning a server look at."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fa_doctor.evidence import Evidence
from fa_doctor.facts.gpus.model import Gpus
from fa_doctor.facts.system import System
from fa_doctor.host import Host

__all__ = ["IdleState", "Node", "chosen_option", "gather"]

_STATE_LIMIT = 12


@dataclass(frozen=True, slots=True)
class IdleState:
    """An idle state of the first processor; `latency_us` is the time that leaving it takes."""

    name: str
    latency_us: int | None
    disabled: bool | None


@dataclass(frozen=True, slots=True)
class Node:
    """`iommu` is how the first GPU's memory requests are handled: "identity" (passed through), "DMA" or "DMA-FQ"
    (translated), "none" (no IOMMU is in use), or None. `numa_nodes` counts those with memory."""

    numa_balancing: bool | None = None
    numa_nodes: int | None = None
    iommu: str | None = None
    command_line: tuple[str, ...] | None = None
    transparent_hugepages: str | None = None  # "always", "madvise", "never"
    idle_states: tuple[IdleState, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    def has_option(self, *options: str) -> bool | None:
        """Whether one of these words stands in the kernel's command line; None if that is not known."""
        return None if self.command_line is None else any(option in self.command_line for option in options)


def gather(host: Host, gpus: Gpus, system: System) -> Node:
    """Reads a handful of files; the idle states only of the first processor, since all are set alike."""
    evidence: list[Evidence] = []

    def line(path: str) -> str | None:
        text = host.read_line(path)
        if text:
            evidence.append(Evidence(path, text[:300]))
        return text or None

    balancing = line("/proc/sys/kernel/numa_balancing")
    has_memory = line("/sys/devices/system/node/has_memory") or line("/sys/devices/system/node/online")
    pages = line("/sys/kernel/mm/transparent_hugepage/enabled")
    words = system.kernel_command_line.split() if system.kernel_command_line else None
    return Node(
        numa_balancing=None if balancing not in ("0", "1", "2") else balancing != "0",
        numa_nodes=_count(has_memory),
        iommu=_iommu(host, gpus, evidence),
        command_line=tuple(words) if words is not None else None,
        transparent_hugepages=chosen_option(pages or ""),
        idle_states=_idle_states(host),
        evidence=tuple(evidence),
    )


def chosen_option(text: str) -> str | None:
    """The word in brackets of a file such as `always [madvise] never`."""
    match = re.search(r"\[(\w+)\]", text)
    return match[1] if match else None


def _count(text: str | None) -> int | None:
    """How many numbers a list such as "0-1,4" holds."""
    if not text or not re.fullmatch(r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*", text, re.ASCII):
        return None
    total = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        total += max(0, int(last or first) - int(first) + 1)
    return total


def _iommu(host: Host, gpus: Gpus, evidence: list[Evidence]) -> str | None:
    address = next((gpu.pci for gpu in gpus.known if gpu.pci and not gpu.integrated), None)
    if address is None:
        return None
    path = f"/sys/bus/pci/devices/{address}/iommu_group/type"
    text = host.read_line(path)
    if text:
        evidence.append(Evidence(path, text))
        return text
    if (
        host.exists(f"/sys/bus/pci/devices/{address}")
        and host.exists(f"/sys/bus/pci/devices/{address}/iommu_group") is False
    ):
        evidence.append(Evidence(f"/sys/bus/pci/devices/{address}/iommu_group", "not there"))
        return "none"
    return None


def _idle_states(host: Host) -> tuple[IdleState, ...]:
    folder = "/sys/devices/system/cpu/cpu0/cpuidle"
    found: list[IdleState] = []
    names = [name for name in host.list(folder).names if re.fullmatch(r"state[0-9]{1,2}", name)]
    for name in sorted(names, key=lambda name: int(name[5:]))[:_STATE_LIMIT]:
        latency, disabled = host.read_line(f"{folder}/{name}/latency"), host.read_line(f"{folder}/{name}/disable")
        found.append(
            IdleState(
                name=host.read_line(f"{folder}/{name}/name") or name,
                latency_us=int(latency) if latency and re.fullmatch(r"[0-9]{1,9}", latency, re.ASCII) else None,
                disabled=None if disabled not in ("0", "1") else disabled == "1",
            )
        )
    return tuple(found)
