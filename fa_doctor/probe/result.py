"""Reads what a probe's child wrote into its pipe, whatever stands there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fa_doctor.facts.probes import Ending, Step, StepState
from fa_doctor.host import CommandOutput, Problem

__all__ = ["read_steps", "tail"]

_OUTPUT_TAIL = 12_000  # characters of the child's own output that are kept: a traceback, a fault of the driver


def read_steps(report: str, names: Sequence[str], ending: Ending) -> tuple[tuple[Step, ...], int]:
    """The steps from the lines of a report, in the order of `names`, and how many lines could not be read.

    Lines that are not JSON objects with a known event and step are counted and passed over: a child whose memory is
    damaged may write anything. A step that began and did not end is the one in which the child died or hung; what it
    noted until then stands in its details as "notes".
    """
    states: dict[str, Step] = {}
    notes: dict[str, list[dict[str, Any]]] = {}
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
        if name not in names or event not in ("begin", "note", "end", "error"):
            garbage += 1
            continue
        if event == "note":
            notes.setdefault(name, []).append(entry)
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
    for name, told in notes.items():
        if name in states:
            states[name].details.setdefault("notes", told)
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
