"""Reads a log as it comes: any encoding, any size, coloured, with progress bars, from a file, a pipe or a string.

The text is handed out in blocks of whole lines, so that memory stays bounded whatever the size of the log. A block is
cleaned (ANSI escapes, carriage returns, typographic quotes) in such a way that its line numbers stay those of the file.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["BLOCK_BYTES", "Block", "blocks_of", "blocks_of_text"]

BLOCK_BYTES = 1 << 20
# A line longer than this is cut: some tools print megabytes without a newline, and no message we know is as long.
LONGEST_LINE = 4 * BLOCK_BYTES

TYPICAL_LINE = 200
LONG_COMMAND = 600
COMMAND_BEGIN, COMMAND_END = 160, 240

# CSI, OSC (window titles, hyperlinks) and two-byte escapes.
ANSI = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# gcc, ld and Python quote typographically in a UTF-8 locale; our patterns are written with ASCII quotes.
TYPOGRAPHIC = (
    (b"\xe2\x80\x98", b"'"),
    (b"\xe2\x80\x99", b"'"),
    (b"\xe2\x80\x9c", b'"'),
    (b"\xe2\x80\x9d", b'"'),
    (b"\xc2\xa0", b" "),
)


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a log: `data` is cleaned, `first_line` the number (from 1) of its first line in the file."""

    data: bytes
    first_line: int


def clean(data: bytes) -> bytes:
    """Takes out what hides a message: escapes, the carriage returns of progress bars, typographic quotes."""
    if b"\x1b" in data:
        data = ANSI.sub(b"", data)
    if b"\r" in data:
        # What a progress bar overwrote is a fragment of its own. A form feed parts it and does not count as a line.
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\x0c")
    if not data.isascii():
        for fancy, plain in TYPOGRAPHIC:
            data = data.replace(fancy, plain)
    if b"\x00" in data:
        data = data.replace(b"\x00", b"")
    return without_long_commands(data) if len(data) > LONG_COMMAND and b" -I" in data else data


def without_long_commands(data: bytes) -> bytes:
    """Cuts the middle out of compiler commands of many hundred bytes: the bulk of a build log, and it says nothing."""
    if len(data) < TYPICAL_LINE * data.count(b"\n"):
        return data
    return b"\n".join(
        line[:COMMAND_BEGIN] + b" ... " + line[-COMMAND_END:] if len(line) > LONG_COMMAND and b" -I" in line else line
        for line in data.split(b"\n")
    )


def blocks_of_text(text: str) -> Iterator[Block]:
    """The blocks of a text that is already in memory."""
    return blocks_of(io.BytesIO(text.encode("utf-8", "surrogatepass")))


def blocks_of(stream: BinaryIO) -> Iterator[Block]:
    """Yields the cleaned blocks of a binary stream.

    UTF-16 (what PowerShell writes with `>`) is recognised by its byte order mark or its zero bytes; gzip by its magic.
    Everything else is taken for UTF-8 or a superset of ASCII. Raises OSError where reading fails.
    """
    head = stream.read(BLOCK_BYTES)
    chunks = chunks_from(head, stream)
    if head[:2] == b"\x1f\x8b":
        chunks = gunzip(chunks)
        head = next(chunks, b"")
        chunks = prepend(head, chunks)
    encoding = utf16_of(head)
    if encoding:
        chunks = recode(chunks, encoding)
    yield from whole_lines(chunks)


def prepend(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


def chunks_from(head: bytes, stream: BinaryIO) -> Iterator[bytes]:
    while head:
        yield head
        head = stream.read(BLOCK_BYTES)


def gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Unpacks gzip piece by piece; a damaged or cut archive gives what could be read."""
    import zlib

    unpacker = zlib.decompressobj(wbits=31)
    for chunk in chunks:
        pending = chunk
        while pending:
            try:
                piece = unpacker.decompress(pending, BLOCK_BYTES)
            except zlib.error:
                return
            if piece:
                yield piece
            pending = unpacker.unconsumed_tail
            if unpacker.eof:
                pending = unpacker.unused_data
                if not pending:
                    break
                unpacker = zlib.decompressobj(wbits=31)


def utf16_of(head: bytes) -> str | None:
    """The UTF-16 flavour of a text, or None: by its mark, else by zero bytes in every second place."""
    if head[:2] == codecs.BOM_UTF16_LE:
        return "utf-16-le"
    if head[:2] == codecs.BOM_UTF16_BE:
        return "utf-16-be"
    sample = head[:512]
    if len(sample) >= 8:
        if sample[1::2].count(0) > 0.4 * len(sample[1::2]) and sample[::2].count(0) == 0:
            return "utf-16-le"
        if sample[::2].count(0) > 0.4 * len(sample[::2]) and sample[1::2].count(0) == 0:
            return "utf-16-be"
    return None


def recode(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for chunk in chunks:
        yield decoder.decode(chunk).encode("utf-8", "replace")


def whole_lines(chunks: Iterator[bytes]) -> Iterator[Block]:
    """Cuts at the last newline of each chunk; what follows it belongs to the next block, or to this one at the end."""
    line = 1
    ready = rest = b""
    for chunk in chunks:
        data = rest + chunk
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            if len(data) < LONGEST_LINE:
                rest = data
                continue
            cut = len(data)
        if ready:
            yield Block(clean(ready), line)
            line += ready.count(b"\n")
        ready, rest = data[:cut], data[cut:]
    if ready or rest:
        yield Block(clean(ready + rest), line)
