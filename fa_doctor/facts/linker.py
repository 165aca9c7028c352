"""A model of glibc's dynamic linker: which file a library's name leads to, by which rule, and which files lose to it.

It follows ld.so(8) and the order in glibc's elf/dl-load.c (_dl_map_object). For a name without a slash:

1. what is already loaded under that name or has it as DT_SONAME;
2. DT_RPATH of the object that asks, of the one that loaded that, and so on up to the program; none of it if the object
   that asks has DT_RUNPATH;
3. LD_LIBRARY_PATH;
4. DT_RUNPATH of the object that asks, and of that one only;
5. /etc/ld.so.cache;
6. the default folders.

A file of another ABI is passed over; a file that is no ELF file at all ends the search with an error. Names with a
slash are opened as they are. Not modelled: LD_AUDIT, prelinked maps, set-user-id programs, hwcaps subfolders of before
glibc 2.33, and the C library musl, whose rules differ.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from fa_doctor.facts.linker_system import LinkerSystem, expand_tokens
from fa_doctor.host import ElfDynamic, Problem

__all__ = ["LinkedProcess", "LoadedObject", "Rejected", "Resolution", "Rule"]


class Rule(str, Enum):
    """The rule that led to a file."""

    LOADED = "already loaded"
    PATH = "path"
    RPATH = "RPATH"
    LD_LIBRARY_PATH = "LD_LIBRARY_PATH"
    RUNPATH = "RUNPATH"
    CACHE = "ld.so.cache"
    DEFAULT = "default folder"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file of the right name that did not win: `why` in words."""

    path: str
    rule: Rule
    why: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """What became of a name. `path` is the file as the linker opens it, None if none was found.

    `source` says where the rule stands: the object with the RPATH or RUNPATH, or the variable's text. `error` is set
    when the search ended at a file that cannot be loaded, `unknown` when what was recorded cannot tell.
    """

    name: str
    requested_by: str | None
    path: str | None
    rule: Rule | None = None
    source: str = ""
    rejected: tuple[Rejected, ...] = ()
    error: str | None = None
    unknown: bool = False


@dataclass(slots=True, eq=False)
class LoadedObject:
    """A library in the process: `path` as it was opened, `real_path` with links followed, and how it got there."""

    path: str
    real_path: str
    elf: ElfDynamic
    loader: LoadedObject | None
    resolution: Resolution
    names: set[str] = field(default_factory=set)
    is_program: bool = False

    @property
    def origin(self) -> str:
        """What $ORIGIN stands for in its paths: the folder it was opened in; for the program, links are followed."""
        return posixpath.dirname(self.real_path if self.is_program else self.path)


@dataclass(frozen=True, slots=True)
class _SearchList:
    """Folders (or, for the cache, files) to try under one rule, in order."""

    rule: Rule
    source: str
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class LinkedProcess:
    """The libraries of one process, in the order in which the dynamic linker maps them.

    `missing` holds the requests that failed. The real linker would stop at the first of them; going on shows all.
    """

    def __init__(self, system: LinkerSystem) -> None:
        self.system = system
        self.objects: list[LoadedObject] = []
        self.missing: list[Resolution] = []
        self._abi: tuple[str, int] | None = None
        self._library_path: tuple[str, ...] | None = None

    @property
    def foreign(self) -> str | None:
        """Why this model does not hold for the program: its dynamic linker is another one (musl, Nix, Guix, Homebrew),
        with a search of its own. None where it is glibc's at its usual place."""
        path = self.program.elf.interpreter if self.program else None
        if path is None or (posixpath.basename(path).startswith("ld-linux") and path.startswith(("/lib", "/usr/lib"))):
            return None
        return f"the interpreter's dynamic linker is {path}"

    @property
    def program(self) -> LoadedObject | None:
        """The executable, once it is started."""
        return self.objects[0] if self.objects and self.objects[0].is_program else None

    def start(self, executable: str) -> bool:
        """Maps a program, LD_PRELOAD and all that they need; False if its file cannot be read as ELF."""
        real = self.system.host.real_path(executable) or executable
        elf = self.system.elf(real)
        if isinstance(elf, Problem):
            return False
        resolution = Resolution(executable, None, executable, Rule.PATH)
        program = LoadedObject(executable, real, elf, None, resolution, {executable}, is_program=True)
        self._abi = (elf.machine, elf.bits)
        self.objects.append(program)
        self._map_interpreter(program)
        roots = [program]
        for name in self.system.preload:
            found = self._map(name, program)
            if found is not None and found not in roots:
                roots.append(found)
        self._map_needed(roots)
        return True

    def _map_interpreter(self, program: LoadedObject) -> None:
        """The dynamic linker itself is there before all libraries, and answers to its soname."""
        path = program.elf.interpreter
        elf = self.system.elf(path) if path else Problem.ABSENT
        if path is not None and not isinstance(elf, Problem):
            real = self.system.host.real_path(path) or path
            resolution = Resolution(path, program.path, path, Rule.PATH)
            self.objects.append(LoadedObject(path, real, elf, program, resolution, {path}))

    def dlopen(self, name: str, caller: LoadedObject | None = None) -> LoadedObject | None:
        """Maps what dlopen(name), called from code of `caller`, would map; None if it is not found.

        Whatever of its needs is not found is in `missing` afterwards; the real call would then fail as a whole.
        """
        found = self._map(name, caller or self.program)
        if found is not None:
            self._map_needed([found])
        return found

    def loaded(self, name: str) -> LoadedObject | None:
        """The loaded object that a request for `name` is answered with, whatever asks."""
        return next((known for known in self.objects if name in known.names or known.elf.soname == name), None)

    def resolve(self, name: str, requester: LoadedObject | None = None) -> Resolution:
        """Where a request for `name` by `requester` leads now; maps nothing."""
        asker = requester.path if requester else None
        known = self.loaded(name)
        if known is not None:
            return Resolution(name, asker, known.path, Rule.LOADED, known.resolution.source)
        return self._search(name, requester, asker)

    def shadowed(self, resolution: Resolution, requester: LoadedObject | None) -> tuple[Rejected, ...]:
        """The files that later rules would have found, had the winner not been there."""
        losers: list[Rejected] = []
        seen = {resolution.path, *(rejected.path for rejected in resolution.rejected)}
        for search in self._lists(resolution.name, requester):
            for path in self._files(search, resolution.name):
                if path not in seen and not isinstance(self.system.elf(path), Problem):
                    seen.add(path)
                    losers.append(Rejected(path, search.rule, self._abi_trouble(path) or "found later"))
        return tuple(losers)

    def _map_needed(self, roots: Iterable[LoadedObject]) -> None:
        """Breadth first, as _dl_map_object_deps: all that the roots need before what those need."""
        queue = list(roots)
        seen = set(map(id, queue))
        for current in queue:  # grows while it is walked
            for name in current.elf.needed:
                found = self._map(expand_tokens(name, current.origin, self.system), current)
                if found is not None and id(found) not in seen:
                    seen.add(id(found))
                    queue.append(found)

    def _map(self, name: str, requester: LoadedObject | None) -> LoadedObject | None:
        known = self.loaded(name)
        if known is not None:
            known.names.add(name)
            return known
        resolution = self._search(name, requester, requester.path if requester else None)
        elf = self.system.elf(resolution.path) if resolution.path else Problem.ABSENT
        if resolution.path is None or isinstance(elf, Problem):
            if all((missed.name, missed.error) != (name, resolution.error) for missed in self.missing):
                self.missing.append(resolution)
            return None
        real = self.system.host.real_path(resolution.path) or resolution.path
        for other in self.objects:
            if other.real_path == real:  # the same file by another name is not mapped twice
                other.names.add(name)
                return other
        found = LoadedObject(resolution.path, real, elf, requester, resolution, {name, resolution.path})
        self._abi = self._abi or (elf.machine, elf.bits)
        self.objects.append(found)
        return found

    def _search(self, name: str, requester: LoadedObject | None, asker: str | None) -> Resolution:
        rejected: list[Rejected] = []
        unknown = False
        for search in self._lists(name, requester):
            for path in self._files(search, name):
                elf = self.system.elf(path)
                if isinstance(elf, Problem):
                    unknown = unknown or elf is Problem.UNRECORDED
                    if elf is Problem.DENIED:
                        rejected.append(Rejected(path, search.rule, "it may not be read"))
                    if elf is not Problem.FAILED:
                        continue
                    if self.system.leads_nowhere(path):
                        rejected.append(Rejected(path, search.rule, "its links lead in a circle"))
                        break  # the linker gives up the rest of this list, and goes on with the next rule
                    error = f"{path} is not a shared library: the file is no ELF file, or is cut"
                    return Resolution(name, asker, None, search.rule, search.source, tuple(rejected), error)
                trouble = self._abi_trouble(path)
                if trouble:
                    rejected.append(Rejected(path, search.rule, trouble))
                    continue
                return Resolution(name, asker, path, search.rule, search.source, tuple(rejected), unknown=unknown)
        return Resolution(name, asker, None, None, "", tuple(rejected), unknown=unknown)

    def _files(self, search: _SearchList, name: str) -> Iterator[str]:
        yield from search.files
        for folder in search.folders:
            for subfolder in self.system.subfolders_of(folder):
                yield posixpath.join(subfolder, name)

    def _lists(self, name: str, requester: LoadedObject | None) -> Iterator[_SearchList]:
        system = self.system
        if "/" in name:
            path = expand_tokens(name, requester.origin, system) if requester else name
            yield _SearchList(Rule.PATH, "", files=tuple(system.absolute([path])))
            return
        if requester is None or requester.elf.runpath is None:
            yield from self._rpaths(requester)
        if self._library_path is None:
            origin = self.program.origin if self.program else None
            self._library_path = system.library_path(origin)
        if self._library_path:
            yield _SearchList(Rule.LD_LIBRARY_PATH, system.environ.get("LD_LIBRARY_PATH", ""), self._library_path)
        if requester is not None and requester.elf.runpath is not None:
            folders = system.split_path(requester.elf.runpath, ":", requester.origin)
            yield _SearchList(Rule.RUNPATH, f"RUNPATH {requester.elf.runpath} of {requester.path}", folders)
        defaults_too = requester is None or not requester.elf.no_default_folders
        cached = system.cached(name, self._abi)
        if cached and (defaults_too or posixpath.dirname(cached) not in system.default_folders):
            yield _SearchList(Rule.CACHE, system.cache_source, files=(cached,))
        if defaults_too:
            yield _SearchList(Rule.DEFAULT, "", system.default_folders)

    def _rpaths(self, requester: LoadedObject | None) -> Iterator[_SearchList]:
        """DT_RPATH of the requester and of those that loaded it; an object with a RUNPATH has no say here."""
        chain: list[LoadedObject] = []
        current = requester
        while current is not None:
            chain.append(current)
            current = current.loader
        if self.program is not None and self.program not in chain:
            chain.append(self.program)
        for link in chain:
            if link.elf.rpath and link.elf.runpath is None:
                folders = self.system.split_path(link.elf.rpath, ":", link.origin)
                yield _SearchList(Rule.RPATH, f"RPATH {link.elf.rpath} of {link.path}", folders)

    def _abi_trouble(self, path: str) -> str | None:
        elf = self.system.elf(path)
        if self._abi is None or isinstance(elf, Problem) or (elf.machine, elf.bits) == self._abi:
            return None
        return f"it is for {elf.machine} with {elf.bits} bits, the process is {self._abi[0]} with {self._abi[1]}"
