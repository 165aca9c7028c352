"""Words of a log, and the messages of the system's own programs, which come in the language of the user.

Python, torch and ROCm print English everywhere; the C library, the loader and the shell do not ("Datei oder Verzeichnis
nicht gefunden"). Such a message gets its English text before it, so that every pattern may be written in English and the
line still shows what stood there. The messages are data: knowledge/system_messages.toml.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from fa_doctor.knowledge.tables import load

__all__ = ["Translations", "system_messages", "words_of"]

LOWER = bytes.maketrans(
    bytes(range(256)),
    bytes(c if 97 <= c <= 122 or c >= 128 or c == 10 else c + 32 if 65 <= c <= 90 else 32 for c in range(256)),
)
DIGITS = b"0123456789"


def words_of(data: bytes) -> frozenset[bytes]:
    """The words of a text in lower case (ASCII), without digits; what is not ASCII counts as letters.

    Without their digits most lines of a long log are alike, so each is taken apart once only.
    """
    return frozenset(b" ".join(frozenset(data.translate(LOWER, DIGITS).split(b"\n"))).split())


class Translations:
    """Messages by the rarest word of each, so that a text without any of them costs one comparison of sets."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.by_word: dict[bytes, list[tuple[bytes, bytes]]] = {}
        for row in rows:
            for other in row["others"]:
                foreign = other.encode()
                both = f"{row['english']} [{other}]".encode()
                self.by_word.setdefault(max(words_of(foreign), key=len), []).append((foreign, both))
        self.words = frozenset(self.by_word)

    def in_english(self, data: bytes) -> bytes:
        """The text with the English message before each foreign one; the number of lines stays the same."""
        for word in self.words & words_of(data):
            for foreign, both in self.by_word[word]:
                data = data.replace(foreign, both)
        return data


@cache
def system_messages() -> Translations:
    """The messages that come with fa-doctor."""
    return Translations(load("system_messages")["message"])
