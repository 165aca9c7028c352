"""What is known of the machine: from the log itself, from what was given beside it, and from the machine at hand.

`Context` holds flat facts (`torch`, `gfx`, `env.HIP_VISIBLE_DEVICES`, ...), each with its origin. What was given (the
user said so) goes before what stands in the log, and that before what this machine shows: a pasted log may come from
another machine. `derived` adds what follows from them: the GPU's family, the vendor, whether an override crosses
families. How facts are read from text is data: knowledge/log_facts.toml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from fa_doctor.diagnosis.conditions import FactValue
from fa_doctor.knowledge.gpus import architecture
from fa_doctor.knowledge.tables import load

__all__ = ["FOREIGN", "VENDORS", "Context", "Fact", "context_from_mapping", "facts_from_text", "family_of"]

GIVEN, LOG, MACHINE = "given", "log", "machine"
# The signs of a vendor are many alternatives, slow to look for, and stand everywhere in a log: its ends are enough.
VENDOR_SAMPLE = 24_000
VENDORS = {"amd": "AMD", "nvidia": "NVIDIA", "intel": "Intel", "apple": "Apple"}
FOREIGN = tuple(VENDORS)[1:]
RANK = {GIVEN: 0, LOG: 1, MACHINE: 2}

VARIABLE = re.compile(
    r"\b((?:HSA|HIP|ROCR|CUDA|GPU|ROCM|FLASH_ATTENTION|TRITON|PYTORCH|TORCH|MIOPEN|NCCL|RCCL|VLLM|RAY_EXPERIMENTAL|AITER"
    r"|SGLANG|HF|TORCHINDUCTOR|AMD)_[A-Z0-9_]+|LD_LIBRARY_PATH|LD_PRELOAD|MAX_JOBS|BUILD_TARGET)"
    r"(?:=|:\s|\s=\s|\"?,\s?\"|'?\]\s?=\s?)['\"]?([^\s'\";,)`]*)"
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A value, where it came from (`given`, `log` or `machine`) and the words that said it."""

    value: FactValue
    origin: str
    text: str


@dataclass(slots=True)
class Context:
    """Facts by name. `lines` are the given facts as text, which the engine reads like lines of the log.

    `signs` are how strongly text spoke of a vendor's hardware or software, `named` the words in which it did.
    `machine` is the context of the machine at hand. It is kept apart until the log was read: see `settle`.
    """

    facts: dict[str, Fact] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    signs: dict[str, float] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)
    machine: Context | None = None

    def add(self, name: str, value: FactValue, origin: str, text: str) -> None:
        """Keeps the fact unless one of a better origin is known; targets of the same origin are collected."""
        known = self.facts.get(name)
        if known is None or RANK[origin] < RANK[known.origin]:
            self.facts[name] = Fact(value, origin, text)
        elif known.origin == origin and isinstance(value, tuple) and isinstance(known.value, tuple):
            merged = known.value + tuple(each for each in value if each not in known.value)
            self.facts[name] = Fact(merged, origin, known.text)

    def settle(self) -> None:
        """Takes in the facts of the machine at hand, unless log or user speak of another GPU than it has."""
        here, self.machine = self.machine, None
        if here is None:
            return
        spoken = [fact.value for name in ("gfx", "gfx_by_name") if (fact := self.facts.get(name))]
        ours = [fact.value for name in ("gfx", "gfx_by_name") if (fact := here.facts.get(name))]
        named = {gfx for value in spoken if isinstance(value, tuple) for gfx in value}
        present = {gfx for value in ours if isinstance(value, tuple) for gfx in value}
        foreign = max(self.signs.get(f"{name}_hardware", 0.0) for name in FOREIGN)
        if foreign > self.signs.get("amd_hardware", 0.0) or (named and not named & present):
            return
        for name, fact in here.facts.items():
            self.add(name, fact.value, MACHINE, fact.text)
        if not self.signs:
            self.signs.update(here.signs)
            self.named.update(here.named)

    def values(self) -> dict[str, FactValue]:
        """The plain values, for conditions."""
        return {name: fact.value for name, fact in self.facts.items()}


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def family_of(gfx: str) -> str | None:
    """The family of a target (`gfx1151` -> `RDNA3.5`), or None for one that is not known."""
    row = architecture(gfx)
    if row:
        return row.family
    older: dict[str, str] = load("log_facts")["families"]
    return older.get(gfx)


def facts_from_text(text: str, origin: str, context: Context, *, weight: float = 1.0) -> None:
    """Reads versions, GPUs, variables and signs of the vendor from any text into the context."""
    lower = text.lower()
    for row in load("log_facts")["fact"]:
        if not any(phrase in lower for phrase in row["has"]):
            continue
        found = compiled(row["re"]).findall(text) if row.get("all") else compiled(row["re"]).search(text)
        if not found:
            continue
        name = row["name"]
        if isinstance(found, list):
            context.add(name, tuple(dict.fromkeys(each.lower() for each in found)), origin, ", ".join(found[:4]))
        elif name in ("wsl", "windows"):
            context.add(name, True, origin, found.group(0))
        else:
            value = found.group(1)
            if name == "python" and "." not in value:
                value = f"3.{value[1:]}"
            context.add(name, value.lower() if name in ("container", "vm") else value, origin, found.group(0).strip())
    for found in VARIABLE.finditer(text):
        # What an error message recommends is no fact of the environment.
        before = text[max(0, found.start() - 40) : found.start()].lower()
        if re.search(r"(try setting|enable it with|please set|consider|e\.g\.|with|passing|adding)\s*[`'\"]?$", before):
            continue
        context.add(f"env.{found.group(1)}", found.group(2), origin, found.group(0))
    ends = text if len(text) <= 2 * VENDOR_SAMPLE else text[:VENDOR_SAMPLE] + text[-VENDOR_SAMPLE:]
    for row in load("log_facts")["vendor"]:
        words = list(dict.fromkeys(found.group(0).lower() for found in compiled(row["re"]).finditer(ends)))
        count = len(words)
        if count:
            context.named.setdefault(row["vendor"], []).extend(words[:3])
            name = row["vendor"] + ("_hardware" if row["w"] > 1 else "_software")
            context.signs[name] = context.signs.get(name, 0.0) + weight * (1 + 0.3 * min(count - 1, 5))
    known = context.facts.get("gfx")
    if known is None or RANK[origin] <= RANK[known.origin]:
        for row in load("log_facts")["gpu"]:
            if not any(phrase in lower for phrase in row["has"]):
                continue
            named = compiled(row["re"]).search(text)
            if named:
                context.add("gfx_by_name", (row["gfx"],), origin, named.group(0))
                if row.get("integrated"):
                    context.add("integrated", True, origin, named.group(0))


def context_from_mapping(given: Mapping[str, Any]) -> Context:
    """The context of known facts (`gpu`, `gfx`, `rocm`, `torch`, `env`, ...; all optional, free text allowed).

    Facts that are named keep their name; each is read as text too, so that "7.2 (system), torch 2.9.1+rocm7.2" works.
    """
    context = Context()
    for name, value in given.items():
        if value is None or value == "" or value == {}:
            continue
        if name == "env" and isinstance(value, Mapping):
            for variable, content in value.items():
                context.add(f"env.{variable}", str(content), GIVEN, f"{variable}={content}")
                context.lines.append(f"{variable}={content}")
        elif isinstance(value, bool):
            if value:
                context.add(name, True, GIVEN, f"{name}: yes")
        elif isinstance(value, (list, tuple)):
            add_text(context, name, ", ".join(str(each) for each in value))
        else:
            add_text(context, name, str(value))
    return context


def add_text(context: Context, name: str, text: str) -> None:
    context.lines.append(f"{name}: {text}")
    context.add(f"{name}_text", text, GIVEN, f"{name}: {text}")
    if name == "gfx":
        facts_from_text(text, GIVEN, context, weight=3.0)
        return
    # "torch: 2.7.0" lets the patterns for logs read a bare number as well.
    facts_from_text(f"{name} {text}", GIVEN, context, weight=3.0)
    known = context.facts.get(name)
    if name not in ("wsl", "container") and (
        known is None or name not in ("torch", "rocm", "triton", "flash_attn", "python")
    ):
        context.add(name, text, GIVEN, f"{name}: {text}")
    elif name == "container":
        context.facts["container"] = Fact(text, GIVEN, f"container: {text}")
    if name == "cuda":
        context.signs["nvidia_hardware"] = context.signs.get("nvidia_hardware", 0.0) + 2.0
