"""How the probe's children fared: what ran on each device, how far it came, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fa_doctor.host import Problem

__all__ = ["Ending", "Probe", "Step", "StepState"]


class StepState:
    """How a step went."""

    OK = "ok"
    FAILED = "failed"  # it raised, and said so
    DIED = "died"  # the process ended while it ran
    HUNG = "hung"  # the deadline came while it ran
    NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a probe. `error` is the exception's type and message, `trace` its traceback."""

    name: str
    state: str
    seconds: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the child ended: its exit status (negative: the signal), or that it had to be killed or never started."""

    returncode: int | None
    problem: str | None = None
    unkillable: bool = False

    def __str__(self) -> str:
        if self.unkillable:
            return "it could not even be killed: it waits in the kernel for the driver"
        if self.problem == Problem.TIMED_OUT.value:
            return "it did not end in time and was killed"
        if self.problem is not None:
            return f"it could not be started ({self.problem})"
        if self.returncode is not None and self.returncode < 0:
            return f"it was killed by {_signal_name(-self.returncode)}"
        return f"it ended with exit status {self.returncode}"


@dataclass(frozen=True, slots=True)
class Probe:
    """One child on one device. `device` is the index among the machine's devices, None where there is no GPU: then the
    kernels ran in Triton's interpreter on the CPU. `garbage` counts lines of the report that could not be read."""

    mode: str
    device: int | None
    steps: tuple[Step, ...]
    ending: Ending
    output: str
    garbage: int = 0
    duration_s: float = 0.0

    @property
    def on_gpu(self) -> bool:
        return self.device is not None

    @property
    def failed(self) -> Step | None:
        """The step that went wrong, if one did."""
        return next((s for s in self.steps if s.state in (StepState.FAILED, StepState.DIED, StepState.HUNG)), None)

    @property
    def complete(self) -> bool:
        """Whether every step was reached and went well."""
        return bool(self.steps) and all(step.state == StepState.OK for step in self.steps)

    @property
    def last_good(self) -> Step | None:
        good = [step for step in self.steps if step.state == StepState.OK]
        return good[-1] if good else None

    def details(self, step: str) -> dict[str, Any]:
        """What a step reported, empty if it did not."""
        return next((found.details for found in self.steps if found.name == step), {})


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
