"""What an install leaves in its environment: which plan it came from, so that a second run can tell nothing is to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fa_doctor.installer.destination import Destination
from fa_doctor.installer.installed import Installed, missing_files, triton_owners
from fa_doctor.installer.plan import Plan

__all__ = ["NAME", "InstallRecord", "differences", "is_made_by", "read", "record_of", "write"]

NAME = "fa-doctor-install.json"
SCHEMA = "fa-doctor/install/1"


@dataclass(frozen=True, slots=True)
class InstallRecord:
    """`packages` are the exact versions of everything the plan installed or kept, by normalised name."""

    transaction: str
    tool: str
    stack: str
    torch: str
    attention: str
    targets: tuple[str, ...]
    packages: Mapping[str, str]
    kernels_sha256: str | None
    variables: Mapping[str, str]


def record_of(plan: Plan, transaction: str, tool: str) -> InstallRecord:
    """The record of a plan that was carried out."""
    packages = {package.name: package.version for package in (*plan.packages, *plan.kept)}
    if plan.kernels:
        packages["flash-attn"] = plan.kernels.version
    if plan.upstream:
        packages["flash-attn"] = plan.upstream.version
    return InstallRecord(
        transaction=transaction,
        tool=tool,
        stack=plan.stack,
        torch=plan.torch,
        attention=plan.attention,
        targets=plan.targets,
        packages=dict(sorted(packages.items())),
        kernels_sha256=plan.kernels.sha256 if plan.kernels else None,
        variables={name: variable.value for name, variable in sorted(plan.variables.items())},
    )


def write(environment: Path, record: InstallRecord) -> None:
    """Writes the record into an environment."""
    text = json.dumps({"schema": SCHEMA, **asdict(record)}, indent=1)
    partial = environment / f".{NAME}.partial"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(environment / NAME)


def read(environment: Path) -> InstallRecord | None:
    """The record in an environment; None when there is none, or none that can be understood."""
    try:
        content = json.loads((environment / NAME).read_text(encoding="utf-8"))
        if content.pop("schema") != SCHEMA:
            return None
        return InstallRecord(**{**content, "targets": tuple(content["targets"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def is_made_by(plan: Plan, destination: Destination) -> bool:
    """Whether an environment came from this very plan, and everything in it is as the plan wants it."""
    found = read(destination.environment)
    if found is None or plan.packages or plan.remove or plan.upstream:
        return False
    wanted = record_of(plan, found.transaction, found.tool)
    return wanted == found and not differences(found, destination.installed)


def differences(record: InstallRecord, installed: Mapping[str, Installed]) -> list[str]:
    """How the environment differs from what its record says: versions, a second Triton, missing or changed files."""
    found = []
    for name, version in record.packages.items():
        entry = installed.get(name)
        if entry is None:
            found.append(f"{name} {version} is gone")
        elif entry.version != version:
            found.append(f"{name} is {entry.version}, not {version}")
        else:
            wrong = missing_files(entry)
            if wrong:
                found.append(f"{len(wrong)} files of {name} are missing or changed, such as {wrong[0]}")
    owners = triton_owners(dict(installed))
    if len(owners) > 1:
        found.append(f"{' and '.join(owner.name for owner in owners)} both write triton/")
    return found
