"""Becoming the command: the process is replaced, so that signals, exit status and standard input are the command's."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
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
    """Replaces this process by the command; returns only if that fails, with the status a shell would give, or if a
    look at the machine hangs, with the command's own status.

    Python ignores SIGPIPE (and SIGXFSZ), and an ignored signal stays ignored across exec: all dispositions are reset
    first, as the command expects them.
    """
    for number in (*_ENDING, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if threading.active_count() > 1:
            return _stand_for(subprocess.Popen(list(argv), env=dict(environ)))
        os.execvpe(argv[0], list(argv), dict(environ))
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        what = "not found" if missing else (error.strerror or "cannot be run").lower()
        sys.stderr.write(f"fa-doctor: {argv[0]}: {what}\n")
        return EXIT_NOT_FOUND if missing else EXIT_CANNOT_RUN
    except ValueError as error:  # a NUL byte in an argument
        sys.stderr.write(f"fa-doctor: {argv[0]!r}: {error}\n")
        return EXIT_CANNOT_RUN


def _stand_for(command: subprocess.Popen[bytes]) -> int:
    """Passes signals on to the command and gives its exit status, 128 and the signal's number if one ended it.

    Where a look at the machine hangs in the kernel, its thread cannot be ended, and exec would wait for that for ever: so
    the command runs as a child. As PID 1 this process also takes the orphans of the container.
    """
    for number in _ENDING:
        if number is not signal.SIGINT or not sys.stdin.isatty():  # a terminal sends Ctrl-C to the command itself, too
            signal.signal(number, lambda sent, _: os.kill(command.pid, sent))
    while True:
        ended, status = os.wait()
        if ended == command.pid:
            command.returncode = os.waitstatus_to_exitcode(status)
            return command.returncode if command.returncode >= 0 else 128 - command.returncode
