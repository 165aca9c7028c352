"""One examination: facts, then checks, within a deadline that holds even when reading the machine itself hangs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from fa_doctor.diagnosis.check import Check
from fa_doctor.diagnosis.engine import run_checks
from fa_doctor.diagnosis.model import Evidence, Finding, unknown
from fa_doctor.host import Host
from fa_doctor.level import Level

if TYPE_CHECKING:
    from fa_doctor.facts.machine import Machine

__all__ = ["examine"]

_THREAD = "facts"
_RESERVE_S = 0.2  # kept back from the deadline for writing the report


def examine(
    host: Host, checks: Sequence[Check], level: Level, timeout_s: float, python: str | None = None
) -> tuple[Machine, list[Finding]]:
    """Gathers the facts and runs the checks; returns within `timeout_s` seconds, whatever hangs.

    A read of sysfs or of a dead network file system can block in the kernel, where no signal ends it. So the facts
    are gathered in a thread that is left behind when the time is up: then every check is reported as not run, and the
    first finding names what was being read. (An ordinary exit of the process would wait for it, see `__main__.py`.)
    """
    from fa_doctor.diagnosis.gather import gather
    from fa_doctor.facts.machine import Machine

    deadline = time.monotonic() + timeout_s - _RESERVE_S
    outcome: list[Machine | BaseException] = []

    def work() -> None:
        try:
            outcome.append(gather(host, level=level, python=python, deadline=deadline))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True, name=_THREAD)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if not outcome:
        place = _where()
        machine = Machine(host_kind=host.kind, description=host.description)
        reason = unknown(
            f"the facts were not gathered within {timeout_s:g} s",
            Evidence("fa-doctor", f"still in {place}"),
            detail="Something on this machine does not answer: a driver that hangs, a dead network file system, or "
            "a machine under heavy load. --timeout gives more time.",
        )
        not_run = unknown("not run: the facts were not gathered in time")
        return machine, [
            Finding(check.id, check.name, not_run if number else reason) for number, check in enumerate(checks)
        ]
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    machine = outcome[0]
    return machine, run_checks(machine, checks, level, deadline)


def _where() -> str:
    """The function of the facts that a thread is in: what was being read when the time was up."""
    frames = sys._current_frames()
    for thread in threading.enumerate():
        if not thread.name.startswith(_THREAD):
            continue
        frame: FrameType | None = frames.get(thread.ident or 0)
        names = []
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.startswith("fa_doctor.facts."):
                names.append(f"{module.rsplit('.', 1)[-1]}.{frame.f_code.co_name}")
            frame = frame.f_back
        if names:
            return ", called by ".join(names[:3])
    return "reading the machine"
