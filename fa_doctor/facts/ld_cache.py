"""/etc/ld.so.cache, the table from library names to files that ldconfig writes and the dynamic linker looks into.

Both formats of glibc (elf/dl-cache.h): the old one ("ld.so-1.7.0"), alone or with a new one behind it, and the new one
("glibc-ld.so.cache1.1") that is written today, with the extension that names the glibc-hwcaps subfolders.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["CacheEntry", "folders_of_ld_so_conf", "parse_ld_cache"]

_OLD_MAGIC = b"ld.so-1.7.0"
_NEW_MAGIC = b"glibc-ld.so.cache1.1"
_OLD_HEADER, _OLD_ENTRY = 16, 12
_NEW_HEADER, _NEW_ENTRY = 48, 24
_EXTENSION_MAGIC = 0xEAA42174
_EXTENSION_HWCAPS = 1  # the tag of the section with the names of hwcaps subfolders
_ENTRY_HAS_HWCAPS_NAME = 1 << 30  # in the upper word of an entry's hwcap field
_MOST_ENTRIES = 1 << 17


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A line of `ldconfig -p`. `flags` tell the ABI (0x0303 is x86-64); `hwcaps` names a glibc-hwcaps subfolder."""

    name: str
    path: str
    flags: int
    hwcaps: str | None = None
    legacy_hwcap: int = 0  # a bit mask of before glibc 2.37; such entries are in subfolders of old


def parse_ld_cache(data: bytes) -> tuple[CacheEntry, ...] | None:
    """The entries in the order of the file, which is the order in which equal names win; None if it is not a cache.

    Entries that point outside of the file are left out, as the dynamic linker skips them.
    """
    try:
        if data.startswith(_NEW_MAGIC):
            return _new_entries(data, data)
        if data.startswith(_OLD_MAGIC):
            count = min(struct.unpack_from("=I", data, 12)[0], _MOST_ENTRIES)
            end = _OLD_HEADER + count * _OLD_ENTRY
            behind = data[(end + 7) // 8 * 8 :]
            return _new_entries(behind, data) if behind.startswith(_NEW_MAGIC) else _old_entries(data, count, end)
    except struct.error:
        return None
    return None


def _new_entries(data: bytes, file: bytes) -> tuple[CacheEntry, ...]:
    """Offsets count from the start of the new format, except that of the extension: from the start of the file."""
    count, _, _, extension = struct.unpack_from("=IIB3xI", data, len(_NEW_MAGIC))
    names = _hwcaps_names(data, file, extension)
    entries: list[CacheEntry] = []
    for place in range(min(count, _MOST_ENTRIES)):
        offset = _NEW_HEADER + place * _NEW_ENTRY
        if offset + _NEW_ENTRY > len(data):
            break
        flags, key, value, _, hwcap = struct.unpack_from("=iIIIQ", data, offset)
        name, path = _string(data, key), _string(data, value)
        if name is None or path is None:
            continue
        subfolder = None
        if hwcap >> 32 == _ENTRY_HAS_HWCAPS_NAME:
            number = hwcap & 0xFFFFFFFF
            if number >= len(names):
                continue
            subfolder, hwcap = names[number], 0
        entries.append(CacheEntry(name, path, flags, subfolder, hwcap))
    return tuple(entries)


def _old_entries(data: bytes, count: int, strings: int) -> tuple[CacheEntry, ...]:
    entries: list[CacheEntry] = []
    for place in range(count):
        offset = _OLD_HEADER + place * _OLD_ENTRY
        if offset + _OLD_ENTRY > len(data):
            break
        flags, key, value = struct.unpack_from("=iII", data, offset)
        name, path = _string(data, strings + key), _string(data, strings + value)
        if name is not None and path is not None:
            entries.append(CacheEntry(name, path, flags))
    return tuple(entries)


def _hwcaps_names(data: bytes, file: bytes, offset: int) -> tuple[str, ...]:
    if not offset or offset % 4 or offset + 8 > len(file):
        return ()
    magic, sections = struct.unpack_from("=II", file, offset)
    if magic != _EXTENSION_MAGIC:
        return ()
    for place in range(min(sections, 64)):
        tag, _, start, size = struct.unpack_from("=IIII", file, offset + 8 + place * 16)
        if tag == _EXTENSION_HWCAPS and start + size <= len(file):
            strings = struct.unpack_from(f"={size // 4}I", file, start)
            return tuple(_string(data, string) or "" for string in strings[:1024])
    return ()


def _string(data: bytes, offset: int) -> str | None:
    end = data.find(b"\0", offset, offset + 4096) if 0 <= offset < len(data) else -1
    return data[offset:end].decode("utf-8", "surrogateescape") if end >= 0 else None


def folders_of_ld_so_conf(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The folders and the include patterns of an ld.so.conf (ldconfig(8)), each in the order of the file."""
    folders: list[str] = []
    includes: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].strip()
        first, _, rest = words.partition(" ")
        if first == "include" or words.startswith("include\t"):
            includes += (rest if first == "include" else words[len("include") :]).split()
        elif first and first != "hwcap":
            # Folders may stand on one line, with blanks, commas or colons between; "=libc5" marks an ABI of old.
            for piece in words.replace(",", " ").replace(":", " ").split():
                folder = piece.split("=", 1)[0].rstrip("/") or "/"
                if folder.startswith("/"):
                    folders.append(folder)
    return tuple(folders), tuple(includes)
