"""The Python that is installed into: which interpreter, what it can run, and where its environment stands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging import tags

from fa_doctor.installer.errors import Refused

__all__ = ["TargetPython", "active_environment", "inspect_python"]

DEADLINE_S = 30.0

# Printed by the target itself: what its tags and markers are made of, without importing anything that is installed.
DESCRIBE = """
import json, os, platform, sys, sysconfig
paths = sysconfig.get_paths()
print(json.dumps({
    "executable": sys.executable,
    "version": platform.python_version(),
    "implementation": sys.implementation.name,
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "prefix": sys.prefix,
    "base_prefix": sys.base_prefix,
    "base_executable": getattr(sys, "_base_executable", None) or sys.executable,
    "purelib": paths["purelib"],
    "platlib": paths["platlib"],
    "search": [path for path in sys.path if path.endswith(("site-packages", "dist-packages")) and os.path.isdir(path)],
    "headers": os.path.isfile(os.path.join(paths["include"], "Python.h")),
    "conda": os.path.isdir(os.path.join(sys.prefix, "conda-meta")),
    "managed": os.path.isfile(os.path.join(paths["stdlib"], "EXTERNALLY-MANAGED")),
}))
"""


@dataclass(frozen=True, slots=True)
class TargetPython:
    """One interpreter. `environment` is "venv", "conda" or "system"; only the first two are ever changed.

    `search` are the folders it finds distributions in: its own, and those that its settings or .pth files add.
    """

    executable: str
    version: str
    implementation: str
    free_threaded: bool
    prefix: str
    base_executable: str
    environment: str
    purelib: str
    platlib: str
    search: tuple[str, ...]
    has_headers: bool
    externally_managed: bool

    @property
    def minor(self) -> str:
        """The version as stacks name it: "3.12", or "3.13t" for a free-threaded build."""
        major, minor = self.version.split(".")[:2]
        return f"{major}.{minor}{'t' if self.free_threaded else ''}"

    @property
    def numbers(self) -> tuple[int, int]:
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @property
    def with_pip(self) -> tuple[str, ...]:
        """The interpreters whose pip may serve this one, in the order to try: fa-doctor's own, this, what it is made from."""
        own_base = getattr(sys, "_base_executable", None) or sys.executable
        return (sys.executable, self.executable, self.base_executable, own_base)

    def tags(self) -> tuple[tags.Tag, ...]:
        """The wheel tags it can use, best first. The platform is this machine's: the target runs on it too."""
        abi = f"cp{self.numbers[0]}{self.numbers[1]}{'t' if self.free_threaded else ''}"
        platforms = list(tags.platform_tags())
        specific = tags.cpython_tags(self.numbers, abis=[abi], platforms=platforms)
        interpreter = f"cp{self.numbers[0]}{self.numbers[1]}"
        return (*specific, *tags.compatible_tags(self.numbers, interpreter, platforms))

    def markers(self) -> Mapping[str, str]:
        """The environment markers (PEP 508) in which its requirements are read."""
        return {
            "python_version": ".".join(self.version.split(".")[:2]),
            "python_full_version": self.version,
            "implementation_name": self.implementation,
            "implementation_version": self.version,
            "platform_python_implementation": {"cpython": "CPython", "pypy": "PyPy"}.get(
                self.implementation, self.implementation
            ),
        }


def inspect_python(executable: str) -> TargetPython:
    """Asks an interpreter what it is. Raises Refused when it does not start or gives no answer in 30 seconds."""
    if os.path.isdir(executable):
        raise Refused(f"{executable} is a folder: name the interpreter in it, such as {executable}/bin/python")
    try:
        # By standard input: a program that is no Python would quote an argument of many lines in its complaint.
        done = subprocess.run(
            [executable, "-I", "-"], input=DESCRIBE, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Refused(f"the Python {executable} gave no answer for {DEADLINE_S:.0f} s") from error
    except (OSError, ValueError) as error:
        raise Refused(f"the Python {executable} does not start: {getattr(error, 'strerror', None) or error}") from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Refused(f"the Python {executable} does not start: {reason}")
    try:
        said = json.loads(done.stdout)
    except ValueError as error:
        raise Refused(f"{executable} is no Python interpreter") from error
    if said["conda"]:
        environment = "conda"
    else:
        environment = "venv" if said["prefix"] != said["base_prefix"] else "system"
    return TargetPython(
        executable=said["executable"] or executable,
        version=said["version"],
        implementation=said["implementation"],
        free_threaded=said["free_threaded"],
        prefix=said["prefix"],
        base_executable=said["base_executable"],
        environment=environment,
        purelib=said["purelib"],
        platlib=said["platlib"],
        search=tuple(said["search"]),
        has_headers=said["headers"],
        externally_managed=said["managed"],
    )


def active_environment(environ: Mapping[str, str]) -> Path | None:
    """The folder of the active virtual or conda environment (conda's `base` is not taken: it holds conda itself)."""
    if environ.get("VIRTUAL_ENV"):
        folder = Path(environ["VIRTUAL_ENV"])
    elif environ.get("CONDA_PREFIX") and environ.get("CONDA_DEFAULT_ENV") != "base":
        folder = Path(environ["CONDA_PREFIX"])
    else:
        return None
    return folder if (folder / "bin" / "python").exists() else None
