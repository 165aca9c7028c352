"""Puts together what is known beside the log: the given facts or report, and the machine at hand."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from fa_doctor.diagnosis.context import Context, context_from_mapping

__all__ = ["build_context", "facts_of_report", "machine_facts"]

# Reading sysfs takes milliseconds; where a driver hangs it takes for ever, and a log can be explained without.
PATIENCE_S = 2.0


def build_context(given: Mapping[str, Any] | None, *, look: bool) -> Context:
    """The context of given facts (or a report), with this machine's beside it where `look` asks for them.

    Given facts win. This machine is not looked at when the given ones name a GPU: they then speak of another one.
    """
    facts = dict(given or {})
    if "machine" in facts or "gpus" in facts:
        facts = facts_of_report(facts)
    context = context_from_mapping(facts)
    if look and "gfx" not in context.facts and "gpu" not in context.facts:
        context.machine = context_from_mapping(patiently())
    return context


def patiently() -> dict[str, Any]:
    """The facts of this machine, or none if reading them takes longer than PATIENCE_S."""
    found: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: found.append(machine_facts()), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return found[0] if found else {}


def machine_facts() -> dict[str, Any]:
    """What this machine says of itself, as facts for `context_from_mapping`.

    Only what files and the environment tell: no tool of ROCm is run and no package is looked into, so that a log is
    explained in a fraction of a second. For the rest give a report of `fa-doctor check` as context.
    """
    from fa_doctor.facts import container, gpus, system, variables
    from fa_doctor.host import LiveHost

    host = LiveHost()
    the_gpus = gpus.gather(host, deep=False)
    the_system = system.gather(host)
    the_container = container.gather(host)
    known = the_gpus.known
    facts: dict[str, Any] = {
        "gpu": ", ".join(gpu.name or "AMD GPU" for gpu in known),
        "gfx": ", ".join(dict.fromkeys(gpu.gfx for gpu in known if gpu.gfx)),
        "wsl": bool(the_system.wsl),
        "os": " ".join(part for part in (the_system.pretty_name, the_system.kernel) if part),
        "container": (the_container.runtime or "container") if the_container.inside else None,
        "env": variables.gather(host),
    }
    if {gpu.integrated for gpu in known} == {True, False}:
        facts["integrated_beside_discrete"] = True
    return facts


def facts_of_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """The facts for `context_from_mapping` out of a report of `fa-doctor check` (or its `machine` object alone)."""
    machine: Mapping[str, Any] = report.get("machine", report)
    gpus = [gpu for gpu in listed(machine, "gpus") if isinstance(gpu, Mapping)]
    torch, triton = part(machine, "torch"), part(machine, "triton")
    owners = [f"{each.get('name')} {each.get('version')}" for each in listed(triton, "distributions")]
    container = part(machine, "container")
    inside = container.get("runtime") or container.get("kind") or ("container" if container.get("inside") else None)
    return {
        "gpu": ", ".join(str(gpu.get("name") or "AMD GPU") for gpu in gpus),
        "gfx": ", ".join(dict.fromkeys(str(gpu["gfx"]) for gpu in gpus if gpu.get("gfx"))),
        "integrated_beside_discrete": {gpu.get("integrated") for gpu in gpus} == {True, False},
        "rocm": ", ".join(str(each["version"]) for each in listed(machine, "rocm") if part(each).get("version")),
        "torch": torch.get("version"),
        "torch_rocm": torch.get("rocm") or torch.get("hip"),
        "torch_build": torch.get("build") if torch.get("build") in ("cuda", "cpu") else None,
        "triton": " and ".join(owners) if len(owners) > 1 else triton.get("version"),
        "flash_attn": part(machine, "flash_attn").get("version"),
        "python": part(machine, "python").get("version"),
        "os": " ".join(
            str(part(machine, "os")[key]) for key in ("pretty_name", "name", "kernel") if part(machine, "os").get(key)
        ),
        "container": f"rootless {inside}" if inside and container.get("rootless") else inside,
        "wsl": bool(machine.get("wsl")),
        "env": {str(name): value for name, value in part(machine, "environment").items() if isinstance(value, str)},
    }


def part(holder: Any, name: str | None = None) -> Mapping[str, Any]:
    """An object of a report, or an empty one where it is missing or something else."""
    value = holder.get(name) if name is not None and isinstance(holder, Mapping) else holder
    return value if isinstance(value, Mapping) else {}


def listed(holder: Any, name: str) -> list[Any]:
    """A list of a report, or an empty one where it is missing or something else."""
    value = part(holder).get(name)
    return value if isinstance(value, list) else []
