"""Opens device nodes in a child process: an open can wait in the kernel for ever when the driver is stuck.

A thread would not do: a process does not end before its last thread does, and one that waits in the kernel (state D)
cannot be killed. A child that waits there is left behind, and the diagnosis goes on.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Sequence

__all__ = ["try_opening"]

_REAP_S = 0.5  # how long a child may take to vanish before it is left behind


def try_opening(paths: Sequence[str], timeout_s: float) -> dict[str, bool]:
    """Whether each path can be opened for reading and writing, in order; those from the first on whose open does not
    return within the deadline are missing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _open_each(paths, reading, writing)  # does not return
    os.close(writing)
    answers = _read(reading, len(paths), time.monotonic() + timeout_s)
    os.close(reading)
    if len(answers) < len(paths):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _reap(child)
    return {path: answer == ord("1") for path, answer in zip(paths, answers, strict=False)}


def _open_each(paths: Sequence[str], reading: int, writing: int) -> None:
    """In the child: writes a digit for each path. Ends without cleaning up what is the parent's."""
    try:
        os.close(reading)
        for path in paths:
            os.write(writing, b"1" if _opens(path) else b"0")
    finally:
        os._exit(0)


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _reap(child: int) -> None:
    """Collects the child if it ends soon, as it does unless it waits in the kernel."""
    deadline = time.monotonic() + _REAP_S
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(child, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.0005)


def _read(reading: int, count: int, deadline: float) -> bytes:
    answers = b""
    while len(answers) < count:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        chunk = os.read(reading, count - len(answers))
        if not chunk:
            break
        answers += chunk
    return answers
