"""How the installed Triton would look for libamdhip64 and ld.lld, step by step, and what it would end with here."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from fa_doctor.facts.libraries import Libraries
from fa_doctor.facts.packages import Triton
from fa_doctor.facts.python import Python
from fa_doctor.host import Host, NodeKind, Problem
from fa_doctor.knowledge.gpus import version_key
from fa_doctor.knowledge.triton import search

__all__ = ["TritonSearch", "find_hip_library", "find_linker", "llvm_of"]

_HIP = "libamdhip64.so"
_LINKER = "ld.lld"
_LDCONFIG = "/sbin/ldconfig"  # the path that Triton runs, whatever PATH says


@dataclass(frozen=True, slots=True)
class TritonSearch:
    """`state`: "found" (`path`, by the step `rule`), "in process" (no file is needed), "missing" (`tried` in vain),
    "error" (Triton gives up with `problem`), or "unknown". `llvm` is the major version of a linker, `said` its line."""

    state: str
    path: str | None = None
    rule: str = ""
    tried: tuple[str, ...] = ()
    problem: str | None = None
    llvm: int | None = None
    said: str = ""
    real_path: str | None = None


def llvm_of(version_output: str) -> int | None:
    """The major version of LLVM in the output of `ld.lld --version`."""
    match = re.search(r"\bLLD (\d{1,3})\.", version_output, re.ASCII)
    return int(match[1]) if match else None


def find_hip_library(host: Host, python: Python, triton: Triton | None, libraries: Libraries) -> TritonSearch | None:
    """Where this Triton would load the HIP runtime from, in a process that has imported torch; None without Triton."""
    if triton is None or triton.version is None or triton.folder is None:
        return None
    found = _Search(host, python, triton.folder, triton.version, libraries).run("hip_library")
    return replace(found, real_path=host.real_path(found.path)) if found.path else found


def find_linker(host: Host, python: Python, triton: Triton | None) -> TritonSearch | None:
    """Which ld.lld this Triton would call, and of which LLVM it is (asked with --version); None without Triton."""
    if triton is None or triton.version is None or triton.folder is None:
        return None
    found = _Search(host, python, triton.folder, triton.version, Libraries()).run("linker")
    if found.path is None:
        return found
    output = host.run([found.path, "--version"], timeout_s=2.0)
    said = (output.stdout or output.stderr).strip().splitlines()
    return replace(found, llvm=llvm_of(output.stdout), said=said[0][:200] if said else "")


class _Search:
    def __init__(self, host: Host, python: Python, folder: str, version: str, libraries: Libraries) -> None:
        self.host = host
        self.python = python
        self.folder = folder
        self.version = version
        self.libraries = libraries
        self.environ: Mapping[str, str] = host.environ or {}
        self.unknown = False

    def run(self, what: str) -> TritonSearch:
        """Follows the order of knowledge/triton.toml; the first file that is there wins, as in Triton."""
        name = _HIP if what == "hip_library" else _LINKER
        steps = search(what, self.version)
        tried: list[str] = []
        for step in steps:
            if step == "in-process":
                return TritonSearch("in process", rule=step)
            kind, _, value = step.partition(":")
            if kind == "env":
                given = self.environ.get(value)
                if given:
                    problem = self._bad_value(value, given, name)
                    if problem is None:
                        return TritonSearch("found", given, step)
                    tried.append(given)
                    if what == "hip_library":  # the linker's variable is passed over, the library's is an error
                        return TritonSearch("error", rule=step, tried=tuple(tried), problem=problem)
                continue
            if kind == "ldconfig" and self.host.exists(_LDCONFIG) is False:
                problem = f"it runs {_LDCONFIG} -p, and there is no such program"
                return TritonSearch("error", rule=step, tried=tuple(tried), problem=problem)
            for path in self._candidates(kind, value, name):
                there = self.host.stat(path)
                if there.problem is Problem.UNRECORDED:
                    self.unknown = True
                if there.kind is NodeKind.FILE:
                    problem = self._refuses(step, path, name)
                    if problem is not None:
                        return TritonSearch("error", rule=step, tried=(*tried, path), problem=problem)
                    return TritonSearch("found", path, step, tuple(tried))
                tried.append(path)
        state = "unknown" if self.unknown or not steps or self.host.environ is None else "missing"
        return TritonSearch(state, tried=tuple(tried))

    def _refuses(self, step: str, path: str, name: str) -> str | None:
        """From 3.9 on Triton takes the HIP runtime of the rocm packages, and gives up if another is mapped already."""
        mapped = next((known for known in self.libraries.mapped if name in posixpath.basename(known)), None)
        if not step.startswith("command:rocm_sdk.") or mapped is None:
            return None
        if self.host.real_path(mapped) == self.host.real_path(path):
            return None
        return f"the rocm packages have {path}, and {mapped} is in the process already; it refuses to mix them"

    def _bad_value(self, variable: str, given: str, name: str) -> str | None:
        """What is wrong with a variable that names the file, or None. Triton 3.9 asks for the start of the name only."""
        if variable == "TRITON_LIBHIP_PATH":
            fits = posixpath.basename(given).startswith(name)
            if version_key(self.version)[:2] < (3, 9):
                fits = given.endswith(name)
            if not fits:
                return f"{variable}={given} does not end in {name}"
        if self.host.stat(given).kind is not NodeKind.FILE:
            return f"{variable}={given}: there is no such file"
        return None

    def _candidates(self, kind: str, value: str, name: str) -> Iterator[str]:
        if kind == "mapped":
            yield from (path for path in self.libraries.mapped if name in posixpath.basename(path))
        elif kind == "site" and value.startswith("triton/"):
            yield posixpath.join(posixpath.dirname(self.folder), value, name)
        elif kind == "site":
            sites = (*((self.python.user_site,) if self.python.user_site else ()), *self.python.site_packages)
            yield from (posixpath.join(site, value, name) for site in sites)
        elif kind == "env-list":
            folders = self.environ.get(value, "").split(":") if self.environ.get(value) else []
            yield from (posixpath.join(folder, name) for folder in folders if folder.startswith("/"))
        elif kind == "env-dir":
            variable, _, below = value.partition("/")
            if self.environ.get(variable):
                yield posixpath.join(self.environ[variable], below, name)
        elif kind == "command":
            yield from self._asked(value, name)
        elif kind == "ldconfig":
            yield from (path for path in self.libraries.cached_hip if path.endswith(name))
        elif kind == "path":
            yield posixpath.join(value, name)

    def _asked(self, command: str, name: str) -> Iterator[str]:
        if command.startswith("rocm_sdk."):
            for site in self.python.search_path:
                folder = f"{site}/_rocm_sdk_core/lib"
                yield from (f"{folder}/{found}" for found in self.host.list(folder).names if found.startswith(name))
            return
        words = command.split()
        if self.host.which(words[0]) is None:
            return
        answer = self.host.run(words, timeout_s=2.0).stdout.strip()
        if answer.startswith("/"):
            yield posixpath.join(answer, "lib", name)
