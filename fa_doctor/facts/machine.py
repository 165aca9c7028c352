"""All facts of one machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fa_doctor.facts.container import Container
from fa_doctor.facts.driver import Driver
from fa_doctor.facts.gpus import Gpus
from fa_doctor.facts.packages import Companion, FlashAttention, Torch, Triton
from fa_doctor.facts.python import Python
from fa_doctor.facts.rocm import RocmInstall
from fa_doctor.facts.system import System
from fa_doctor.host import Host, User

if TYPE_CHECKING:
    from fa_doctor.diagnosis.model import Level

__all__ = ["Machine", "gather"]


@dataclass(frozen=True, slots=True)
class Machine:
    """The sum of the facts; every field that could not be known is None or says so inside.

    `torch`, `triton`, `flash_attention` are None where the target Python has no such package; whether the target
    Python could be read at all is in `python`.
    """

    host_kind: str
    description: str
    gpus: Gpus = field(default_factory=lambda: Gpus(None, None))
    driver: Driver = field(default_factory=lambda: Driver(None))
    system: System = field(default_factory=System)
    container: Container = field(default_factory=lambda: Container(None))
    user: User | None = None
    rocm: tuple[RocmInstall, ...] | None = None
    python: Python = field(default_factory=lambda: Python(None, None))
    torch: Torch | None = None
    triton: Triton | None = None
    flash_attention: FlashAttention | None = None
    companions: tuple[Companion, ...] = ()
    variables: dict[str, str] | None = None  # those of knowledge/variables.toml that are set; None: not known


def gather(host: Host, *, level: Level, python: str | None, deadline: float) -> Machine:
    """Asks the host for all facts of `level`. `deadline` is in time.monotonic seconds."""
    return Machine(host_kind=host.kind, description=host.description, user=host.user)
