"""Becoming the command: the process is replaced, so that signals, exit status and standard input are the command's."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence

__all__ = ["EXIT_CANNOT_RUN", "EXIT_NOT_FOUND", "become", "end_on_signals"]

EXIT_NOT_FOUND = 127  # as POSIX shells say it
EXIT_CANNOT_RUN = 126

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def end_on_signals() -> None:
    """Makes signals end this process even as PID 1, to which the kernel delivers only signals that have a handler.

    In force while the machine is looked at; `become` takes it back. The exit status is 128 and the signal's number.
    """

    def end(number: int, frame: object) -> None:
        os._exit(128 + number)

    for number in _ENDING:
        signal.signal(number, end)


def become(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Replaces this process by the command; returns only if that fails, with the status a shell would give.

    Python ignores SIGPIPE (and SIGXFSZ), and an ignored signal stays ignored across exec: all dispositions are reset
    first, as the command expects them.
    """
    for number in (*_ENDING, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(argv[0], list(argv), dict(environ))
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        what = "not found" if missing else (error.strerror or "cannot be run").lower()
        sys.stderr.write(f"fa-doctor: {argv[0]}: {what}\n")
        return EXIT_NOT_FOUND if missing else EXIT_CANNOT_RUN
    except ValueError as error:  # a NUL byte in an argument
        sys.stderr.write(f"fa-doctor: {argv[0]!r}: {error}\n")
        return EXIT_CANNOT_RUN
