"""Fills the fixes of a failure for the machine at hand: chooses those whose conditions hold, and fills placeholders.

A placeholder in braces is replaced by a fact or by what follows from one: `{python}`, `{index}` (the ROCm index that
fits torch), `{gfx}`, `{override}` (the sibling of the same family whose code runs on this GPU), `{triton_requirement}`.
What is not known stays visible in angle brackets, for the reader to fill in.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from fa_doctor.diagnosis.actions import SetVariable
from fa_doctor.diagnosis.conditions import FactValue, holds
from fa_doctor.diagnosis.failures import Advice, Failure
from fa_doctor.diagnosis.model import Fix, Need, Safety
from fa_doctor.knowledge.tables import load

__all__ = ["fill", "fixes_for", "placeholders"]

PLACEHOLDER = re.compile(r"\{(\w+)\}")


def fixes_for(failure: Failure, facts: Mapping[str, FactValue]) -> tuple[Fix, ...]:
    """The fixes of a failure that apply to the machine of these facts, filled in, best first."""
    known = placeholders(facts)
    chosen = [advice for advice in failure.fixes if holds(advice.conditions, facts)]
    # Advice for exactly this machine goes before advice for any.
    chosen.sort(key=lambda advice: not advice.conditions)
    return tuple(fix_of(advice, known) for advice in chosen)


def fix_of(advice: Advice, known: Mapping[str, str]) -> Fix:
    action = None
    if advice.variable:
        name, value = advice.variable
        action = SetVariable(name, value or None)
    return Fix(
        title=fill(advice.title, known),
        commands=tuple(fill(command, known) for command in advice.commands),
        undo=tuple(fill(command, known) for command in advice.undo) if advice.undo is not None else None,
        needs=Need(advice.needs) if advice.needs else None,
        safety=Safety(advice.safety),
        action=action,
    )


def fill(text: str, known: Mapping[str, str]) -> str:
    """Replaces the placeholders; one that is not known becomes `<name>`."""
    return PLACEHOLDER.sub(lambda found: known.get(found.group(1), f"<{found.group(1).replace('_', '-')}>"), text)


def placeholders(facts: Mapping[str, FactValue]) -> dict[str, str]:
    """What the placeholders stand for on the machine of these facts."""
    table = load("log_advice")
    gfx = first(facts.get("gfx"))
    known = {"python": "python", "index": index_for(gfx, facts, table)}
    known["library"] = "libamdhip64.so"
    if gfx:
        known["gfx"] = gfx
        for prefix, family in table["family_index"].items():
            if gfx.startswith(prefix):
                known["family_index"] = family
                break
        if gfx in table["override"]:
            known["override"] = table["override"][gfx]
    torch = version_of(facts.get("torch"))
    pin = next(
        (triton for release, triton in table["triton_of_torch"].items() if torch.startswith(f"{release}.")), None
    )
    minor = ".".join(torch.split(".")[:2])
    name = "triton" if not minor else triton_distribution(minor)
    known["triton_pin"] = pin or "the release that `pip show torch` names"
    known["triton_requirement"] = f"{name}=={pin}" if pin else "<the triton that `pip show torch` requires>"
    rocm = version_of(facts.get("rocm"))
    if rocm:
        known["system_index"] = f"{table['pytorch']}/rocm{'.'.join(rocm.split('.')[:2])}"
    else:
        known["system_index"] = known["index"]
    known["rocm_release"] = rocm or version_of(facts.get("torch_rocm")) or "<rocm-release>"
    known["torch_rocm_full"] = version_of(facts.get("torch_rocm")) or "<torch's ROCm>"
    python = version_of(facts.get("python"))
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    known["pyver"] = ".".join(python.split(".")[:2]) if python else here
    known["pynodot"] = known["pyver"].replace(".", "")
    return known


def index_for(gfx: str | None, facts: Mapping[str, FactValue], table: Mapping[str, Any]) -> str:
    """The wheel index: for GPUs that newer ROCm dropped the last good one, else that of torch's ROCm, else the newest."""
    pytorch = table["pytorch"]
    if gfx in table["last_good_rocm"]:
        return f"{pytorch}/rocm{table['last_good_rocm'][gfx]}"
    wheel = version_of(facts.get("torch_rocm"))
    fitting = [each for each in table["rocm_indexes"] if wheel == each or wheel.startswith(f"{each}.")]
    return f"{pytorch}/rocm{max(fitting, key=len) if fitting else table['default_rocm']}"


def triton_distribution(torch_minor: str) -> str:
    """The name under which the ROCm index has Triton: pytorch-triton-rocm up to torch 2.9, triton-rocm from 2.10."""
    try:
        major, minor = (int(part) for part in torch_minor.split("."))
    except ValueError:
        return "triton-rocm"
    return "pytorch-triton-rocm" if (major, minor) < (2, 10) else "triton-rocm"


def first(value: FactValue | None) -> str | None:
    if isinstance(value, tuple):
        return value[0] if value else None
    return str(value) if value is not None else None


def version_of(value: FactValue | None) -> str:
    found = re.search(r"\d+(?:\.\d+)+", str(value)) if value is not None else None
    return found.group() if found else ""
