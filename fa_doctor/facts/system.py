"""The operating system: distribution, kernel, WSL, C library, package manager."""

from __future__ import annotations

from dataclasses import dataclass

from fa_doctor.evidence import Evidence

__all__ = ["System"]


@dataclass(frozen=True, slots=True)
class System:
    """`distribution` and `like` are ID and ID_LIKE of os-release; `package_manager` the command that installs there."""

    distribution: str | None = None
    like: tuple[str, ...] = ()
    version: str | None = None
    pretty_name: str | None = None
    kernel: str | None = None
    kernel_command_line: str | None = None
    wsl: bool | None = None
    package_manager: str | None = None  # "apt-get", "dnf", "zypper", "pacman", "apk"
    glibc: str | None = None
    libstdcxx_newest: str | None = None  # the newest GLIBCXX_ version that the system's libstdc++ defines
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None
    evidence: tuple[Evidence, ...] = ()
