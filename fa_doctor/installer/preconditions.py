"""What must hold before the first change: rights, room, memory, and a network that answers. All faults in one run."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import requests

from fa_doctor.installer.errors import NotReady
from fa_doctor.installer.index import reason_of
from fa_doctor.installer.memory import available_bytes
from fa_doctor.installer.package import local_path, redacted
from fa_doctor.installer.plan import Plan

__all__ = ["bytes_needed", "check_preconditions"]

MEMORY_BUNDLED = 512 << 20  # bytes for an installer and a small attention call
MEMORY_UPSTREAM = 5 << 30  # bytes for one compile job of flash-attn
# What wheels grow to when they are unpacked; torch for ROCm: 6.6 GB become 15.7 GB (2.14.1+rocm7.2).
GROWTH = 2.5
UNKNOWN_SIZE = 50 << 20  # bytes assumed for a file whose index states no size; torch's index states them
TIMEOUT_S = (10.0, 30.0)


def check_preconditions(plan: Plan, session: requests.Session, *, offline: bool) -> None:
    """Raises NotReady with everything that is wrong, one a line."""
    problems = [*_rights(plan.environment), *_folders(plan), *_room(plan), *_memory(plan)]
    if not offline:
        problems += _network(plan, session)
    if problems:
        raise NotReady("nothing was changed: " + "\n".join(problems))


def bytes_needed(plan: Plan) -> int:
    """The room that the files to fetch, the unpacked wheels and a copy of the environment take at most, in bytes."""
    fetched = sum(file.size or UNKNOWN_SIZE for file in plan.missing)
    unpacked = sum((package.file.size or UNKNOWN_SIZE) for package in plan.downloads if package.file) * GROWTH
    return int(fetched + unpacked) + (64 << 20)


def _rights(environment: Path) -> list[str]:
    problems = []
    parent = next(folder for folder in environment.parents if folder.exists())
    try:
        with tempfile.TemporaryDirectory(dir=parent, prefix=".fa-doctor-"):
            pass
    except OSError as error:
        problems.append(
            f"{parent} cannot be written to ({error.strerror}): the new environment is built beside the old"
        )
    if environment.exists():
        if os.path.ismount(environment):
            problems.append(f"{environment} is a mount point and cannot be replaced: name a folder in it with --venv")
        elif not os.access(environment, os.R_OK | os.W_OK | os.X_OK):
            problems.append(f"{environment} cannot be read and written by this user")
    return problems


def _folders(plan: Plan) -> list[str]:
    """A lock file may name files in a folder that is not on this machine."""
    named = [path for package in plan.downloads if package.file and (path := local_path(package.file.url))]
    gone = [path for path in named if not path.is_file() and not (plan.paths.wheels / path.name).exists()]
    return [f"{path} is not there: name the folder that has {path.name} with --wheels" for path in gone]


def _room(plan: Plan) -> list[str]:
    parent = next(folder for folder in plan.environment.parents if folder.exists())
    free, needed = shutil.disk_usage(parent).free, bytes_needed(plan)
    if free >= needed:
        return []
    return [f"the disk of {parent} has {free / 1e9:.1f} GB free, up to {needed / 1e9:.1f} GB are needed"]


def _memory(plan: Plan) -> list[str]:
    needed = MEMORY_UPSTREAM if plan.attention == "upstream" else MEMORY_BUNDLED
    available = available_bytes()
    if available is None or available >= needed:
        return []
    return [f"{available / 1e9:.1f} GB of memory are available, {needed / 1e9:.1f} GB are needed"]


def _network(plan: Plan, session: requests.Session) -> list[str]:
    """Asks for the largest file of each server, without fetching it."""
    largest: dict[str, tuple[int, str]] = {}
    for file in plan.missing:
        server = "/".join(file.url.split("/", 3)[:3])
        largest[server] = max(largest.get(server, (0, file.url)), (file.size or 0, file.url))
    return [problem for problem in (_unreachable(url, session) for _, url in largest.values()) if problem]


def _unreachable(url: str, session: requests.Session) -> str | None:
    try:
        with session.get(url, headers={"Range": "bytes=0-0"}, timeout=TIMEOUT_S, stream=True) as response:
            return None if response.ok else f"{redacted(url)} answers {response.status_code} {response.reason}"
    except requests.RequestException as error:
        return f"{redacted(url)} cannot be reached: {reason_of(error)}"
