"""Finds the lines of a log that hold one of many known phrases, at the speed of bytes operations.

Patterns cannot be run over each line of a large log: hundreds of regular expressions on two million lines take minutes.
So each pattern names phrases (`has`) without which it cannot match. A block of the log is turned into the set of its
words; a phrase can stand in the block only if all its words are in the set, and only then it is looked for. A log of
200 MB costs the splitting into words and little else, whatever the number of patterns. Digits are left out of words:
times, addresses and counters would make nearly every word of a server's log a new one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from fa_doctor.diagnosis.logtext import Block
from fa_doctor.diagnosis.translated import system_messages, words_of

__all__ = ["Line", "PhraseIndex"]

# A phrase that stands on thousands of lines proves no more than one that stands on twenty.
HITS_PER_PHRASE = 24
# After that the last line of each block is kept: what ends a log is often what broke.
LAST_HITS = 8
LONGEST_UNIT = 2400
WRAPPED = " " * 8
WRAPPED_LINE = b"\n        "
SMALL_BLOCK = 1 << 18
LONGEST_ANSWER = 16  # bytes: "False", "0", "None"
ASCII_ONLY = bytes(byte if byte < 128 else 32 for byte in range(256))
FIRST_UNPARTED = "\u3040"  # kana; Han and Hangul follow


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log (`number` from 1; 0 for a fact that was given beside the log) and its text.

    `joined`, if not empty, is the line with its neighbours, where those belong to it: the line before, if this one is
    indented as far as loggers do that wrap their messages, and the line after, if that is as short as an answer.
    `at` is where in the text that stands for which the line is shown.
    """

    number: int
    text: str
    joined: str = ""
    at: int = field(default=0, compare=False)


class PhraseIndex:
    """Looks for phrases (lower case, of whole words) in the blocks of a log and keeps the lines that hold them."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self.by_word: dict[bytes, list[tuple[bytes, frozenset[bytes]]]] = {}
        # Phrases of digits alone ("404"): the words of a block say nothing of them.
        self.numbers: list[bytes] = []
        # Phrases of a script that does not part its words by blanks: looked for in such words of a block alone.
        self.unparted: list[bytes] = []
        for phrase in set(phrases):
            raw = phrase.lower().encode()
            words = words_of(raw)
            if is_unparted(phrase):
                self.unparted.append(raw)
            elif words:
                # The longest word is the rarest, mostly; the rest is asked only when it is there.
                self.by_word.setdefault(max(words, key=len), []).append((raw, words))
            elif any(48 <= byte <= 57 for byte in raw):
                self.numbers.append(raw)
            else:
                raise ValueError(f"the phrase {phrase!r} has no word to look for")
        self.keys = frozenset(self.by_word)
        self.first: dict[str, list[Line]] = {}
        self.last: dict[str, deque[Line]] = {}

    def another(self) -> PhraseIndex:
        """An index of the same phrases that has seen nothing yet."""
        index = PhraseIndex(())
        index.by_word, index.numbers, index.keys = self.by_word, self.numbers, self.keys
        index.unparted = self.unparted
        return index

    def hits(self) -> dict[str, list[Line]]:
        """The lines found so far, by phrase, in the order of the log."""
        return {phrase: [*lines, *self.last.get(phrase, ())] for phrase, lines in self.first.items() if lines}

    def scan(self, block: Block) -> None:
        """Looks for all phrases in one more block."""
        present = words_of(block.data)
        if present & system_messages().words:
            block = Block(system_messages().in_english(block.data), block.first_line)
            present = words_of(block.data)
        lines = _Lines(block)
        foreign = b"\n".join(word for word in present if not word.isascii())
        if foreign:
            # Chinese and Japanese write English names without a blank beside their own words.
            present |= words_of(foreign.translate(ASCII_ONLY))
        for phrase in self.unparted if foreign else ():
            if phrase in foreign:
                self.look_for(phrase, lines)
        for word in self.keys & present:
            for phrase, words in self.by_word[word]:
                if words <= present:
                    self.look_for(phrase, lines)
        for phrase in self.numbers:
            self.look_for(phrase, lines)

    def look_for(self, phrase: bytes, lines: _Lines) -> None:
        """Keeps the lines of a block that hold the phrase, as far as there is room."""
        name = phrase.decode()
        known = self.first.setdefault(name, [])
        if len(known) >= HITS_PER_PHRASE:
            last = lines.last_with(phrase)
            if last:
                self.last.setdefault(name, deque(maxlen=LAST_HITS)).append(last)
            return
        before = len(known)
        known += islice(lines.each_with(phrase), HITS_PER_PHRASE - before)
        if len(known) == before and b" " in phrase:
            wrapped = lines.wrapped_with(phrase)
            if wrapped:
                known.append(wrapped)


def is_unparted(phrase: str) -> bool:
    """Whether the phrase has letters of a script whose words stand together without blanks (kana, Han)."""
    return any(letter >= FIRST_UNPARTED for letter in phrase)


def whole_words(lower: bytes, at: int, phrase: bytes) -> bool:
    """Whether the phrase at this place does not begin or end inside a word."""
    end = at + len(phrase)
    begins = at == 0 or not (phrase[:1].isalnum() and lower[at - 1 : at].isalnum())
    return begins and (end >= len(lower) or not (phrase[-1:].isalnum() and lower[end : end + 1].isalnum()))


class _Lines:
    """One block, in which lines are looked up by what they hold; what that needs is made when first asked for."""

    def __init__(self, block: Block) -> None:
        self.block = block

    @cached_property
    def lower(self) -> bytes:
        return self.block.data.lower()

    @cached_property
    def flat(self) -> bytes:
        """The block with every run of white space made one blank; empty for a large one in which nothing is wrapped."""
        if len(self.lower) > SMALL_BLOCK and WRAPPED_LINE not in self.lower:
            return b""
        return b" ".join(self.lower.split())

    def each_with(self, phrase: bytes) -> Iterator[Line]:
        """Each line that holds the phrase, once."""
        at = self.lower.find(phrase)
        while at >= 0:
            if not whole_words(self.lower, at, phrase):
                at = self.lower.find(phrase, at + 1)
                continue
            line, end = self.line_at(at)
            yield line
            at = self.lower.find(phrase, end)

    def last_with(self, phrase: bytes) -> Line | None:
        """The last line that holds the phrase."""
        at = self.lower.rfind(phrase)
        return self.line_at(at)[0] if at >= 0 and whole_words(self.lower, at, phrase) else None

    def line_at(self, at: int) -> tuple[Line, int]:
        """The line around an offset, and where it ends; a form feed stands for a carriage return and ends one too."""
        newline = self.lower.rfind(b"\n", 0, at)
        begin = max(newline, self.lower.rfind(b"\x0c", max(0, at - LONGEST_UNIT), at)) + 1
        next_newline = self.lower.find(b"\n", at)
        end = next_newline if next_newline >= 0 else len(self.lower)
        feed = self.lower.find(b"\x0c", at, end)
        end = feed if feed >= 0 else end
        shown = self.block.data[max(begin, at - LONGEST_UNIT // 2) : min(end, at + LONGEST_UNIT)]
        text = shown.decode("utf-8", "replace")
        parts = [text]
        if newline >= 0 and text.startswith(WRAPPED):
            previous = self.block.data[self.lower.rfind(b"\n", 0, newline) + 1 : newline]
            parts = [previous[-LONGEST_UNIT:].decode("utf-8", "replace").rstrip(), text.lstrip()]
        if next_newline >= 0:
            following = self.lower.find(b"\n", next_newline + 1, next_newline + 2 + LONGEST_ANSWER)
            if following < 0 and len(self.lower) - next_newline <= LONGEST_ANSWER:
                following = len(self.lower)
            if following >= 0:
                parts.append(self.block.data[next_newline + 1 : following].decode("utf-8", "replace").strip())
        joined = " ".join(parts) if len(parts) > 1 else ""
        number = self.block.first_line + self.lower.count(b"\n", 0, newline + 1)
        return Line(number, text, joined), end

    def wrapped_with(self, phrase: bytes) -> Line | None:
        """The phrase where a logger has wrapped it over the end of a line, with the words around it."""
        at = self.flat.find(phrase)
        if at < 0:
            return None
        # Which line it is: the words before it are as many as before the line in the block.
        words_before = self.flat.count(b" ", 0, at)
        number, seen = self.block.first_line, 0
        for line in self.block.data.split(b"\n"):
            seen += len(line.split())
            if seen > words_before:
                break
            number += 1
        text = b" ".join(self.block.data.split())
        return Line(number, text[max(0, at - 200) : at + len(phrase) + 200].decode("utf-8", "replace"))
