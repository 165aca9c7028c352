"""The smallest ELF libraries that a reader of dynamic sections accepts: no code, only names.

For staged machines, which need many libraries with chosen dependencies and nothing that runs. Tests of the linker
model against glibc compile real libraries instead.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 14, 15, 29
_DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF
_PT_LOAD, _PT_DYNAMIC = 1, 2
_SHT_STRTAB, _SHT_DYNAMIC, _SHT_VERNEED = 3, 6, 0x6FFFFFFE


def tiny_elf(
    soname: str | None = None,
    needed: tuple[str, ...] = (),
    *,
    rpath: str | None = None,
    runpath: str | None = None,
    versions: Mapping[str, tuple[str, ...]] | None = None,
    machine: int = 62,  # EM_X86_64; 183 is AArch64
) -> bytes:
    """A 64-bit little-endian shared object. `versions`: {"libstdc++.so.6": ("GLIBCXX_3.4.32",)} in .gnu.version_r."""
    strings = bytearray(b"\0")

    def string(text: str) -> int:
        offset = len(strings)
        strings.extend(text.encode() + b"\0")
        return offset

    entries = [(_DT_NEEDED, string(name)) for name in needed]
    for tag, text in ((_DT_SONAME, soname), (_DT_RPATH, rpath), (_DT_RUNPATH, runpath)):
        if text is not None:
            entries.append((tag, string(text)))
    verneed = bytearray()
    libraries = list((versions or {}).items())
    for place, (library, wanted) in enumerate(libraries):
        size = 16 + 16 * len(wanted)
        last = place == len(libraries) - 1
        verneed += struct.pack("<HHIII", 1, len(wanted), string(library), 16, 0 if last else size)
        for number, version in enumerate(wanted):
            following = 0 if number == len(wanted) - 1 else 16
            verneed += struct.pack("<IHHII", 0, 0, 2 + number, string(version), following)

    names = b"\0.dynstr\0.dynamic\0.gnu.version_r\0.shstrtab\0"
    header, programs = 64, 2 * 56
    strings_at = header + programs
    dynamic_at = strings_at + len(strings) + (-len(strings)) % 8
    dynamic_size = 16 * (len(entries) + 3 + 2 * bool(verneed))
    verneed_at = dynamic_at + dynamic_size
    if verneed:
        entries += [(_DT_VERNEED, verneed_at), (_DT_VERNEEDNUM, len(libraries))]
    entries += [(_DT_STRTAB, strings_at), (_DT_STRSZ, len(strings)), (_DT_NULL, 0)]
    names_at = verneed_at + len(verneed)
    sections_at = names_at + len(names) + (-(names_at + len(names))) % 8

    def section(name: bytes, kind: int, offset: int, size: int, link: int, info: int, entry: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", names.index(name), kind, 2, offset, offset, size, link, info, 8, entry)

    sections = [bytes(64), section(b".dynstr\0", _SHT_STRTAB, strings_at, len(strings), 0, 0, 0)]
    sections.append(section(b".dynamic\0", _SHT_DYNAMIC, dynamic_at, dynamic_size, 1, 0, 16))
    if verneed:
        sections.append(section(b".gnu.version_r\0", _SHT_VERNEED, verneed_at, len(verneed), 1, len(libraries), 0))
    sections.append(section(b".shstrtab\0", _SHT_STRTAB, names_at, len(names), 0, 0, 0))
    image = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01" + bytes(9),
        3,  # ET_DYN
        machine,
        1,
        0,
        header,
        sections_at,
        0,
        64,
        56,
        2,
        64,
        len(sections),
        len(sections) - 1,
    )
    whole = sections_at + 64 * len(sections)
    image += struct.pack("<IIQQQQQQ", _PT_LOAD, 5, 0, 0, 0, whole, whole, 4096)
    image += struct.pack("<IIQQQQQQ", _PT_DYNAMIC, 4, dynamic_at, dynamic_at, dynamic_at, dynamic_size, dynamic_size, 8)
    image += bytes(strings).ljust(dynamic_at - strings_at, b"\0")
    image += b"".join(struct.pack("<qQ", tag, value) for tag, value in entries)
    image += bytes(verneed) + names
    return image.ljust(sections_at, b"\0") + b"".join(sections)
