"""Opening device nodes in a child process."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from fa_doctor.host import LiveHost, RecordedHost, opening
from fa_doctor.host.opening import try_opening
from fa_doctor.host.recorder import RecordingHost


def test_what_can_be_opened_and_what_not(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.write_text("")
    closed.chmod(0)
    paths = ["/dev/null", "/dev/no-such-node", str(tmp_path), "/dev/zero"]
    assert try_opening(paths, 5.0) == {
        "/dev/null": True,
        "/dev/no-such-node": False,
        str(tmp_path): False,
        "/dev/zero": True,
    }
    assert try_opening([], 5.0) == {}
    if os.geteuid() != 0:
        assert try_opening([str(closed)], 5.0) == {str(closed): False}


def test_an_open_that_does_not_return_ends_the_list_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child stands still in the second open, as in the kernel; the answers before it count."""
    real = os.open

    def slow(path: str, flags: int) -> int:
        if path == "/dev/zero":
            time.sleep(60)
        return real(path, flags)

    monkeypatch.setattr(opening.os, "open", slow)
    started = time.monotonic()
    assert try_opening(["/dev/null", "/dev/zero", "/dev/full"], 0.5) == {"/dev/null": True}
    assert time.monotonic() - started < 10


def test_no_child_is_left_behind() -> None:
    for _ in range(5):
        try_opening(["/dev/null"], 5.0)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_child_that_dies_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(paths: Sequence[str], reading: int, writing: int) -> None:
        os._exit(3)

    monkeypatch.setattr(opening, "_open_each", dies)
    assert try_opening(["/dev/null"], 5.0) == {}


def test_the_live_host_opens_nodes_that_way() -> None:
    host = LiveHost()
    assert host.can_open_all(["/dev/null", "/dev/no-such-node"]) == {"/dev/null": True, "/dev/no-such-node": False}
    assert host.can_open("/dev/null") is True
    assert LiveHost("/tmp").can_open_all(["/dev/null"]) == {"/dev/null": None}


def test_a_recording_keeps_that_there_was_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "try_opening", lambda paths, timeout_s: {"/dev/null": True})
    recorder = RecordingHost(LiveHost())
    paths = ["/dev/null", "/dev/zero"]
    for path in paths:
        recorder.stat(path)
    assert recorder.can_open_all(paths) == {"/dev/null": True}
    recorder.write(tmp_path / "machine")
    assert RecordedHost(tmp_path / "machine").can_open_all(paths) == {"/dev/null": True}
