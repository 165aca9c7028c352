"""The report as data, schema fa-doctor/report/1: what every format is made from, and what is kept and compared.

The JSON Schema of it is report.schema.json beside this file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from fa_doctor import __version__
from fa_doctor.diagnosis.engine import summarise
from fa_doctor.diagnosis.model import Finding, Fix
from fa_doctor.errors import UsageProblem
from fa_doctor.level import Level

if TYPE_CHECKING:
    from fa_doctor.facts.machine import Machine

__all__ = ["SCHEMA", "Document", "build", "fix_document", "load", "schema"]

SCHEMA = "fa-doctor/report/1"
_LOAD_LIMIT = 64 << 20  # bytes of a report file that are read at most

Document = dict[str, Any]

_GPU_FIELDS = (
    "index",
    "gfx",
    "gfx_in_force",
    "name",
    "family",
    "wavefront_size",
    "compute_units",
    "vram_bytes",
    "gtt_bytes",
    "pci",
    "unique_id",
    "partition",
    "memory_partition",
    "integrated",
    "visible",
    "hidden_by",
    "render_minor",
)


def build(
    machine: Machine,
    findings: Sequence[Finding],
    level: Level,
    duration_s: float,
    *,
    strict: bool = False,
    now: datetime | None = None,
) -> Document:
    """The report as a JSON-able dictionary. `duration_s` in seconds; times in UTC."""
    moment = (now or datetime.now(timezone.utc)).replace(microsecond=0)
    return {
        "schema": SCHEMA,
        "tool": {"version": __version__},
        "generated_at": moment.isoformat().replace("+00:00", "Z"),
        "level": level.name.lower(),
        "duration_s": round(duration_s, 3),
        "machine": _machine(machine),
        "findings": [_finding(finding) for finding in findings],
        "summary": summarise(findings, strict=strict),
    }


def _machine(machine: Machine) -> Document:
    gpus = [_plain(gpu, *_GPU_FIELDS) for gpu in machine.gpus.known]
    system = machine.system
    return {
        "source": machine.host_kind,
        "description": machine.description,
        "gpus": gpus,
        "gpu_cards": machine.gpus.cards,
        "other_gpus": [_plain(other, "vendor", "name", "pci", "driver", "why") for other in machine.gpus.others],
        "driver": _plain(machine.driver, "loaded", "origin", "version"),
        "rocm": [_plain(install, "version", "path", "origin") for install in machine.rocm or ()],
        "python": _plain(machine.python, "executable", "version", "prefix", "environment", "chosen_because"),
        "torch": _plain(machine.torch, "version", "build", "rocm", "triton_wanted") if machine.torch else None,
        "triton": _triton(machine),
        "flash_attn": _plain(machine.flash_attention, "version", "kind") if machine.flash_attention else None,
        "companions": [_plain(companion, "name", "version", "build") for companion in machine.companions],
        "container": _plain(machine.container, "inside", "runtime", "rootless", "seccomp", "shm_bytes"),
        "wsl": system.wsl,
        "os": _plain(system, "distribution", "version", "pretty_name", "kernel", "glibc"),
        "environment": dict(machine.variables or {}),
        "faults": [dataclasses.asdict(fault) for fault in machine.faults],
    }


def _triton(machine: Machine) -> Document | None:
    if machine.triton is None:
        return None
    owners = [{"name": owner.name, "version": owner.version} for owner in machine.triton.owners]
    return {"version": machine.triton.version, "distributions": owners}


def _plain(value: Any, *names: str) -> Document:
    return {name: getattr(value, name) for name in names}


def _finding(finding: Finding) -> Document:
    verdict = finding.verdict
    return {
        "id": finding.id,
        "check": finding.check,
        "status": verdict.status.value,
        "title": verdict.title,
        "detail": verdict.detail,
        "cause": verdict.cause,
        "evidence": [dataclasses.asdict(evidence) for evidence in verdict.evidence],
        "fixes": [fix_document(fix) for fix in verdict.fixes],
        "ignored": finding.ignored,
        "duration_s": round(finding.duration_s, 4),
    }


def fix_document(fix: Fix) -> Document:
    """A fix as it stands in reports and diagnoses."""
    return {
        "title": fix.title,
        "commands": list(fix.commands),
        "automatic": fix.automatic,
        "undo": None if fix.undo is None else list(fix.undo),
        "needs": fix.needs.value if fix.needs else None,
        "safety": fix.safety.value,
        "proof": fix.proof,
    }


def load(path: str) -> Document:
    """Reads a report that was written as JSON; raises UsageProblem if the file is not one."""
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(_LOAD_LIMIT)
        document = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageProblem(f"{path} cannot be read as a report: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise UsageProblem(f"{path} is not a report of schema {SCHEMA}")
    return document


def schema() -> Document:
    """The JSON Schema of a report."""
    from importlib import resources

    text = resources.files("fa_doctor.report").joinpath("report.schema.json").read_text(encoding="utf-8")
    document = json.loads(text)
    assert isinstance(document, dict)
    return document
