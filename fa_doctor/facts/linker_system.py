"""What the dynamic linker finds on a machine before any program starts: cache, default folders, variables, CPU level."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterable, Mapping

from fa_doctor.facts.ld_cache import CacheEntry, folders_of_ld_so_conf, parse_ld_cache
from fa_doctor.host import ElfDynamic, Host, Problem

__all__ = ["LinkerSystem", "expand_tokens", "x86_64_level"]

_CACHE = "/etc/ld.so.cache"
_CONFIGURATION = "/etc/ld.so.conf"
_CACHE_LIMIT = 16 << 20
_MOST_INCLUDED_FILES = 200

# The ABI bits of a cache entry (elf/cache.c, sysdeps/*/ldconfig.h): an ELF library for glibc 2 of this machine.
_CACHE_FLAGS = {("X86_64", 64): 0x0303, ("386", 32): 0x0003, ("AARCH64", 64): 0x0A03, ("PPC64", 64): 0x0503}
_CACHE_FLAGS |= {("S390", 64): 0x0403, ("X86_64", 32): 0x0803}

# System V ABI for x86-64, section "micro-architecture levels"; names as /proc/cpuinfo has them.
_LEVELS = (
    ("x86-64-v2", {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}),
    ("x86-64-v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
    ("x86-64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)

_TOKEN = re.compile(r"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM)(?![A-Za-z0-9_]))")


def x86_64_level(cpuinfo: str) -> tuple[str, ...]:
    """The glibc-hwcaps subfolders that this CPU may use, best first, from the text of /proc/cpuinfo."""
    match = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = set(match.group(1).split()) if match else set()
    reached: list[str] = []
    for name, wanted in _LEVELS:
        if not wanted <= flags:
            break
        reached.insert(0, name)
    return tuple(reached)


def expand_tokens(text: str, origin: str | None, system: LinkerSystem) -> str:
    """Replaces $ORIGIN, $LIB and $PLATFORM, with or without braces; "" if one of them is not known."""
    if "$" not in text:
        return text
    values = {"ORIGIN": origin, "LIB": system.lib_token, "PLATFORM": system.platform_token}
    names = [braced or bare for braced, bare in _TOKEN.findall(text)]
    if any(values[name] is None for name in names):
        return ""
    return _TOKEN.sub(lambda match: values[match.group(1) or match.group(2)] or "", text)


class LinkerSystem:
    """Answers from the host, each asked for once. `environ` is that of the process whose libraries are modelled."""

    def __init__(self, host: Host, environ: Mapping[str, str] | None = None) -> None:
        self.host = host
        self.environ: Mapping[str, str] = (host.environ or {}) if environ is None else environ
        self.cache_source = _CACHE
        self._elves: dict[str, ElfDynamic | Problem] = {}
        self._folders: dict[str, tuple[str, ...]] = {}
        self._defaults: tuple[str, ...] | None = None
        self._cache: dict[str, list[CacheEntry]] | None = None
        self._levels: tuple[str, ...] | None = None

    def elf(self, path: str) -> ElfDynamic | Problem:
        """The dynamic section of a file, read once."""
        if path not in self._elves:
            self._elves[path] = self.host.elf(path)
        return self._elves[path]

    def leads_nowhere(self, path: str) -> bool:
        """Whether a file that cannot be read is a circle of links, and not a file of another kind."""
        return self.host.stat(path).problem is Problem.FAILED

    @property
    def levels(self) -> tuple[str, ...]:
        """The glibc-hwcaps subfolders for this CPU, best first."""
        if self._levels is None:
            self._levels = x86_64_level(self._cpuinfo)
        return self._levels

    @property
    def _cpuinfo(self) -> str:
        return self.host.read("/proc/cpuinfo", limit=16384).text or ""

    @property
    def default_folders(self) -> tuple[str, ...]:
        """Those that are built into the dynamic linker: Debian's and its children's are of their own kind."""
        if self._defaults is None:
            self._defaults = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
            multiarch = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu")
            if any(self.host.exists(f"{folder}/libc.so.6") for folder in multiarch):
                self._defaults = (*multiarch, "/lib", "/usr/lib")
            elif self.host.exists("/lib64/libc.so.6"):
                self._defaults = ("/lib64", "/usr/lib64")
        return self._defaults

    @property
    def lib_token(self) -> str:
        """What $LIB stands for."""
        return "lib/x86_64-linux-gnu" if self.default_folders[0].endswith("-linux-gnu") else "lib64"

    @property
    def platform_token(self) -> str:
        """What $PLATFORM stands for on x86-64: "haswell" on Intel's with AVX2 (sysdeps/x86/cpu-features.c)."""
        return "haswell" if "x86-64-v3" in self.levels and "GenuineIntel" in self._cpuinfo else "x86_64"

    @property
    def preload(self) -> tuple[str, ...]:
        """The names in LD_PRELOAD."""
        return tuple(name for name in re.split(r"[ :]", self.environ.get("LD_PRELOAD", "")) if name)

    def library_path(self, origin: str | None) -> tuple[str, ...]:
        """The folders of LD_LIBRARY_PATH; `origin` is the program's."""
        return self.split_path(self.environ.get("LD_LIBRARY_PATH", ""), ":;", origin)

    def split_path(self, text: str, separators: str, origin: str | None) -> tuple[str, ...]:
        """The folders of a search path. An empty element is the current folder, as the linker takes it."""
        if not text:
            return ()
        folders: list[str] = []
        for element in re.split(f"[{separators}]", text):
            folder = expand_tokens(element, origin, self)
            if folder or not element:
                folders += self.absolute([folder.rstrip("/") or ("/" if folder else ".")])
        return tuple(dict.fromkeys(folders))

    def absolute(self, paths: Iterable[str]) -> list[str]:
        """The paths with the current folder (PWD) before relative ones; those are left out where it is not known."""
        here = self.environ.get("PWD", "")
        absolute: list[str] = []
        for path in paths:
            if path.startswith("/"):
                absolute.append(path)
            elif here.startswith("/"):
                absolute.append(here if path == "." else posixpath.join(here, path))
        return absolute

    def subfolders_of(self, folder: str) -> tuple[str, ...]:
        """A folder of a search path with the subfolders that are tried before it; empty if it is not there."""
        if folder not in self._folders:
            found: tuple[str, ...] = ()
            if self.host.exists(folder) is not False:
                found = (folder,)
                hwcaps = posixpath.join(folder, "glibc-hwcaps")
                if self.host.exists(hwcaps):
                    found = (*(posixpath.join(hwcaps, level) for level in self.levels), folder)
            self._folders[folder] = found
        return self._folders[folder]

    def cached(self, name: str, abi: tuple[str, int] | None) -> str | None:
        """The file that /etc/ld.so.cache gives for a name, if the ABI of the process is known; x86-64 otherwise."""
        if self._cache is None:
            self._cache = self._load_cache()
        wanted = _CACHE_FLAGS.get(abi or ("X86_64", 64))
        plain: str | None = None
        best: tuple[int, str] | None = None
        for entry in self._cache.get(name, ()):
            if entry.flags != wanted or entry.legacy_hwcap:
                continue
            if entry.hwcaps is None:
                plain = plain or entry.path
            elif entry.hwcaps in self.levels:
                rank = self.levels.index(entry.hwcaps)
                if best is None or rank < best[0]:
                    best = (rank, entry.path)
        return best[1] if best else plain

    @property
    def cached_names(self) -> tuple[str, ...]:
        """All names in the cache."""
        if self._cache is None:
            self._cache = self._load_cache()
        return tuple(self._cache)

    def cached_paths(self, name: str) -> tuple[str, ...]:
        """What `ldconfig -p` lists for a name, in its order."""
        if self._cache is None:
            self._cache = self._load_cache()
        return tuple(entry.path for entry in self._cache.get(name, ()))

    def _load_cache(self) -> dict[str, list[CacheEntry]]:
        found = self.host.read_bytes(_CACHE, limit=_CACHE_LIMIT)
        entries = parse_ld_cache(found.data) if found.data is not None else None
        if entries is None:
            # Known to be absent: the linker looks into no configuration file by itself. Not recorded or not readable
            # for us: what ldconfig would have written is the best guess.
            entries = () if found.problem is Problem.ABSENT else self._as_ldconfig_would()
        table: dict[str, list[CacheEntry]] = {}
        for entry in entries:
            table.setdefault(entry.name, []).append(entry)
        return table

    def _as_ldconfig_would(self) -> tuple[CacheEntry, ...]:
        self.cache_source = _CONFIGURATION
        entries: list[CacheEntry] = []
        for folder in self.configured_folders():
            for name in self.host.list(folder).names:
                if ".so" not in name or not name.startswith(("lib", "ld-")):
                    continue
                path = posixpath.join(folder, name)
                elf = self.elf(path)
                if not isinstance(elf, Problem):
                    flags = _CACHE_FLAGS.get((elf.machine, elf.bits), 0)
                    # ldconfig enters a file under its soname, and a link to it under the link's own name.
                    entries += [CacheEntry(known, path, flags) for known in {name, elf.soname or name}]
        return tuple(entries)

    def configured_folders(self) -> tuple[str, ...]:
        """The folders that /etc/ld.so.conf and the files it includes name."""
        folders: list[str] = []
        pending = [_CONFIGURATION]
        seen: set[str] = set()
        while pending and len(seen) < _MOST_INCLUDED_FILES:
            path = pending.pop(0)
            if path in seen:
                continue
            seen.add(path)
            found, patterns = folders_of_ld_so_conf(self.host.read(path).text or "")
            folders += found
            for pattern in patterns:
                base = posixpath.dirname(posixpath.join("/etc", pattern))
                names = fnmatch.filter(self.host.list(base).names, posixpath.basename(pattern))
                pending += [posixpath.join(base, name) for name in names]
        return tuple(dict.fromkeys(folders))
