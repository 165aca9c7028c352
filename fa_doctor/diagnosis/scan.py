"""Finds the lines of a log that hold one of many known phrases, at the speed of bytes operations.

Patterns cannot be run over each line of a large log: hundreds of regular expressions on two million lines take minutes.
So each pattern names phrases (`has`) without which it cannot match. A block of the log is turned into the set of its
words; a phrase can stand in the block only if all its words are in the set, and only then it is looked for. A build log
of 200 MB costs the splitting into words and little else, whatever the number of patterns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fa_doctor.diagnosis.logtext import Block

__all__ = ["Line", "PhraseIndex"]

WORDS = bytes.maketrans(
    bytes(range(256)),
    bytes(c if 48 <= c <= 57 or 97 <= c <= 122 or c >= 128 else c + 32 if 65 <= c <= 90 else 32 for c in range(256)),
)
# A phrase that stands on thousands of lines proves no more than one that stands on twenty.
HITS_PER_PHRASE = 24
LONGEST_UNIT = 2400


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log (`number` from 1; 0 for a fact that was given beside the log) and its text."""

    number: int
    text: str


class PhraseIndex:
    """Looks for phrases (lower case, beginning and ending with a whole word) in the blocks of a log."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self.by_word: dict[bytes, list[tuple[bytes, frozenset[bytes]]]] = {}
        for phrase in set(phrases):
            raw = phrase.lower().encode()
            words = raw.translate(WORDS).split()
            if not words:
                raise ValueError(f"the phrase {phrase!r} has no word to look for")
            # The longest word is the rarest, mostly; the rest is asked only when it is there.
            key = max(words, key=len)
            self.by_word.setdefault(key, []).append((raw, frozenset(words)))
        self.keys = frozenset(self.by_word)
        self.left: dict[bytes, int] = {}

    def hits(self, block: Block) -> Iterator[tuple[str, Line]]:
        """Yields (phrase, line) for each phrase that stands in the block; at most HITS_PER_PHRASE lines a phrase."""
        present = set(block.data.translate(WORDS).split())
        wanted = self.keys & present
        if not wanted:
            return
        lower = block.data.lower()
        flat: _Flat | None = None
        for word in wanted:
            for phrase, words in self.by_word[word]:
                if not words <= present or self.left.get(phrase, HITS_PER_PHRASE) <= 0:
                    continue
                found = False
                for line in lines_with(block, lower, phrase):
                    found = True
                    left = self.left.get(phrase, HITS_PER_PHRASE)
                    if left <= 0:
                        break
                    self.left[phrase] = left - 1
                    yield phrase.decode(), line
                if not found and b" " in phrase and len(lower) <= 1 << 21:
                    # A logger may have wrapped the message: the phrase then runs over the end of a line.
                    flat = flat or _Flat(block, lower)
                    wrapped = flat.line_with(phrase)
                    if wrapped:
                        self.left[phrase] = self.left.get(phrase, HITS_PER_PHRASE) - 1
                        yield phrase.decode(), wrapped


def lines_with(block: Block, lower: bytes, phrase: bytes) -> Iterator[Line]:
    """Each line of the block that holds the phrase, once."""
    at = lower.find(phrase)
    counted, number = 0, block.first_line
    while at >= 0:
        number += block.data.count(b"\n", counted, at)
        counted = at
        begin = max(lower.rfind(b"\n", 0, at), lower.rfind(b"\x0c", 0, at)) + 1
        ends = [end for end in (lower.find(b"\n", at), lower.find(b"\x0c", at)) if end >= 0]
        end = min(ends, default=len(lower))
        begin, end_cut = max(begin, at - LONGEST_UNIT // 2), min(end, at + LONGEST_UNIT)
        yield Line(number, block.data[begin:end_cut].decode("utf-8", "replace"))
        at = lower.find(phrase, end)


class _Flat:
    """A block with every run of white space made one blank, to find phrases that a logger has wrapped."""

    def __init__(self, block: Block, lower: bytes) -> None:
        self.block = block
        self.text = b" ".join(lower.split())
        self.original = b" ".join(block.data.split())

    def line_with(self, phrase: bytes) -> Line | None:
        at = self.text.find(phrase)
        if at < 0:
            return None
        # Which line it was: the words before it are as many as before the line in the block.
        words_before = self.text.count(b" ", 0, at)
        number, seen = self.block.first_line, 0
        for line in self.block.data.split(b"\n"):
            seen += len(line.split())
            if seen > words_before:
                break
            number += 1
        begin = max(0, at - 200)
        return Line(number, self.original[begin : at + len(phrase) + 200].decode("utf-8", "replace"))
