"""Entry point: runs the command line and makes sure that every way out has one of the documented exit codes."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Runs fa-doctor with `argv` (default: the process's own arguments) and exits with a documented code.

    Ctrl-C ends with 130, a reader that closes the pipe with 141 (as a shell tool killed by SIGPIPE would).
    """
    from fa_doctor.cli import run

    try:
        code = run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader is gone: point stdout at nothing, so that the interpreter's last flush does not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:
        sys.stderr.write(f"fa-doctor: the report could not be written: {error.strerror or error}\n")
        code = 3
    sys.exit(code)


if __name__ == "__main__":
    main()
