"""Puts together what is known beside the log: the given facts or report, and the machine at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fa_doctor.diagnosis.context import MACHINE, Context, context_from_mapping, from_report

__all__ = ["build_context", "machine_facts"]


def build_context(given: Mapping[str, Any] | None, *, look: bool) -> Context:
    """The context of given facts (or a report), completed with this machine's where `look` asks for it.

    Given facts win. This machine is not looked at when the given ones name a GPU: they then speak of another one.
    """
    facts = dict(given or {})
    if "machine" in facts or "gpus" in facts:
        facts = from_report(facts)
    context = context_from_mapping(facts)
    if look and "gfx" not in context.facts and "gpu" not in context.facts:
        here = context_from_mapping(machine_facts())
        for name, fact in here.facts.items():
            context.add(name, fact.value, MACHINE, fact.text)
    return context


def machine_facts() -> dict[str, Any]:
    """What this machine says of itself, as facts for `context_from_mapping`; empty where nothing can be read.

    Only the files of the kernel and the environment are read: no program is run and no package imported, so that it
    costs milliseconds and cannot hang.
    """
    import os
    import platform

    facts: dict[str, Any] = {}
    release = platform.release()
    if "microsoft" in release.lower():
        facts["wsl"] = True
    names = ("HSA_OVERRIDE_GFX_VERSION", "LD_LIBRARY_PATH", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
    environment = {name: os.environ[name] for name in (*names, "CUDA_VISIBLE_DEVICES") if name in os.environ}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("FLASH_ATTENTION_")}
    if environment:
        facts["env"] = environment
    return facts
