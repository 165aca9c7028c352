"""All facts of one machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from fa_doctor.evidence import Evidence
from fa_doctor.facts.container import Container
from fa_doctor.facts.driver import Driver
from fa_doctor.facts.gpus import Gpus
from fa_doctor.facts.health import Health
from fa_doctor.facts.libraries import Libraries
from fa_doctor.facts.loaded import Loaded
from fa_doctor.facts.node import Node
from fa_doctor.facts.packages import Aiter, Companion, FlashAttention, Torch, Triton
from fa_doctor.facts.probes import Probe
from fa_doctor.facts.python import Python
from fa_doctor.facts.resources import Resources
from fa_doctor.facts.rocm import RocmInstall
from fa_doctor.facts.system import System
from fa_doctor.facts.toolchain import Toolchain
from fa_doctor.host import User

__all__ = ["Machine"]


@dataclass(frozen=True, slots=True)
class Machine:
    """The sum of the facts; every field that could not be known is None or says so inside.

    `torch`, `triton`, `flash_attention`, `aiter` are None where the target Python has no such package; whether the
    target Python could be read at all is in `python`. `faults` names the gatherers that broke (a fault of ours): their
    facts are unknown.
    """

    host_kind: str
    description: str
    gpus: Gpus = field(default_factory=lambda: Gpus(None, None))
    driver: Driver = field(default_factory=lambda: Driver(None))
    health: Health = field(default_factory=Health)
    node: Node = field(default_factory=Node)
    system: System = field(default_factory=System)
    container: Container = field(default_factory=lambda: Container(None))
    user: User | None = None
    rocm: tuple[RocmInstall, ...] | None = None
    python: Python = field(default_factory=lambda: Python(None, None))
    torch: Torch | None = None
    triton: Triton | None = None
    flash_attention: FlashAttention | None = None
    aiter: Aiter | None = None
    companions: tuple[Companion, ...] = ()
    variables: dict[str, str] | None = None  # those of knowledge/variables.toml that are set; None: not known
    libraries: Libraries = field(default_factory=Libraries)
    toolchain: Toolchain = field(default_factory=Toolchain)
    loaded: Loaded | None = None  # from level standard on
    resources: Resources = field(default_factory=Resources)
    probes: tuple[Probe, ...] = ()
    faults: tuple[Evidence, ...] = ()

    def variable(self, name: str) -> str | None:
        """The value of a variable of knowledge/variables.toml, or None if it is not set (or not known)."""
        return (self.variables or {}).get(name)
