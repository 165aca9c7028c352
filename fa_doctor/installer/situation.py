"""What the choice of a stack depends on: the GPUs, the kernel driver, WSL; from the facts or from what the user said."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fa_doctor.errors import UsageProblem
from fa_doctor.knowledge.gpus import architecture, normalize_gfx
from fa_doctor.knowledge.products import product_from_name

if TYPE_CHECKING:
    from fa_doctor.facts.machine import Machine

__all__ = ["Device", "Situation", "from_machine", "from_targets"]


@dataclass(frozen=True, slots=True)
class Device:
    """One kind of GPU, and how many devices of it there are."""

    gfx: str
    name: str | None = None
    integrated: bool = False
    count: int = 1
    override: str | None = None

    def __str__(self) -> str:
        many = f"{self.count} x " if self.count > 1 else ""
        return f"{many}{self.name or self.gfx} ({self.gfx})" if self.name else f"{many}{self.gfx}"


@dataclass(frozen=True, slots=True)
class Situation:
    """`devices` may be empty: then `absent_because` says what is there instead, or that nothing is known.

    `driver` is the version of the amdgpu kernel module (DKMS); None for the in-tree module or where it is not known.
    """

    devices: tuple[Device, ...]
    absent_because: str | None = None
    driver: str | None = None
    wsl: bool = False
    named_by_user: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        """The distinct gfx targets to serve: those of discrete GPUs, of integrated ones only where there are no other."""
        discrete = [device for device in self.devices if not device.integrated] or list(self.devices)
        return tuple(dict.fromkeys(device.gfx for device in discrete))

    @property
    def left_out(self) -> tuple[Device, ...]:
        """The integrated GPUs that stand beside discrete ones."""
        return tuple(device for device in self.devices if device.gfx not in self.targets)


def from_targets(names: tuple[str, ...], *, any_vendor: bool = False) -> Situation:
    """The GPUs that the user named (`--arch`), as in a container build. Raises UsageProblem for an unknown one.

    `any_vendor`: NVIDIA's targets (sm_90) too, for which kernels can be compiled, if not installed from a stack.
    """
    devices = []
    for name in names:
        if any_vendor and re.fullmatch(r"sm_\d{2,3}", name):
            devices.append(Device(name))
            continue
        gfx = normalize_gfx(name)
        if gfx is None or architecture(gfx) is None:
            product = product_from_name(name)
            hint = f"{product.name} is --arch {product.gfx}" if product else "`fa-doctor gpus` lists them"
            raise UsageProblem(f"{name!r} is no GPU target that is known; {hint}")
        devices.append(Device(gfx))
    return Situation(tuple(devices), named_by_user=True)


def from_machine(machine: Machine) -> Situation:
    """The GPUs that the facts know, by the target of the silicon (an override that is in force does not count)."""
    kinds: dict[str, Device] = {}
    for gpu in machine.gpus.known:
        if gpu.gfx is None:
            continue
        known = kinds.get(gpu.gfx)
        integrated = bool(gpu.integrated) and (known is None or known.integrated)
        kinds[gpu.gfx] = Device(gpu.gfx, gpu.name, integrated, (known.count if known else 0) + 1, machine.gpus.override)
    because = None
    if not kinds:
        others = [f"{other.name or other.vendor}: {other.why}" for other in machine.gpus.others]
        if others:
            because = "; ".join(others)
        else:
            because = "what was read does not tell" if machine.gpus.devices is None else "no AMD GPU was found"
    driver = machine.driver.version if machine.driver.origin != "in-tree" else None
    return Situation(tuple(kinds.values()), because, driver, bool(machine.system.wsl))
