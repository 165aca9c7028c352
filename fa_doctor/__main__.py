"""Entry point: runs the command line and makes sure that every way out has one of the documented exit codes."""

from __future__ import annotations

import os
import sys
import threading

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Runs fa-doctor with `argv` (default: the process's own arguments) and exits with a documented code.

    Ctrl-C ends with 130, a reader that closes the pipe with 141 (as a shell tool killed by SIGPIPE would). Only here is
    a process left at once, without waiting for its threads: `fa_doctor.cli.run` returns, whatever hangs.
    """
    from fa_doctor.cli import run

    _open_closed_streams()
    try:
        code = run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        code = 141
        _give_up_stdout()
    except OSError as error:
        sys.stderr.write(f"fa-doctor: the report could not be written: {error.strerror or error}\n")
        code = 3
        _give_up_stdout()
    if threading.active_count() > 1:
        # What reads the machine may hang in the kernel for ever, and an ordinary exit would wait for its thread.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _give_up_stdout() -> None:
    """Points standard output at nothing, so that the interpreter's last flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _open_closed_streams() -> None:
    """Gives standard streams that the caller closed (`>&-`) a descriptor: else the next file that is opened becomes
    standard output. What is written to a closed one still fails, as an error of writing."""
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        if not _is_open(descriptor):
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
