"""Every ROCm user space on the machine: trees under /opt, distribution packages, wheels, libraries inside torch."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from fa_doctor.evidence import Evidence
from fa_doctor.facts.gpus.model import ToolVersions
from fa_doctor.facts.packages import Torch
from fa_doctor.facts.python import Python
from fa_doctor.host import Host, NodeKind, Problem

__all__ = [
    "RocmInstall",
    "gather",
    "release_of_library_name",
    "release_of_text",
    "release_of_version_header",
]

_HIP = "libamdhip64.so"
# Where a distribution's own packages put libraries: Debian and its children, Fedora and SUSE, others.
_SYSTEM_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")
_SYSTEM_SONAMES = (f"{_HIP}.7", f"{_HIP}.6", f"{_HIP}.5", f"{_HIP}.4", "libhsa-runtime64.so.1")
_VARIABLES = ("ROCM_PATH", "ROCM_HOME", "HIP_PATH")
_VERSION = r"(\d{1,2}\.\d{1,2}(?:\.\d{1,3})?)"


@dataclass(frozen=True, slots=True)
class RocmInstall:
    """`origin`: "opt", "distribution" (files in /usr), "wheel" (the rocm packages from an index), "torch" (bundled in
    torch/lib), "conda", "variable" (a folder that only a variable names), or "report" (a tool's output says so, and
    the files are not recorded: `path` is then the output's name).

    `aliases` are links that lead to the same tree. `library_folder` holds libamdhip64, `hip_libraries` are the names
    that it has there. `hip_version` is HIP's own number, which is not that of the ROCm release from 7.14 on.
    """

    version: str | None
    path: str
    origin: str
    hip_version: str | None = None
    aliases: tuple[str, ...] = ()
    library_folder: str | None = None
    hip_libraries: tuple[str, ...] = ()
    hipcc: str | None = None
    has_headers: bool | None = None
    linker: str | None = None  # its ld.lld
    has_tools: bool | None = None  # rocminfo, which looks for GPUs
    dxg_bridge: str | None = None  # its librocdxg, through which newer runtimes reach the GPU of WSL
    evidence: tuple[Evidence, ...] = ()

    @property
    def has_runtime(self) -> bool:
        """Whether programs can run with it."""
        return bool(self.hip_libraries)

    @property
    def can_compile(self) -> bool:
        """Whether extensions can be built with it."""
        return self.hipcc is not None and bool(self.has_headers)

    @property
    def release(self) -> str | None:
        """The release without its patch number: "6.4"."""
        return ".".join(self.version.split(".")[:2]) if self.version else None

    def holds(self, real_path: str) -> bool:
        """Whether a file (links followed) belongs to this installation."""
        if self.origin in ("distribution", "torch", "conda"):
            return self.library_folder is not None and posixpath.dirname(real_path) == self.library_folder
        if self.origin == "wheel":  # _rocm_sdk_core, and _rocm_sdk_libraries beside it
            return real_path.startswith(posixpath.dirname(self.path) + "/_rocm_sdk_")
        return real_path.startswith(self.path.rstrip("/") + "/")


@dataclass(slots=True)
class _Found:
    """What the search is collecting: installations by the folder they really are."""

    host: Host
    installs: dict[str, RocmInstall] = field(default_factory=dict)
    unseen: bool = False  # something was not recorded

    def tree(self, path: str, origin: str, version: str | None = None) -> None:
        """Looks at one folder as a ROCm root, and keeps it if it is one."""
        real = self.host.real_path(path)
        if real is None:
            return
        known = self.installs.get(real)
        if known is not None:
            if path not in (known.path, *known.aliases):
                self.installs[real] = replace(known, aliases=(*known.aliases, path))
            return
        install = _look(self.host, real, origin, version)
        if install is not None:
            aliases = (path,) if path != real else ()
            self.installs[real] = replace(install, aliases=aliases)


def gather(
    host: Host, python: Python, torch: Torch | None, noted: ToolVersions | None = None
) -> tuple[RocmInstall, ...] | None:
    """All installations, newest origin last: the system's, then those of the target Python. None: not known.

    `noted` is what kept outputs of a recorded machine say where its files are not recorded.
    """
    found = _Found(host)
    listing = host.list("/opt")
    known = listing.problem in (None, Problem.ABSENT)
    names = [name for name in listing.names if re.fullmatch(r"rocm(-[\w.]+)?", name)]
    # The trees by their own names first, so that a link to one is an alias and not a second installation.
    for name in sorted(names, key=lambda name: (name == "rocm", name)):
        below = [inner for inner in host.list(f"/opt/{name}").names if re.fullmatch(r"core(-\d+\.\d+)?", inner)]
        for inner in sorted(below, reverse=True):
            found.tree(f"/opt/{name}/{inner}", "opt")
        _opt_root(found, f"/opt/{name}")
    for variable in _VARIABLES:
        path = (host.environ or {}).get(variable, "")
        if not path.startswith("/") or posixpath.normpath(path) in ("/", "/usr", "/usr/local"):
            continue
        real = host.real_path(path) or path
        if not any(install.holds(real) for install in found.installs.values()):  # HIP_PATH=/opt/rocm/hip of old
            found.tree(posixpath.normpath(path), "variable")
    installs = list(found.installs.values())
    installs += _in_system_folders(host)
    installs += _of_python(host, python, torch)
    if not installs and noted is not None and noted.rocm and noted.rocm_source:
        said = Evidence(noted.rocm_source, f"ROCm version {noted.rocm}")
        installs.append(RocmInstall(noted.rocm, noted.rocm_source, "report", evidence=(said,)))
    return tuple(installs) if installs or known else None


def release_of_text(text: str) -> str | None:
    """The release in a version file: "6.4.1-83\\n" is 6.4.1, "7.0.2.70002-56~22.04" is 7.0.2."""
    match = re.match(rf"\s*{_VERSION}(?![\d])", text, re.ASCII)
    return match[1] if match else None


def release_of_version_header(text: str, prefix: str = "ROCM") -> str | None:
    """MAJOR, MINOR and PATCH of rocm_version.h (prefix ROCM) or hip_version.h (prefix HIP)."""
    numbers = []
    for part in ("MAJOR", "MINOR", "PATCH"):
        match = re.search(rf"^\s*#\s*define\s+{prefix}_VERSION_{part}\s+(\d{{1,9}})\b", text, re.MULTILINE | re.ASCII)
        if match:
            numbers.append(match[1])
        elif part != "PATCH":
            return None
    return ".".join(numbers)


def release_of_library_name(name: str) -> str | None:
    """The release in a library's full file name: libamdhip64.so.6.4.60401 is of ROCm 6.4.1.

    AMD's packages up to 7.2 end the name in major * 10000 + minor * 100 + patch; other builds do not.
    """
    match = re.search(r"\.so(?:\.\d+)*\.([4-7])(\d\d)(\d\d)$", name, re.ASCII)
    return ".".join(str(int(part)) for part in match.groups()) if match else None


def _opt_root(found: _Found, path: str) -> None:
    """/opt/rocm or /opt/rocm-X.Y.Z. With TheRock's layout its parts are links into a core folder: no second tree."""
    real_libraries = found.host.real_path(f"{path}/lib")
    for root, install in found.installs.items():
        if real_libraries is not None and found.host.real_path(f"{root}/lib") == real_libraries:
            if path not in (install.path, *install.aliases):
                found.installs[root] = replace(install, aliases=(*install.aliases, path))
            return
    found.tree(path, "opt")


def _look(host: Host, root: str, origin: str, version: str | None = None) -> RocmInstall | None:
    """What there is below a folder that may be a ROCm root; None if nothing of ROCm is."""
    evidence: list[Evidence] = []
    folder, hip = _libraries(host, root)
    header = f"{root}/include/hip/hip_version.h"
    hip_version = release_of_version_header(host.read(header).text or "", "HIP")
    has_headers = host.exists(f"{root}/include/hip/hip_runtime.h")
    hipcc = _program(host, f"{root}/bin/hipcc")
    has_tools = host.exists(f"{root}/bin/rocminfo")
    places = (f"{root}/llvm/bin/ld.lld", f"{root}/lib/llvm/bin/ld.lld")
    linker = next((path for path in places if _program(host, path)), None)
    for source, release in _versions(host, root, folder, hip):
        if version is None:
            version = release
            evidence.append(Evidence(source, release))
    if version is None and not (hip or hipcc or has_headers or has_tools):
        return None
    if version is None and hip_version and hip_version.split(".")[0] in ("5", "6"):
        version = ".".join(hip_version.split(".")[:2])  # HIP's numbers were those of the release
        evidence.append(Evidence(header, f"HIP {hip_version}"))
    if hip:
        evidence.append(Evidence(folder or root, ", ".join(hip)))
    return RocmInstall(
        version=version,
        path=root,
        origin=origin,
        hip_version=hip_version,
        library_folder=folder,
        hip_libraries=hip,
        hipcc=hipcc,
        has_headers=has_headers,
        linker=linker,
        has_tools=has_tools,
        dxg_bridge=_dxg_bridge(host, folder),
        evidence=tuple(evidence),
    )


def _dxg_bridge(host: Host, folder: str | None) -> str | None:
    names = host.list(folder).names if folder else ()
    return next((f"{folder}/{name}" for name in names if name.startswith("librocdxg.so")), None)


def _versions(host: Host, root: str, folder: str | None, hip: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What names the release of a tree, the surest first: (source, release)."""
    for name in ("version", "version-dev", "version-hip-libs", "version-rocm", "version-utils"):
        release = release_of_text(host.read(f"{root}/.info/{name}", limit=4096).text or "")
        if release:
            yield f"{root}/.info/{name}", release
    for name in ("include/rocm-core/rocm_version.h", "include/rocm_version.h"):
        release = release_of_version_header(host.read(f"{root}/{name}", limit=65536).text or "")
        if release:
            yield f"{root}/{name}", release
    match = re.search(rf"/(?:rocm|core)-{_VERSION}(?=/|$)", root, re.ASCII)
    if match:
        yield root, match[1]
    if folder:
        yield from _release_of_files(host, folder, hip)


def _release_of_files(host: Host, folder: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        real = host.real_path(f"{folder}/{name}")
        release = release_of_library_name(posixpath.basename(real)) if real else None
        if real and release:
            yield real, release


def _libraries(host: Host, root: str) -> tuple[str | None, tuple[str, ...]]:
    """The folder (links followed) with libamdhip64 below a root, and the names it has there."""
    for name in ("lib", "lib64"):
        hip = tuple(found for found in host.list(f"{root}/{name}").names if found.startswith(_HIP))
        if hip:
            return host.real_path(f"{root}/{name}") or f"{root}/{name}", hip
    return None, ()


def _program(host: Host, path: str) -> str | None:
    return path if host.stat(path).kind is NodeKind.FILE else None


def _in_system_folders(host: Host) -> Iterator[RocmInstall]:
    """Packages of the distribution itself: libraries among all others, headers in /usr/include, tools in /usr/bin."""
    seen: set[str] = set()
    for folder in _SYSTEM_FOLDERS:
        hip = tuple(name for name in (*_SYSTEM_SONAMES, _HIP) if host.exists(f"{folder}/{name}"))
        real = host.real_path(folder)
        if not hip or real is None or real in seen:
            continue
        seen.add(real)
        prefix = "/usr/local" if folder.startswith("/usr/local") else "/usr"
        install = _look(host, prefix, "distribution")
        files = [f"{folder}/{name}" for name in hip]
        version = install.version if install else None
        evidence = [Evidence(folder, ", ".join(hip)), *(install.evidence if install else ())]
        if version is None:
            for source, release in _release_of_files(host, folder, hip):
                version = release
                evidence.append(Evidence(source, release))
                break
        if version is None:
            version = _debian_release(host, files)
        yield RocmInstall(
            version=version,
            path=prefix,
            origin="distribution",
            hip_version=install.hip_version if install else None,
            library_folder=real,
            hip_libraries=tuple(name for name in hip if name.startswith(_HIP)),
            hipcc=_program(host, f"{prefix}/bin/hipcc"),
            has_headers=host.exists(f"{prefix}/include/hip/hip_runtime.h"),
            linker=_program(host, f"{prefix}/bin/ld.lld"),
            has_tools=host.exists(f"{prefix}/bin/rocminfo"),
            evidence=tuple(evidence),
        )


def _debian_release(host: Host, files: Iterable[str]) -> str | None:
    """Distributions name the file after HIP: libamdhip64.so.5.7.31921 is HIP 5.7, of ROCm 5.7."""
    for path in files:
        real = host.real_path(path) or ""
        match = re.search(r"/libamdhip64\.so\.([56]\.\d{1,2})(?:\.\d+)*$", real, re.ASCII)
        if match:
            return match[1]
    return None


def _of_python(host: Host, python: Python, torch: Torch | None) -> Iterator[RocmInstall]:
    """The rocm packages of an index, torch's own libraries, and a conda environment's."""
    by_name = {found.name: found.version for found in python.distributions or ()}
    for site in python.search_path:
        root = f"{site}/_rocm_sdk_core"
        if not host.exists(root):
            continue
        release = release_of_text(by_name.get("rocm-sdk-core") or by_name.get("rocm") or "")
        install = _look(host, root, "wheel", release)
        if install is not None:
            devel = f"{site}/_rocm_sdk_devel"
            yield replace(
                install,
                hipcc=install.hipcc or _program(host, f"{devel}/bin/hipcc"),
                has_headers=install.has_headers or host.exists(f"{devel}/include/hip/hip_runtime.h"),
            )
    if python.environment == "conda" and python.prefix:
        install = _look(host, python.prefix, "conda")
        if install is not None and install.hip_libraries:
            yield install
    if torch is not None and torch.bundled:
        folder = f"{torch.folder}/lib"
        hip = tuple(name for name in torch.bundled if name.startswith(_HIP))
        said = next((item for item in torch.evidence if item.text.startswith("hip =")), None)
        yield RocmInstall(
            version=torch.rocm,
            path=folder,
            origin="torch",
            hip_version=torch.hip,
            library_folder=host.real_path(folder) or folder,
            hip_libraries=hip,
            has_headers=False,
            has_tools=False,
            evidence=(Evidence(folder, ", ".join(torch.bundled[:8])), *((said,) if said else ())),
        )
