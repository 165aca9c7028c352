"""Puts wheels into an environment and takes them out: with uv where it is there, with pip otherwise.

Both see a folder of verified wheels and nothing else: no index, no dependencies of their own choosing, every wheel
pinned to its version and its hash.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fa_doctor.installer.children import TAIL, clean_environment, run_child
from fa_doctor.installer.errors import InstallFailed, Refused

__all__ = ["PackageTool", "Pin", "find_tool", "find_uv"]

DEADLINE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Pin:
    """One wheel to install, exactly."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class PackageTool:
    """`kind` is "uv" or "pip"; `program` the uv executable, or the Python whose pip is run."""

    kind: str
    program: str
    environ: Mapping[str, str]

    def make_environment(self, folder: Path, base_python: str) -> None:
        """Makes a virtual environment at `folder`, which must not exist."""
        if self.kind == "uv":
            command: list[str | Path] = [
                self.program,
                "venv",
                "--no-config",
                "--no-project",
                "--offline",
                "--python",
                base_python,
                folder,
            ]
        else:
            command = [base_python, "-m", "venv", folder]
        self._run(command, f"the environment {folder} could not be made")

    def install(self, python: Path, wheels: Path, pins: Sequence[Pin], scratch: Path) -> None:
        """Installs `pins` from the folder `wheels` into the environment of `python`; `scratch` is a folder to use."""
        scratch.mkdir(parents=True, exist_ok=True)
        listing = scratch / "requirements.txt"
        listing.write_text("".join(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n" for pin in pins))
        shared: list[str | Path] = [
            "--no-index",
            "--find-links",
            wheels,
            "--no-deps",
            "--require-hashes",
            "-r",
            listing,
        ]
        if self.kind == "uv":
            # The cache lies beside the environment, so that files are linked into it instead of being written twice.
            cache = scratch / "uv-cache"
            command: list[str | Path] = [
                self.program,
                "pip",
                "install",
                "--python",
                python,
                "--no-config",
                "--offline",
                "--no-progress",
            ]
            self._run([*command, "--reinstall", "--cache-dir", cache, *shared], "uv could not install the wheels")
            shutil.rmtree(cache, ignore_errors=True)
        else:
            options = ["--no-compile", "--no-cache-dir", "--no-input", "--no-warn-script-location", "--force-reinstall"]
            self._run([*self._pip(python), "install", *options, *shared], "pip could not install the wheels")

    def install_from_indexes(
        self, python: Path, requirements: Sequence[str], indexes: Sequence[str], find_links: Sequence[str] = ()
    ) -> None:
        """Installs `requirements` and what they need from `indexes` (the first is the main one) and nowhere else."""
        where: list[str | Path] = []
        for number, index in enumerate(indexes):
            where += ["--extra-index-url" if number else "--index-url", index]
        if not indexes:
            where.append("--no-index")
        for place in find_links:
            where += ["--find-links", place]
        if self.kind == "uv":
            command: list[str | Path] = [self.program, "pip", "install", "--python", python, "--no-config"]
            self._run([*command, "--no-progress", *where, *requirements], f"uv could not install {requirements[0]}")
        else:
            options = ["--no-input", "--no-warn-script-location"]
            command = [*self._pip(python), "install", *options, *where, *requirements]
            self._run(command, f"pip could not install {requirements[0]}")

    def uninstall(self, python: Path, names: Sequence[str]) -> None:
        """Removes distributions from the environment of `python`."""
        if not names:
            return
        if self.kind == "uv":
            command: list[str | Path] = [
                self.program,
                "pip",
                "uninstall",
                "--python",
                python,
                "--no-config",
                "--offline",
                *names,
            ]
        else:
            command = [*self._pip(python), "uninstall", "--yes", *names]
        self._run(command, f"{', '.join(names)} could not be removed")

    def _pip(self, python: Path) -> list[str | Path]:
        return [self.program, "-m", "pip", "--python", python, "--isolated", "--disable-pip-version-check"]

    def _run(self, command: Sequence[str | Path], failure: str) -> None:
        outcome = run_child(command, environ=clean_environment(self.environ), deadline_s=DEADLINE_S)
        if outcome.returncode != 0:
            raise InstallFailed(f"{failure}:\n{outcome.output.strip()[-TAIL:]}")


def find_uv(environ: Mapping[str, str]) -> str | None:
    """The uv on PATH, else the one beside fa-doctor's own Python; None when there is none."""
    beside = Path(sys.executable).with_name("uv")
    return shutil.which("uv", path=environ.get("PATH", os.defpath)) or (str(beside) if beside.exists() else None)


def find_tool(environ: Mapping[str, str], pythons: Sequence[str], wanted: str | None = None) -> PackageTool:
    """uv; else the first of `pythons` whose pip can act on another environment (`pip --python`).

    `wanted` ("uv" or "pip") admits one only. Raises Refused when neither is there.
    """
    if wanted != "pip":
        uv = find_uv(environ)
        if uv:
            return PackageTool("uv", uv, environ)
    if wanted != "uv":
        for python in dict.fromkeys(pythons):
            if _has_pip(python, environ):
                return PackageTool("pip", python, environ)
    raise Refused(f"neither uv nor pip is there to install with{f' (wanted: {wanted})' if wanted else ''}: install uv")


def _has_pip(python: str, environ: Mapping[str, str]) -> bool:
    # `pip --python` came with pip 22.3.
    check = "import pip,sys; v=pip.__version__.split('.'); sys.exit((int(v[0]),int(v[1])) < (22,3))"
    try:
        return run_child([python, "-c", check], environ=clean_environment(environ), deadline_s=30).returncode == 0
    except InstallFailed:
        return False
