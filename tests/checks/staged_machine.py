"""A machine as a test stages it: its files, devices, variables and commands, to be changed in one place and then opened.

machine = mi300x()
machine.environ["HSA_OVERRIDE_GFX_VERSION"] = "11.0.0"
_, findings = examine(machine, tmp_path)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ld_cache_file import ld_cache, registered
from staging import stage

from fa_doctor.diagnosis.engine import run_checks
from fa_doctor.diagnosis.gather import gather
from fa_doctor.diagnosis.model import Finding, Status
from fa_doctor.facts.machine import Machine
from fa_doctor.host import RecordedHost
from fa_doctor.level import Level

__all__ = ["Staged", "examine", "failures", "trouble"]


@dataclass
class Staged:
    """A machine to be staged. `devices` maps a node to its line of `ls -l`, or to None where it is known to be absent;
    `recording` holds what recording.json says besides (user, disks, writable, openable, which...)."""

    files: dict[str, str | bytes] = field(default_factory=dict)
    devices: dict[str, str | None] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    commands: dict[tuple[str, ...], str] = field(default_factory=dict)
    recording: dict[str, Any] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    venv: str = "/home/user/venv"

    def open(self, folder: Path) -> RecordedHost:
        """Writes it below `folder`, which must not exist yet or be empty, and opens it; with the ld.so.cache that
        ldconfig would have written, unless it has one of its own."""
        lines = [f"present\t{path}\t{line}" if line else f"absent\t{path}\t" for path, line in self.devices.items()]
        files = {"/etc/ld.so.cache": ld_cache(registered(self.files, self.links)), **self.files}
        devices = "\n".join(lines) + "\n"
        return stage(folder, files, devices, self.environ, self.commands, self.links, **self.recording)

    @property
    def site(self) -> str:
        """The site-packages folder of its virtual environment."""
        return f"{self.venv}/lib/python3.12/site-packages"

    def remove_below(self, *prefixes: str) -> None:
        """Takes away every file whose path begins with one of these."""
        self.files = {path: text for path, text in self.files.items() if not path.startswith(prefixes)}

    def distribution(
        self,
        name: str,
        version: str,
        requires: tuple[str, ...] = (),
        owns: dict[str, str | bytes] | None = None,
        installer: str = "pip",
        site: str | None = None,
        tag: str = "py3-none-any",
    ) -> None:
        """Installs a distribution: METADATA, RECORD, INSTALLER, and the files it owns, by path below site-packages."""
        site = site or self.site
        info = f"{site}/{name.replace('-', '_')}-{version}.dist-info"
        metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        metadata += [f"Requires-Dist: {wanted}" for wanted in requires]
        self.files[f"{info}/METADATA"] = "\n".join([*metadata, "", "A description.", ""])
        self.files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n"
        self.files[f"{info}/INSTALLER"] = f"{installer}\n"
        self.files[f"{info}/RECORD"] = "".join(
            f"{path},,\n" for path in (*(owns or {}), f"{info.rsplit('/')[-1]}/RECORD")
        )
        for path, content in (owns or {}).items():
            self.files[f"{site}/{path}"] = content

    def remove_distribution(self, name: str, *modules: str) -> None:
        """Uninstalls a distribution: its metadata, and the modules (files or folders of site-packages) named."""
        self.remove_below(f"{self.site}/{name.replace('-', '_')}-")
        self.remove_below(*(f"{self.site}/{module}" for module in modules))


def examine(staged: Staged, folder: Path, level: Level = Level.QUICK) -> tuple[Machine, list[Finding]]:
    """All facts of a staged machine, and the findings of all checks."""
    from fa_doctor.diagnosis.check import all_checks

    machine = gather(staged.open(folder), level=level)
    assert machine.faults == ()
    return machine, run_checks(machine, all_checks(), level)


def trouble(findings: list[Finding]) -> dict[str, str | None]:
    """The ids of findings that fail or warn, with their causes."""
    wrong = (Status.FAIL, Status.WARN)
    return {found.id: found.verdict.cause for found in findings if found.status in wrong}


def failures(findings: list[Finding]) -> dict[str, str | None]:
    """The ids of findings that fail, with their causes."""
    return {found.id: found.verdict.cause for found in findings if found.status is Status.FAIL}
