"""Messages of the C library, the loader and the shell in the user's language count as their English originals."""

from __future__ import annotations

import pytest

from fa_doctor.diagnosis.explain import explain_text
from fa_doctor.diagnosis.translated import Translations, system_messages, words_of
from fa_doctor.knowledge.tables import load


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("stream.h:7:10: fatal error: hip/hip_runtime_api.h: 没有那个文件或目录", "hip-headers-missing"),
        (
            "a.cpp:3:10: schwerwiegender Fehler: hip/hip_runtime.h: Datei oder Verzeichnis nicht gefunden",
            "hip-headers-missing",
        ),
        ("Unable to open /dev/kfd read-write: Permission non accordée", "device-permission"),
        ("bash: hipcc: команда не найдена", "rocm-not-installed"),
        ("OSError: [Errno 28] No queda espacio en el dispositivo", "disk-full"),
        ("ImportError: libamdhip64.so.7: 共有オブジェクトファイルを開けません", "rocm-library-missing"),
    ],
)
def test_a_translated_message_is_understood_and_shown_as_it_stood(line: str, cause: str) -> None:
    found = explain_text(f"AMD Radeon RX 7900 XTX\n{line}\n")
    assert found.confident
    assert found.confident.cause == cause
    shown = next(each for each in found.confident.lines if each.number == 2)
    assert line.rsplit(": ", 1)[-1].split("] ")[-1] in shown.text


def test_every_message_of_the_table_is_found_and_keeps_the_number_of_lines() -> None:
    for row in load("system_messages")["message"]:
        for other in row["others"]:
            text = f"x.c:1: {other}\nnext\n".encode()
            english = system_messages().in_english(text).decode()
            assert english == f"x.c:1: {row['english']} [{other}]\nnext\n", other


def test_a_text_without_such_a_message_is_left_alone() -> None:
    text = b"der Compiler meldet: No such file or directory"
    assert system_messages().in_english(text) is text
    assert Translations([]).in_english(text) is text


def test_words_have_no_digits_and_are_the_same_however_often_a_line_comes() -> None:
    assert words_of(b"12:30 GPU-3 gfx1100 failed\n12:31 GPU-4 gfx1101 failed\n") == {b"gpu", b"gfx", b"failed"}
