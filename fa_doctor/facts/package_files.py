"""What the files of a package tell without being run: assignments in its source, and what its libraries link against."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fa_doctor.host import ElfDynamic, Host

__all__ = [
    "Extension",
    "build_of_label",
    "build_of_libraries",
    "extensions_below",
    "parse_assignments",
    "requirement_on",
]

_HIP_LIBRARIES = ("libamdhip64", "libc10_hip", "libtorch_hip", "libhsa-runtime64", "libhipblas", "librocblas")
_CUDA_LIBRARIES = ("libcudart", "libc10_cuda", "libtorch_cuda", "libcuda.so", "libcublas", "libnvrtc")


@dataclass(frozen=True, slots=True)
class Extension:
    """A compiled file of a package. `needed`: its DT_NEEDED; `versions_needed`: symbol versions by library.

    `python` is the interpreter that its name says it was built for ("312" of `x.cpython-312-x86_64-linux-gnu.so`).
    """

    path: str
    needed: tuple[str, ...] = ()
    versions_needed: Mapping[str, tuple[str, ...]] | None = None
    build: str | None = None
    python: str | None = None


def parse_assignments(text: str, *names: str) -> dict[str, str | None]:
    """Module-level assignments of a string or None in Python source, annotated or not: `hip: Optional[str] = '6.4'`.

    The text is never executed. Names that are not assigned, or not to a literal, are missing in the answer.
    """
    found: dict[str, str | None] = {}
    for name in names:
        pattern = rf"^{re.escape(name)}[ \t]*(?::[^=\n]{{0,80}})?=[ \t]*(?:(['\"])([^'\"\n]{{0,200}})\1|(None)\b)"
        matches = list(re.finditer(pattern, text, re.MULTILINE))
        if matches:
            last = matches[-1]
            found[name] = None if last[3] else last[2]
    return found


def requirement_on(requires: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    """The first requirement on one of these distributions ("triton-rocm==3.7.1"), its marker taken off.

    Requirements of an extra (`; extra == "..."`) do not count.
    """
    for requirement in requires:
        wanted, _, marker = requirement.partition(";")
        match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", wanted)
        if match and re.sub(r"[-_.]+", "-", match[1]).lower() in names and "extra" not in marker:
            return re.sub(r"[\s()]+", "", wanted)
    return None


def build_of_label(local: str) -> str | None:
    """The build that a local version label names: "rocm6.4" and "rocm7.2.4.lw" a ROCm one, "cu126" CUDA, "cpu" none."""
    for prefix, build in (("rocm", "rocm"), ("cu1", "cuda"), ("cpu", "cpu")):
        if local.startswith(prefix) or f".{prefix}" in local:
            return build
    return None


def build_of_libraries(needed: tuple[str, ...]) -> str | None:
    """ "rocm" or "cuda" by the libraries that a file asks for, None if it asks for neither or for both."""
    hip = any(name.startswith(_HIP_LIBRARIES) for name in needed)
    cuda = any(name.startswith(_CUDA_LIBRARIES) for name in needed)
    return None if hip == cuda else ("rocm" if hip else "cuda")


def extensions_below(host: Host, site: str, patterns: tuple[str, ...]) -> list[Extension]:
    """The compiled files below a folder of packages that match, at most four a pattern."""
    found = []
    for pattern in patterns:
        folder, _, name_pattern = f"{site}/{pattern}".rpartition("/")
        names = fnmatch.filter(host.list(folder).names, name_pattern)
        for name in names[:4]:
            elf = host.elf(f"{folder}/{name}")
            tag = re.search(r"\.cpython-(\d{2,3}t?)-", name, re.ASCII)
            if isinstance(elf, ElfDynamic):
                found.append(
                    Extension(
                        f"{folder}/{name}",
                        elf.needed,
                        elf.versions_needed,
                        build_of_libraries(elf.needed),
                        tag[1] if tag else None,
                    )
                )
            else:
                found.append(Extension(f"{folder}/{name}", python=tag[1] if tag else None))
    return found
