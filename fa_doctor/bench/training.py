"""Trains a small GPT with each attention and lays the results side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from fa_doctor.bench.summary import Table
from fa_doctor.facts.probes import Ending
from fa_doctor.host import Host
from fa_doctor.probe.launch import package_folders
from fa_doctor.probe.result import read_steps, tail

__all__ = ["SCHEMA", "train", "training_table"]

SCHEMA = "fa-doctor/training/1"
_STEPS = ("train", "longest")


def train(
    host: Host,
    python: str,
    providers: Sequence[str],
    request: dict[str, Any],
    timeout_s: float,
    on_run: Callable[[str, dict[str, Any]], None],
) -> dict[str, Any]:
    """{"schema", "machine", "setting", "runs": {provider: {"losses", "samples_per_s", "peak_bytes", "longest",
    "longest_at_limit"} or {"error"}}}.

    One child a provider, one after the other: each has the GPU to itself.
    """
    runs: dict[str, dict[str, Any]] = {}
    machine: dict[str, Any] = {}
    for provider in providers:
        with package_folders() as (child, kernels):
            asked = {"mode": "train", "kernels": str(kernels), "provider": provider, **request}
            argv = [python, str(child), json.dumps(asked)]
            output = host.run(argv, timeout_s=timeout_s, report=True, label=f"train-{provider}")
        ending = Ending(output.returncode, output.problem.value if output.problem else None, output.unkillable)
        steps, _ = read_steps(output.report, _STEPS, ending)
        trained, longest = steps
        run: dict[str, Any] = dict(trained.details)
        if trained.state != "ok":
            words = trained.error.splitlines() or tail(output).strip().splitlines()[-1:] or [str(ending)]
            run = {"error": words[0]}
        elif "length" in longest.details:
            run["longest"] = longest.details["length"]
            run["longest_at_limit"] = bool(longest.details.get("at_limit"))
        machine = run.pop("machine", machine)
        runs[provider] = run
        on_run(provider, run)
    return {"schema": SCHEMA, "machine": machine, "setting": request, "runs": runs}


def training_table(document: dict[str, Any]) -> Table:
    """Samples a second, peak memory in GiB, longest sequence, and the last loss of each run."""
    rows = []
    for name, run in document["runs"].items():
        if "error" in run:
            rows.append([name, str(run["error"])[:60], "", "", ""])
            continue
        rows.append(
            [
                name,
                f"{run['samples_per_s']:.1f}" if run.get("samples_per_s") else "?",
                f"{run['peak_bytes'] / 2**30:.2f}" if run.get("peak_bytes") is not None else "-",
                f"{'at least ' if run.get('longest_at_limit') else ''}{run.get('longest', '-')}",
                f"{sum(run['losses'][-10:]) / len(run['losses'][-10:]):.4f}",
            ]
        )
    return ["attention", "samples/s", "peak GiB", "longest sequence", "last loss"], rows
