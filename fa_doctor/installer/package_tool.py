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

from fa_doctor.installer.children import clean_environment, run_child, telling_lines
from fa_doctor.installer.errors import InstallFailed, Refused
from fa_doctor.installer.pip import Pip, find_pip, keeps_pip

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
    """The uv executable `uv`, or without one the pip `pip`."""

    environ: Mapping[str, str]
    uv: str | None = None
    pip: Pip | None = None

    @property
    def kind(self) -> str:
        """ "uv" or "pip"."""
        return "uv" if self.uv else "pip"

    def make_environment(self, folder: Path, base_python: str) -> None:
        """Makes a virtual environment at `folder`, which must not exist."""
        if self.uv:
            command: list[str | Path] = [
                self.uv,
                "venv",
                "--no-config",
                "--no-project",
                "--offline",
                "--python",
                base_python,
                folder,
            ]
        else:
            # Debian's Python can make environments without its python3-venv, but none that have a pip.
            without = [] if keeps_pip(base_python, self.environ) else ["--without-pip"]
            command = [base_python, "-m", "venv", *without, folder]
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
        if self.uv:
            # The cache lies beside the environment, so that files are linked into it instead of being written twice.
            cache = scratch / "uv-cache"
            command: list[str | Path] = [
                self.uv,
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
        if self.uv:
            command: list[str | Path] = [self.uv, "pip", "install", "--python", python, "--no-config"]
            self._run([*command, "--no-progress", *where, *requirements], f"uv could not install {requirements[0]}")
        else:
            options = ["--no-input", "--no-warn-script-location"]
            command = [*self._pip(python), "install", *options, *where, *requirements]
            self._run(command, f"pip could not install {requirements[0]}")

    def uninstall(self, python: Path, names: Sequence[str]) -> None:
        """Removes distributions from the environment of `python`."""
        if not names:
            return
        if self.uv:
            command: list[str | Path] = [
                self.uv,
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
        assert self.pip is not None
        return [*self.pip.words_for(python), "--isolated", "--disable-pip-version-check"]

    def _run(self, command: Sequence[str | Path], failure: str) -> None:
        outcome = run_child(command, environ=clean_environment(self.environ), deadline_s=DEADLINE_S)
        if outcome.returncode != 0:
            raise InstallFailed(f"{failure}:\n{telling_lines(outcome.output)}")


def find_uv(environ: Mapping[str, str]) -> str | None:
    """The uv on PATH, else the one beside fa-doctor's own Python; None when there is none."""
    beside = Path(sys.executable).with_name("uv")
    return shutil.which("uv", path=environ.get("PATH", os.defpath)) or (str(beside) if beside.exists() else None)


def find_tool(environ: Mapping[str, str], pythons: Sequence[str], wanted: str | None = None) -> PackageTool:
    """uv; else the pip that is found in one of `pythons`.

    `wanted` ("uv" or "pip") admits one only. Raises Refused when neither is there.
    """
    if wanted != "pip":
        uv = find_uv(environ)
        if uv:
            return PackageTool(environ, uv=uv)
        if wanted == "uv":
            raise Refused("there is no uv on PATH: install it, or leave --installer out")
    pip = find_pip(pythons, environ)
    if pip is None:
        raise Refused("neither uv nor pip is there to install with: install uv, or on Debian and Ubuntu python3-venv")
    return PackageTool(environ, pip=pip)
