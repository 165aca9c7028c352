"""/etc/ld.so.cache for staged machines, in the format that glibc 2.32 and later write."""

from __future__ import annotations

import posixpath
import struct
from collections.abc import Iterable, Mapping

from fa_doctor.facts.ld_cache import folders_of_ld_so_conf

__all__ = ["ld_cache", "registered"]

X86_64 = 0x0303


def ld_cache(entries: Iterable[tuple[str, str]], flags: int = X86_64) -> bytes:
    """A cache with these (name, path) entries, in this order."""
    rows = list(entries)
    strings = bytearray()
    at = 48 + 24 * len(rows)
    table = b""
    for name, path in rows:
        key = at + len(strings)
        strings += name.encode() + b"\0"
        value = at + len(strings)
        strings += path.encode() + b"\0"
        table += struct.pack("<iIIIQ", flags, key, value, 0, 0)
    return struct.pack("<20sIIB3xI12x", b"glibc-ld.so.cache1.1", len(rows), len(strings), 2, 0) + table + bytes(strings)


def registered(files: Mapping[str, str | bytes], links: Mapping[str, str]) -> list[tuple[str, str]]:
    """What ldconfig enters for the ELF files among `files`, in the folders of ld.so.conf and the default ones."""
    text = "".join(str(content) for path, content in sorted(files.items()) if path.startswith("/etc/ld.so.conf.d/"))
    folders = (*folders_of_ld_so_conf(text)[0], "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu")
    rows = []
    for folder in dict.fromkeys(folders):
        real = folder
        for link, target in links.items():
            if real == link or real.startswith(link + "/"):
                real = target + real.removeprefix(link)
        linked = [path for path in links if files.get(f"{posixpath.dirname(path)}/{links[path]}")]
        for path in sorted((*files, *linked)):
            name = posixpath.basename(path)
            content = files.get(path, b"\x7fELF")
            is_library = isinstance(content, bytes) and content.startswith(b"\x7fELF") and name.startswith("lib")
            if posixpath.dirname(path) == real and is_library and ".so" in name:
                rows.append((name, f"{folder}/{name}"))
    return rows
