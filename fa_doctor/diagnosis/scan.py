"""Finds the lines of a log that hold one of many known phrases, at the speed of bytes operations.

Patterns cannot be run over each line of a large log: hundreds of regular expressions on two million lines take minutes.
So each pattern names phrases (`has`) without which it cannot match. A block of the log is turned into the set of its
words; a phrase can stand in the block only if all its words are in the set, and only then it is looked for. A build log
of 200 MB costs the splitting into words and little else, whatever the number of patterns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from fa_doctor.diagnosis.logtext import BLOCK_BYTES, Block

__all__ = ["Line", "PhraseIndex"]

WORDS = bytes.maketrans(
    bytes(range(256)),
    bytes(c if 48 <= c <= 57 or 97 <= c <= 122 or c >= 128 else c + 32 if 65 <= c <= 90 else 32 for c in range(256)),
)
# A phrase that stands on thousands of lines proves no more than one that stands on twenty.
HITS_PER_PHRASE = 24
# After that the last line of each block is kept: what ends a log is often what broke.
LAST_HITS = 8
LONGEST_UNIT = 2400


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log (`number` from 1; 0 for a fact that was given beside the log) and its text."""

    number: int
    text: str


class PhraseIndex:
    """Looks for phrases (lower case, of whole words) in the blocks of a log and keeps the lines that hold them."""

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
        self.first: dict[str, list[Line]] = {}
        self.last: dict[str, deque[Line]] = {}

    def hits(self) -> dict[str, list[Line]]:
        """The lines found so far, by phrase, in the order of the log."""
        return {phrase: [*lines, *self.last.get(phrase, ())] for phrase, lines in self.first.items() if lines}

    def scan(self, block: Block) -> None:
        """Looks for all phrases in one more block."""
        present = set(block.data.translate(WORDS).split())
        wanted = self.keys & present
        if not wanted:
            return
        lower = block.data.lower()
        flat: _Flat | None = None
        for word in wanted:
            for phrase, words in self.by_word[word]:
                if not words <= present:
                    continue
                name = phrase.decode()
                known = self.first.setdefault(name, [])
                if len(known) >= HITS_PER_PHRASE:
                    last = last_line_with(block, lower, phrase)
                    if last:
                        self.last.setdefault(name, deque(maxlen=LAST_HITS)).append(last)
                    continue
                before = len(known)
                known += islice(lines_with(block, lower, phrase), HITS_PER_PHRASE - before)
                if len(known) == before and b" " in phrase and len(lower) <= 2 * BLOCK_BYTES:
                    # A logger may have wrapped the message: the phrase then runs over the end of a line.
                    flat = flat or _Flat(block, lower)
                    wrapped = flat.line_with(phrase)
                    if wrapped:
                        known.append(wrapped)


def whole_words(lower: bytes, at: int, phrase: bytes) -> bool:
    """Whether the phrase at this place does not begin or end inside a word."""
    end = at + len(phrase)
    begins = at == 0 or not (phrase[:1].isalnum() and lower[at - 1 : at].isalnum())
    return begins and (end >= len(lower) or not (phrase[-1:].isalnum() and lower[end : end + 1].isalnum()))


def lines_with(block: Block, lower: bytes, phrase: bytes) -> Iterator[Line]:
    """Each line of the block that holds the phrase, once."""
    at = lower.find(phrase)
    counted, number = 0, block.first_line
    while at >= 0:
        if not whole_words(lower, at, phrase):
            at = lower.find(phrase, at + 1)
            continue
        number += block.data.count(b"\n", counted, at)
        counted = at
        begin, end = bounds(lower, at)
        yield line_of(block, number, begin, end, at)
        at = lower.find(phrase, end)


def last_line_with(block: Block, lower: bytes, phrase: bytes) -> Line | None:
    """The last line of the block that holds the phrase."""
    at = lower.rfind(phrase)
    if at < 0 or not whole_words(lower, at, phrase):
        return None
    begin, end = bounds(lower, at)
    return line_of(block, block.first_line + block.data.count(b"\n", 0, at), begin, end, at)


def bounds(lower: bytes, at: int) -> tuple[int, int]:
    """Where the line around `at` begins and ends; a form feed stands for a carriage return and ends one too."""
    begin = max(lower.rfind(b"\n", 0, at), lower.rfind(b"\x0c", 0, at)) + 1
    newline = lower.find(b"\n", at)
    end = newline if newline >= 0 else len(lower)
    feed = lower.find(b"\x0c", at, end)
    return begin, feed if feed >= 0 else end


def line_of(block: Block, number: int, begin: int, end: int, at: int) -> Line:
    begin, end = max(begin, at - LONGEST_UNIT // 2), min(end, at + LONGEST_UNIT)
    return Line(number, block.data[begin:end].decode("utf-8", "replace"))


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
