"""What a probe's child reported, and how it ended: read from its pipe, whatever stands there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fa_doctor.host import CommandOutput, Problem

__all__ = ["Ending", "Probe", "Step", "StepState", "read_steps", "tail"]

_OUTPUT_TAIL = 12_000  # characters of the child's own output that are kept: a traceback, a fault of the driver


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


def read_steps(report: str, names: Sequence[str], ending: Ending) -> tuple[tuple[Step, ...], int]:
    """The steps from the lines of a report, in the order of `names`, and how many lines could not be read.

    Lines that are not JSON objects with a known event and step are counted and passed over: a child whose memory is
    damaged may write anything. A step that began and did not end is the one in which the child died or hung.
    """
    states: dict[str, Step] = {}
    garbage = 0
    for line in report.split("\n"):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            event, name = entry.pop("event"), entry.pop("step")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            garbage += 1
            continue
        if name not in names or event not in ("begin", "end", "error"):
            garbage += 1
            continue
        seconds = entry.pop("seconds", None)
        seconds = float(seconds) if isinstance(seconds, int | float) else None
        if event == "begin":
            state = StepState.HUNG if ending.problem == Problem.TIMED_OUT.value else StepState.DIED
            states[name] = Step(name, state)
        elif event == "end":
            states[name] = Step(name, StepState.OK, seconds, entry)
        else:
            error = f"{entry.pop('type', 'error')}: {entry.pop('message', '')}"
            trace = str(entry.pop("traceback", ""))
            states[name] = Step(name, StepState.FAILED, seconds, entry, error, trace)
    steps = tuple(states.get(name, Step(name, StepState.NOT_REACHED)) for name in names)
    if not states and names:
        # It never said a word: it died, or hung, before the first step began.
        state = StepState.HUNG if ending.problem == Problem.TIMED_OUT.value else StepState.DIED
        steps = (Step(names[0], state), *steps[1:])
    elif ending.returncode != 0 and all(step.state in (StepState.OK, StepState.NOT_REACHED) for step in steps):
        # Between two steps: the one that should have come next is the one that did not.
        place = next((number for number, step in enumerate(steps) if step.state != StepState.OK), len(steps) - 1)
        steps = (*steps[:place], Step(steps[place].name, StepState.DIED), *steps[place + 1 :])
    return steps, garbage


def tail(output: CommandOutput) -> str:
    """The end of what the child printed, standard error last, since that is where faults are told."""
    half = _OUTPUT_TAIL // 2
    return "\n".join(part for part in (output.stdout[-half:].strip(), output.stderr[-_OUTPUT_TAIL:].strip()) if part)


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
