"""Runs a sweep in children of the target Python: a point that kills its process costs that point only."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from fa_doctor.bench.grid import Point, key_of
from fa_doctor.bench.store import Store
from fa_doctor.bench.summary import CRASHED
from fa_doctor.errors import Undecided
from fa_doctor.host import Host
from fa_doctor.probe.launch import package_folders
from fa_doctor.probe.result import tail

__all__ = ["run_sweep"]

_POINT_TIMEOUT_S = 120.0  # longer than any point takes with the compilation of its kernels


def run_sweep(
    host: Host,
    python: str,
    points: Sequence[Point],
    store: Store,
    on_point: Callable[[Point], None],
    seconds_per_point: float,
    device: str = "cuda",
) -> None:
    """Measures on "cuda" or "cpu" every point that `store` does not hold yet, and stores each as soon as it is measured.

    When the child ends in the middle of a point, that point is stored with the error and the next child begins behind
    it. Raises Undecided if a child ends before it could say what machine it runs on.
    """
    left = [point for point in points if key_of(point) not in store.points]
    while left:
        numbered = dict(enumerate(left))
        state: dict[str, Any] = {"current": None, "machine": False}

        def heard(line: str, numbered: dict[int, Point] = numbered, state: dict[str, Any] = state) -> None:
            try:
                entry = json.loads(line)
                event = entry.pop("event")
            except (ValueError, TypeError, KeyError, AttributeError):
                return
            if event == "machine":
                entry.pop("step", None)
                store.set_machine({**entry, "device": device})
                state["machine"] = True
            elif event == "begin":
                state["current"] = entry.get("number")
            elif event == "end" and entry.get("number") in numbered and isinstance(entry.get("result"), dict):
                measured = {**numbered[entry["number"]], **entry["result"]}
                store.add(measured)
                state["current"] = None
                on_point(measured)

        request = {
            "mode": "bench",
            "device": device,
            "seconds": seconds_per_point,
            "points": [{**point, "number": number} for number, point in numbered.items()],
        }
        with package_folders() as (child, kernels):
            argv = [python, str(child), json.dumps({**request, "kernels": str(kernels)})]
            timeout = _POINT_TIMEOUT_S * len(left)
            output = host.run(argv, timeout_s=timeout, report=True, label="bench", on_report=heard)
        if not state["machine"]:
            words = tail(output).strip().splitlines()
            raise Undecided(f"nothing could be measured: {words[-1] if words else 'the child said nothing'}")
        if state["current"] in numbered:
            words = tail(output).strip().splitlines()
            broken = {
                **numbered[state["current"]],
                "error": f"{CRASHED}: {words[-1] if words else output.returncode}",
            }
            store.add(broken)
            on_point(broken)
        remaining = [point for point in left if key_of(point) not in store.points]
        if len(remaining) == len(left):
            raise Undecided("the child ended between two points without measuring anything")
        left = remaining
