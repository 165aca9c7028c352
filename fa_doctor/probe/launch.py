"""Starts the probe's children: one for each device, side by side, each under a deadline."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fa_doctor.facts.probes import Ending, Probe
from fa_doctor.host import Host, Problem
from fa_doctor.host.command import give_up
from fa_doctor.package_files import on_disk, package_files
from fa_doctor.probe.result import read_steps, tail

__all__ = ["launch", "package_folders"]


@contextlib.contextmanager
def package_folders() -> Iterator[tuple[Path, Path]]:
    """The folders of the child's code and of the kernels, on disk also where fa-doctor itself is one zip file."""
    with (
        on_disk(package_files("fa_doctor.probe.child")) as child,
        on_disk(package_files("fa_doctor.kernels")) as kernels,
    ):
        yield child, kernels


def launch(
    host: Host,
    python: str,
    mode: str,
    steps: Sequence[str],
    devices: Sequence[int | None],
    timeout_s: float,
    *,
    hide_by: str | None = "HIP_VISIBLE_DEVICES",
    request: dict[str, Any] | None = None,
    kernels: str | None = None,
    env: dict[str, str] | None = None,
) -> list[Probe]:
    """Runs one child a device with `python` and returns what came of each, within `timeout_s` seconds.

    Each child sees only its device (by `hide_by`, if given, on top of what the user's own variables leave visible); None stands
    for no GPU: Triton's interpreter on the CPU. `kernels` replaces the folder of the bundled kernels.
    """
    deadline = time.monotonic() + timeout_s
    seed = secrets.randbelow(1 << 31)
    with package_folders() as (child, bundled), ThreadPoolExecutor(max_workers=max(1, len(devices))) as pool:

        def one(device: int | None) -> Probe:
            left = max(0.1, deadline - time.monotonic())
            asked = {
                "mode": mode,
                "deadline": time.monotonic() + left,
                "kernels": kernels or str(bundled),
                "device": "cpu" if device is None else "cuda",
                **(request or {}),
            }
            if device is not None:
                asked["number"] = device
            environment = {
                "PYTHONUNBUFFERED": "1",
                "FA_DOCTOR_SEED": str(seed),
                # What would let something else than compiled kernels run, and call that a success.
                "TRITON_INTERPRET": "1" if device is None else "0",
                "FA_DOCTOR_KERNELS": "triton",
                **(env or {}),
            }
            if device is not None and hide_by is not None:
                environment[hide_by] = _restrict(host, hide_by, device)
            argv = [python, str(child), json.dumps(asked, sort_keys=True)]
            label = f"probe-{mode}-{'cpu' if device is None else device}"
            output = host.run(argv, timeout_s=left, env=environment, report=True, label=label)
            ending = Ending(output.returncode, output.problem.value if output.problem else None, output.unkillable)
            read, garbage = read_steps(output.report, steps, ending)
            if output.problem in (Problem.UNRECORDED, Problem.ABSENT):
                read = ()
            return Probe(mode, device, read, ending, tail(output), garbage, output.duration_s)

        try:
            return list(pool.map(one, devices))
        except KeyboardInterrupt:
            give_up()
            raise


def _restrict(host: Host, variable: str, device: int) -> str:
    """The value that leaves one device of those that the user's own value of the variable leaves."""
    left = [entry.strip() for entry in (host.environ or {}).get(variable, "").split(",") if entry.strip()]
    return left[device] if device < len(left) else str(device)
