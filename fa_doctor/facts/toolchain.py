"""What compiles on this machine: the C compiler that Triton calls, ld.lld, hipcc and the HIP headers, ninja, cmake."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from fa_doctor.evidence import Evidence
from fa_doctor.facts.libraries import Libraries
from fa_doctor.facts.packages import Triton
from fa_doctor.facts.python import Python
from fa_doctor.facts.rocm import RocmInstall
from fa_doctor.facts.triton_search import TritonSearch, find_hip_library, find_linker
from fa_doctor.host import Host, NodeKind

__all__ = ["CCompiler", "Toolchain", "gather"]


@dataclass(frozen=True, slots=True)
class CCompiler:
    """`command` is what Triton would call, `chosen_because` the rule: CC, else gcc, else clang, first on PATH.

    `path` is where that is, None if nothing is there. `has_c_headers`: the C library's headers are there, None where
    the compiler has its own place for them.
    """

    command: str | None
    path: str | None
    chosen_because: str
    has_c_headers: bool | None = None


@dataclass(frozen=True, slots=True)
class Toolchain:
    """`rocm_home` is the folder that torch.utils.cpp_extension takes as ROCm, `rocm_home_because` the rule.

    `hip_headers`: hip/hip_runtime.h is below it. `triton_hip_headers`: Triton's own copy, which its driver shim includes.
    """

    compiler: CCompiler | None = None
    hipcc: str | None = None
    rocm_home: str | None = None
    rocm_home_because: str = ""
    hip_headers: bool | None = None
    triton_hip_headers: bool | None = None
    ninja: str | None = None
    cmake: str | None = None
    triton_hip_library: TritonSearch | None = None
    triton_linker: TritonSearch | None = None
    evidence: tuple[Evidence, ...] = ()


def gather(
    host: Host,
    python: Python,
    triton: Triton | None,
    installs: Sequence[RocmInstall] | None,
    libraries: Libraries,
) -> Toolchain:
    """Looks programs up on PATH and headers in their folders; runs nothing but `ld.lld --version` for an old Triton."""
    evidence: list[Evidence] = []
    hipcc = host.which("hipcc")
    home, because = _rocm_home(host, python, installs or (), hipcc)
    headers = host.exists(f"{home}/include/hip/hip_runtime.h") if home else None
    if home and posixpath.basename(home) == "_rocm_sdk_core" and not headers:
        headers = host.exists(f"{posixpath.dirname(home)}/_rocm_sdk_devel/include/hip/hip_runtime.h")
    if home:
        evidence.append(Evidence(because, home))
    own = None
    if triton and triton.folder and triton.has_amd_backend:
        own = host.exists(f"{triton.folder}/backends/amd/include/hip/hip_runtime.h")
    return Toolchain(
        compiler=_compiler(host),
        hipcc=hipcc,
        rocm_home=home,
        rocm_home_because=because,
        hip_headers=headers,
        triton_hip_headers=own,
        ninja=host.which("ninja"),
        cmake=host.which("cmake"),
        triton_hip_library=find_hip_library(host, python, triton, libraries),
        triton_linker=find_linker(host, python, triton),
        evidence=tuple(evidence),
    )


def _compiler(host: Host) -> CCompiler | None:
    """The rule of triton/runtime/build.py (3.2 to 3.9); None where the environment is not known."""
    if host.environ is None:
        return None
    given = host.environ.get("CC")
    if given is not None:  # taken as it stands: an empty or wrong CC is not passed over
        # Triton passes CC as one word, so that "ccache gcc" is not found; a path with blanks is.
        path = _find(host, given)
        return CCompiler(given, path, f"CC={given}", _c_headers(host, path))
    for name in ("gcc", "clang"):
        path = host.which(name)
        if path is not None:
            return CCompiler(name, path, f"{name} on PATH", _c_headers(host, path))
    return CCompiler(None, None, "neither gcc nor clang is on PATH, and CC is not set")


def _find(host: Host, command: str) -> str | None:
    if len(command.split()) != 1:  # Triton runs CC as one program: "ccache gcc" is none
        return None
    if "/" not in command:
        return host.which(command)
    return command if host.stat(command).kind is NodeKind.FILE else None


def _c_headers(host: Host, compiler: str | None) -> bool | None:
    """Whether the C library's headers are there, for a compiler of the system; others bring a sysroot of their own."""
    if compiler is None or posixpath.dirname(compiler) not in ("/usr/bin", "/bin"):
        return None
    return host.exists("/usr/include/stdlib.h") or host.exists("/usr/include/stdio.h")


def _rocm_home(
    host: Host, python: Python, installs: Sequence[RocmInstall], hipcc: str | None
) -> tuple[str | None, str]:
    """The order of torch 2.13's torch/utils/cpp_extension.py (_find_rocm_home)."""
    for variable in ("ROCM_HOME", "ROCM_PATH"):
        value = (host.environ or {}).get(variable)
        if value:
            return value.rstrip("/") or "/", f"{variable}={value}"
    wheel = next((install for install in installs if install.origin == "wheel"), None)
    if wheel is not None:
        return wheel.path, "the rocm packages in the target Python"
    if hipcc is not None:
        real = host.real_path(hipcc) or hipcc
        home = posixpath.dirname(posixpath.dirname(real))
        return (posixpath.dirname(home) if posixpath.basename(home) == "hip" else home), f"{hipcc} on PATH"
    if host.exists("/opt/rocm"):
        return "/opt/rocm", "the folder /opt/rocm"
    return None, "no variable, no rocm packages, no hipcc, no /opt/rocm"
