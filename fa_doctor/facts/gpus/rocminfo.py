"""What `rocminfo` prints: the agents of the HSA runtime, as they are under the variables of its environment."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from fa_doctor.facts.gpus.reading import Reading, lookup_text, plain_unique_id
from fa_doctor.knowledge.gpus import normalize_gfx

__all__ = ["Rocminfo", "parse_agent_enumerator", "parse_rocminfo", "without_ansi"]

_ANSI = re.compile(r"\x1b\[[0-9;?]{0,20}[A-Za-z]")
_AGENT = re.compile(r"Agent [0-9]{1,5}")
_NAME = re.compile(r"Name:\s+(?!amdgcn-)\S.*")  # where lines were picked with grep, each name is another agent's
_TROUBLE = ("unable to open", "failed", "not loaded", "no wddm adapters", "error", "not permitted", "permission")


@dataclass(frozen=True, slots=True)
class Rocminfo:
    """The GPU agents, and what the head says. `module_version` is printed for a module that has one (DKMS).

    `trouble` are the lines that say why there is nothing; `cpu_agents` the processors.
    """

    gpus: tuple[Reading, ...] = ()
    cpu_agents: int = 0
    runtime_version: str | None = None
    module_loaded: bool | None = None
    module_version: str | None = None
    wsl: bool = False
    trouble: tuple[str, ...] = ()

    @property
    def listed(self) -> bool:
        """Whether agents were listed at all: without it, no GPU in the text means nothing."""
        return bool(self.gpus or self.cpu_agents)


@dataclass
class _Agent:
    """The lines of one agent while they are read: the first value of each key, its ISAs, its pools by segment."""

    values: dict[str, str] = field(default_factory=dict)
    isas: list[str] = field(default_factory=list)
    pools: list[tuple[str, int]] = field(default_factory=list)
    segment: str = ""


def without_ansi(text: str) -> str:
    """The text without colour escapes."""
    return _ANSI.sub("", text) if "\x1b" in text else text


def parse_rocminfo(text: str, source: str = "rocminfo") -> Rocminfo:
    """Reads rocminfo's output, of any release since 2019; text that is none gives an empty result."""
    agents: list[_Agent] = []
    head: list[str] = []
    lines = [line.strip() for line in without_ansi(text).splitlines()]
    begins = _AGENT if any(map(_AGENT.fullmatch, lines)) else _NAME
    for line in lines:
        if begins.fullmatch(line):
            agents.append(_Agent())
            _read_line(agents[-1], line)
        elif agents:
            _read_line(agents[-1], line)
        elif line:
            head.append(line[:300])
    gpus = [agent for agent in agents if _is_gpu(agent)]
    runtime = next((line.partition(":")[2].strip() for line in head if line.startswith("Runtime Version:")), None)
    module = next((match for line in head if (match := re.match(r"ROCk module (.*?)is (NOT )?loaded", line))), None)
    version = re.search(r"version (\S+)", module[1]) if module else None
    return Rocminfo(
        gpus=tuple(_reading(agent, number, source) for number, agent in enumerate(gpus)),
        cpu_agents=sum(agent.values.get("Device Type", "CPU") == "CPU" and agent not in gpus for agent in agents),
        runtime_version=runtime,
        module_loaded=None if module is None else module[2] is None,
        module_version=version[1] if version else None,
        wsl=any("WSL environment detected" in line for line in head),
        trouble=tuple(line for line in head if any(word in line.lower() for word in _TROUBLE))[:8],
    )


def parse_agent_enumerator(text: str, source: str = "rocm_agent_enumerator") -> tuple[Reading, ...]:
    """The GPUs that `rocm_agent_enumerator` lists, one gfx target a line; gfx000 stands for a processor."""
    targets = [line.strip() for line in without_ansi(text).splitlines()]
    gfx = [target for target in targets if re.fullmatch(r"gfx[0-9a-f]{3,5}", target) and target != "gfx000"]
    return tuple(Reading(source=source, index=number, gfx_reported=target) for number, target in enumerate(gfx))


def _read_line(agent: _Agent, line: str) -> None:
    key, colon, value = line.partition(":")
    if not colon:
        return
    key, value = key.strip(), value.strip()
    if key == "Name" and value.startswith("amdgcn-"):
        agent.isas.append(value)
    elif key == "Segment":
        agent.segment = value
    elif key == "Size" and agent.segment:
        match = re.match(r"([0-9]{1,18})(?:\(0x[0-9a-fA-F]+\))?\s*KB", value)
        if match:
            agent.pools.append((agent.segment, int(match[1]) * 1024))
        agent.segment = ""
    else:
        agent.values.setdefault(key, value)


def _is_gpu(agent: _Agent) -> bool:
    kind = agent.values.get("Device Type")
    return kind == "GPU" if kind else agent.values.get("Name", "").startswith("gfx")


def _number(agent: _Agent, *keys: str) -> int | None:
    """The decimal number that a value begins with: "29772(0x744c)" gives 29772."""
    for key in keys:
        match = re.match(r"[0-9]{1,18}", agent.values.get(key, ""), re.ASCII)
        if match:
            return int(match[0])
    return None


def _reading(agent: _Agent, number: int, source: str) -> Reading:
    # The coarse grained pool is the memory of the device; an APU lists the same system memory in each of its pools.
    pools = [size for segment, size in agent.pools if segment.startswith("GLOBAL") and "COARSE" in segment]
    pools = pools or [size for segment, size in agent.pools if segment.startswith("GLOBAL")]
    location = _number(agent, "BDFID")
    properties = agent.values.get("Memory Properties")
    isas = tuple(isa.rpartition("--")[2] for isa in agent.isas)
    return Reading(
        source=f"{source}, Agent with Internal Node ID {agent.values.get('Internal Node ID', '?')[:20]}",
        index=number,
        gfx_reported=normalize_gfx(agent.values.get("Name", "")) or (normalize_gfx(isas[0]) if isas else None),
        isas=isas or None,
        name=lookup_text(agent.values.get("Marketing Name")),
        device_id=_number(agent, "Chip ID"),
        location=location or None,
        unique_id=plain_unique_id(agent.values.get("Uuid")),
        wavefront_size=_number(agent, "Wavefront Size"),
        compute_units=_number(agent, "Compute Unit"),
        simd_per_cu=_number(agent, "SIMDs per CU") or None,
        pool_bytes=pools[0] if pools else None,
        # Releases before 6.2 do not print the line at all; an empty one says that it is no APU.
        integrated=None if properties is None else "APU" in properties,
        kfd_node=_number(agent, "Internal Node ID", "Node"),
    )
