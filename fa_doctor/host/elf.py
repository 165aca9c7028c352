"""The dynamic section of an ELF file: all that the dynamic linker's search rules need to know of it.

Read here with `struct` and not with pyelftools (which the tests compare it with): a process of torch maps some forty
libraries, at 6 to 11 ms each plus 60 ms for the import with pyelftools, 0.1 ms each here, and a quick check has 350 ms.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["ElfDynamic", "NotElf", "read_dynamic"]

# e_machine (System V ABI and its supplements), as pyelftools names them without "EM_".
_MACHINES = {3: "386", 8: "MIPS", 20: "PPC", 21: "PPC64", 22: "S390", 40: "ARM", 62: "X86_64", 183: "AARCH64"}
_MACHINES |= {224: "AMDGPU", 243: "RISCV", 258: "LOONGARCH"}

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 14, 15, 29
_DT_FLAGS_1, _DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFB, 0x6FFFFFFE, 0x6FFFFFFF
_DF_1_NODEFLIB = 0x800

# No real file comes near these; they bound what a broken one can make us read.
_MOST_SEGMENTS = 4096
_MOST_TAGS = 65536
_MOST_VERSIONS = 4096
_LONGEST_STRING = 65536


class NotElf(ValueError):
    """The file is not an ELF file, or is cut or broken."""


@dataclass(frozen=True, slots=True)
class ElfDynamic:
    """`rpath` and `runpath` are as they stand in the file ($ORIGIN not expanded); None where the tag is missing.

    `machine` is the name of e_machine without the prefix ("X86_64"), `bits` 32 or 64. `versions_needed` maps a
    library's name to the symbol versions asked of it ({"libc.so.6": ("GLIBC_2.38",)}). `no_default_folders` is the
    flag DF_1_NODEFLIB: neither the default folders nor the cache's entries in them are looked at for what it needs.
    """

    soname: str | None
    needed: tuple[str, ...]
    rpath: str | None
    runpath: str | None
    machine: str
    bits: int
    interpreter: str | None = None
    versions_needed: dict[str, tuple[str, ...]] | None = None
    no_default_folders: bool = False


def read_dynamic(stream: BinaryIO) -> ElfDynamic:
    """Reads the dynamic section of an ELF file; raises NotElf for anything that is not a readable one."""
    try:
        return _Reader(stream).read()
    except (struct.error, OverflowError, ValueError) as error:
        raise NotElf(str(error) or type(error).__name__) from error


class _Reader:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._end = stream.seek(0, os.SEEK_END)
        identity = self._at(0, 16)
        if identity[:4] != b"\x7fELF" or identity[4] not in (1, 2) or identity[5] not in (1, 2):
            raise NotElf("no ELF header")
        self._bits = 32 * identity[4]
        self._order = "<" if identity[5] == 1 else ">"
        self._loads: list[tuple[int, int, int]] = []  # address, size in the file, offset

    def read(self) -> ElfDynamic:
        wide = self._bits == 64
        header = self._unpack(16, "HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH")
        machine, table, entry_size, count = header[1], header[4], header[8], header[9]
        if count > _MOST_SEGMENTS:
            raise NotElf("too many program headers")
        interpreter: str | None = None
        dynamic: tuple[int, int] | None = None
        for place in range(count):
            fields = self._unpack(table + place * entry_size, "IIQQQQ" if wide else "IIIIII")
            kind = fields[0]
            offset, address, size = (fields[2], fields[3], fields[5]) if wide else (fields[1], fields[2], fields[4])
            if kind == _PT_LOAD:
                self._loads.append((address, size, offset))
            elif kind == _PT_DYNAMIC:
                dynamic = (offset, size)
            elif kind == _PT_INTERP:
                interpreter = self._text(offset)
        tags = list(self._tags(*dynamic)) if dynamic else []
        values = dict(tags)
        strings = self._offset_of(values[_DT_STRTAB]) if _DT_STRTAB in values else None

        def text(tag: int) -> str | None:
            return self._text(strings + values[tag]) if strings is not None and tag in values else None

        return ElfDynamic(
            soname=text(_DT_SONAME),
            needed=tuple(self._text(strings + value) for tag, value in tags if tag == _DT_NEEDED)
            if strings is not None
            else (),
            rpath=text(_DT_RPATH),
            runpath=text(_DT_RUNPATH),
            machine=_MACHINES.get(machine, str(machine)),
            bits=self._bits,
            interpreter=interpreter,
            versions_needed=self._versions(values, strings) if strings is not None else None,
            no_default_folders=bool(values.get(_DT_FLAGS_1, 0) & _DF_1_NODEFLIB),
        )

    def _tags(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        form = "qQ" if self._bits == 64 else "iI"
        width = struct.calcsize(self._order + form)
        data = self._at(offset, min(size, _MOST_TAGS * width) // width * width)
        for tag, value in struct.iter_unpack(self._order + form, data):
            if tag == 0:  # DT_NULL ends the list
                return
            yield tag, value

    def _versions(self, values: dict[int, int], strings: int) -> dict[str, tuple[str, ...]] | None:
        """The linked lists of Elf_Verneed and Elf_Vernaux; a library's name -> the versions asked of it."""
        if _DT_VERNEED not in values:
            return None
        versions: dict[str, tuple[str, ...]] = {}
        place = self._offset_of(values[_DT_VERNEED])
        for _ in range(min(values.get(_DT_VERNEEDNUM, 0), _MOST_VERSIONS)):
            _, count, name, first, following = self._unpack(place, "HHIII")
            asked: list[str] = []
            here = place + first
            for _ in range(min(count, _MOST_VERSIONS)):
                _, _, _, version, step = self._unpack(here, "IHHII")
                asked.append(self._text(strings + version))
                if not step:
                    break
                here += step
            versions[self._text(strings + name)] = tuple(asked)
            if not following:
                break
            place += following
        return versions or None

    def _offset_of(self, address: int) -> int:
        for start, size, offset in self._loads:
            if start <= address < start + size:
                return offset + address - start
        raise NotElf("an address outside of every segment")

    def _at(self, offset: int, size: int) -> bytes:
        if not 0 <= offset <= self._end:
            raise NotElf("an offset outside of the file")
        self._stream.seek(offset)
        data = self._stream.read(size)
        if len(data) < size:
            raise NotElf("the file is cut")
        return data

    def _unpack(self, offset: int, form: str) -> tuple[int, ...]:
        form = self._order + form
        return struct.unpack(form, self._at(offset, struct.calcsize(form)))

    def _text(self, offset: int) -> str:
        if not 0 <= offset < self._end:
            raise NotElf("a string outside of the file")
        data = b""
        self._stream.seek(offset)
        while b"\0" not in data:
            chunk = self._stream.read(256)
            data += chunk
            if not chunk or len(data) > _LONGEST_STRING:
                raise NotElf("a string without end")
        return data.split(b"\0", 1)[0].decode("utf-8", "replace")
