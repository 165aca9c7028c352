"""The operating system: distribution, kernel, WSL, C library, package manager."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fa_doctor.evidence import Evidence
from fa_doctor.facts.gpus.model import ToolVersions
from fa_doctor.host import Host

__all__ = ["System", "gather", "glibcxx_of_file_name", "parse_meminfo", "parse_os_release"]

# Which command installs packages, by os-release's ID or ID_LIKE.
_PACKAGE_MANAGERS = {
    "debian": "apt-get",
    "ubuntu": "apt-get",
    "fedora": "dnf",
    "rhel": "dnf",
    "centos": "dnf",
    "azurelinux": "dnf",
    "mariner": "dnf",
    "suse": "zypper",
    "opensuse": "zypper",
    "sles": "zypper",
    "arch": "pacman",
    "alpine": "apk",
}
_LIBSTDCXX_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/lib/x86_64-linux-gnu", "/lib64")


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


def gather(host: Host, noted: ToolVersions | None = None) -> System:
    """Reads os-release, /proc and the names of the C++ library; asks `getconf` for the version of glibc.

    `noted` is what kept outputs of a recorded machine say, which can be all that tells of its system.
    """
    noted = noted or ToolVersions()
    evidence: list[Evidence] = []
    release: dict[str, str] = {}
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        text = host.read(path).text
        if text is not None:
            release = parse_os_release(text)
            evidence.append(Evidence(path, release.get("PRETTY_NAME", release.get("ID", ""))))
            break
    kernel = host.read_line("/proc/sys/kernel/osrelease")
    version_line = host.read_line("/proc/version")
    if not kernel and version_line:
        words = version_line.split()
        kernel = words[2] if version_line.startswith("Linux version ") and len(words) > 2 else None
    if kernel:
        evidence.append(Evidence("/proc/sys/kernel/osrelease", kernel))
    if noted.system_source:
        evidence += [Evidence(noted.system_source, text) for text in (noted.kernel, noted.distribution) if text]
    kernel = kernel or noted.kernel
    memory = parse_meminfo(host.read("/proc/meminfo").text or "")
    like = tuple(release.get("ID_LIKE", "").split())
    return System(
        distribution=release.get("ID"),
        like=like,
        version=release.get("VERSION_ID"),
        pretty_name=release.get("PRETTY_NAME") or noted.distribution,
        kernel=kernel or None,
        kernel_command_line=host.read_line("/proc/cmdline") or None,
        wsl=noted.wsl or _is_wsl(host, kernel, version_line),
        package_manager=_package_manager(release.get("ID"), like),
        glibc=_glibc(host, evidence),
        libstdcxx_newest=_newest_glibcxx(host, evidence),
        memory_bytes=memory.get("MemTotal"),
        memory_available_bytes=memory.get("MemAvailable"),
        evidence=tuple(evidence),
    )


def parse_os_release(text: str) -> dict[str, str]:
    """The assignments of an os-release file (os-release(5)), quotes and backslashes taken off."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or not re.fullmatch(r"[A-Z0-9_]+", name):
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        values[name] = re.sub(r"\\(.)", r"\1", value)
    return values


def parse_meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo in bytes by name; lines of another form are left out."""
    found = re.findall(r"^(\w+):\s*(\d{1,18}) kB$", text, re.MULTILINE | re.ASCII)
    return {name: int(number) * 1024 for name, number in found}


def glibcxx_of_file_name(name: str) -> str | None:
    """The newest GLIBCXX version in a libstdc++ of that file name: libstdc++.so.6.0.30 defines up to GLIBCXX_3.4.30.

    Source: the table of versions in GCC's libstdc++ manual (ABI policy), where both numbers go together since 6.0.0.
    """
    match = re.search(r"libstdc\+\+\.so\.6\.0\.(\d{1,4})$", name, re.ASCII)
    return f"3.4.{match[1]}" if match else None


def _is_wsl(host: Host, kernel: str | None, version_line: str | None) -> bool | None:
    if kernel or version_line:
        return "microsoft" in f"{kernel} {version_line}".lower()
    if host.exists("/usr/lib/wsl/lib") or host.exists("/dev/dxg"):
        return True
    return None


def _package_manager(distribution: str | None, like: tuple[str, ...]) -> str | None:
    for name in (distribution, *like):
        family = (name or "").split("-")[0]
        if family in _PACKAGE_MANAGERS:
            return _PACKAGE_MANAGERS[family]
    return None


def _glibc(host: Host, evidence: list[Evidence]) -> str | None:
    output = host.run(["getconf", "GNU_LIBC_VERSION"], timeout_s=1.0)
    match = re.match(r"glibc (\d+\.\d+)", output.stdout)
    if not match:
        return None
    evidence.append(Evidence("getconf GNU_LIBC_VERSION", match[0]))
    return match[1]


def _newest_glibcxx(host: Host, evidence: list[Evidence]) -> str | None:
    for folder in _LIBSTDCXX_FOLDERS:
        real = host.real_path(f"{folder}/libstdc++.so.6")
        version = glibcxx_of_file_name(real) if real else None
        if real and version:
            evidence.append(Evidence(real, f"GLIBCXX_{version}"))
            return version
    return None
