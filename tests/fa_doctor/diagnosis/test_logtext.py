"""Logs as they come: encodings, colours, progress bars, long lines, packed, huge."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator

from fa_doctor.diagnosis.explain import explain
from fa_doctor.diagnosis.logtext import BLOCK_BYTES, Block, blocks_of, blocks_of_text
from fa_doctor.diagnosis.scan import HITS_PER_PHRASE, LAST_HITS, PhraseIndex

ERROR = "RuntimeError: PassManager::run failed"
NOTE = "gfx1100 is here\n"


def cause_of(data: bytes) -> tuple[str, int]:
    found = explain(blocks_of(io.BytesIO(data)))
    assert found.confident, found.candidates
    line = next(each for each in found.confident.lines if "PassManager" in each.text)
    return found.confident.cause, line.number


def test_plain_and_crlf_and_a_missing_last_newline() -> None:
    assert cause_of(f"{NOTE}{ERROR}".encode()) == ("compiler-crash", 2)
    assert cause_of(f"{NOTE}\n{ERROR}\n".replace("\n", "\r\n").encode()) == ("compiler-crash", 3)


def test_colours_and_hyperlinks_are_taken_out_even_inside_a_message() -> None:
    coloured = f"\x1b[2J\x1b]0;build\x07{NOTE}\x1b[31mRuntimeError\x1b[0m: Pass\x1b[1mManager::run\x1b[0m failed\x1b[K"
    assert cause_of(coloured.encode()) == ("compiler-crash", 2)


def test_progress_bars_do_not_hide_a_message_nor_shift_line_numbers() -> None:
    bar = "\r".join(f"{n}%|███   | {n}/100" for n in range(100))
    assert cause_of(f"{NOTE}{bar}\r{ERROR}\n".encode()) == ("compiler-crash", 2)


def test_utf16_with_and_without_mark_and_bom_and_latin1() -> None:
    text = f"{NOTE}{ERROR}\n"
    assert cause_of(text.encode("utf-16")) == ("compiler-crash", 2)
    assert cause_of(text.encode("utf-16-be")) == ("compiler-crash", 2)
    assert cause_of(text.encode("utf-16-le")) == ("compiler-crash", 2)
    assert cause_of(text.encode("utf-8-sig")) == ("compiler-crash", 2)
    assert cause_of(f"Gerät gfx1100\n{ERROR}".encode("latin-1")) == ("compiler-crash", 2)


def test_gzip_whole_and_cut_off() -> None:
    packed = gzip.compress((NOTE + ERROR + "\n" + "x y z\n" * 5000).encode())
    assert cause_of(packed) == ("compiler-crash", 2)
    whole = list(blocks_of(io.BytesIO(packed)))
    cut = list(blocks_of(io.BytesIO(packed[:-20])))
    assert b"".join(block.data for block in whole).startswith(b"gfx1100")
    assert b"".join(block.data for block in cut)[:200] == whole[0].data[:200]


def test_typographic_quotes_of_a_utf8_locale() -> None:
    text = "error: gfx942 /lib/libc.so.6: version ‘GLIBC_2.38’ not found"
    found = explain(blocks_of_text(text))
    assert found.confident
    assert found.confident.cause == "glibc-or-libstdcxx-too-old"


def test_a_message_that_a_logger_wrapped_is_found() -> None:
    text = "12:37:12 ERROR   torch attention on Radeon: No module\n                 named 'flash_attn_2_cuda'\n"
    found = explain(blocks_of_text(text))
    assert found.candidates
    assert found.candidates[0].cause == "backend-flag-missing-at-run"


def test_prefixes_of_interleaved_ranks_do_not_matter() -> None:
    text = "[rank0]: gfx942 ok\n[rank3]: RuntimeError: No HIP GPUs are available\n(Worker pid=1) [rank1]: ok\n"
    found = explain(blocks_of_text(text))
    assert found.symptoms == ("no-hip-gpus",)


def test_blocks_have_the_line_numbers_of_the_file_and_lose_nothing() -> None:
    lines = [f"line {number}" for number in range(1, 300_001)]
    text = "\n".join(lines).encode()
    blocks = list(blocks_of(io.BytesIO(text)))
    assert len(blocks) > 1
    assert b"".join(block.data for block in blocks) == text
    for block in blocks:
        assert block.data.split(b"\n")[0] == f"line {block.first_line}".encode()


def test_one_endless_line_is_cut_and_read_with_bounded_memory() -> None:
    class Endless(io.RawIOBase):
        left = 40

        def read(self, size: int = -1) -> bytes:
            if not self.left:
                return b""
            self.left -= 1
            return b"word " * (size // 5)

    biggest = max(len(block.data) for block in blocks_of(Endless()))  # type: ignore[arg-type]
    assert biggest <= 5 * BLOCK_BYTES


def test_empty_and_binary_input_give_nothing() -> None:
    assert explain(blocks_of(io.BytesIO(b""))).candidates == ()
    assert explain(blocks_of(io.BytesIO(bytes(range(256)) * 50))).candidates == ()


def test_the_first_and_the_last_lines_of_a_frequent_phrase_are_kept() -> None:
    index = PhraseIndex(["needle here"])

    def blocks() -> Iterator[Block]:
        for number in range(40):
            yield Block(b"a needle here\n" * 50, 1 + 50 * number)

    for block in blocks():
        index.scan(block)
    lines = index.hits()["needle here"]
    assert len(lines) == HITS_PER_PHRASE + LAST_HITS
    assert lines[0].number == 1
    assert lines[-1].number == 2000


def test_a_phrase_is_matched_by_whole_words() -> None:
    index = PhraseIndex(["ram"])
    index.scan(Block(b"the program\nframe ram!\ngrams\n", 1))
    assert [line.number for line in index.hits()["ram"]] == [2]


def test_a_phrase_of_digits_alone_is_found_though_words_have_none() -> None:
    index = PhraseIndex(["404", "code 137"])
    index.scan(Block(b"HTTP 404 Not Found\nline 4040\nexit code 137\nexit code 13\n", 1))
    assert {phrase: [line.number for line in lines] for phrase, lines in index.hits().items()} == {
        "404": [1],
        "code 137": [3],
    }
