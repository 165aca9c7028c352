"""What several commands ask in the same way: which machine to look at, and where reports go."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fa_doctor.errors import UsageProblem

if TYPE_CHECKING:
    from fa_doctor.host import Host

__all__ = ["SECONDS", "machine_options", "open_host", "seconds", "write_output"]


class _Seconds(click.FloatRange):
    """A span of time. `float` reads "nan", "inf" and "1e300" too, with which no deadline would ever come, and which the
    system's own waiting refuses (poll counts milliseconds in 31 bits)."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number) or number > _MOST_SECONDS:
            self.fail(f"{value!r} is not a number of seconds up to {_MOST_SECONDS:.0f}.", param, ctx)
        return number


_MOST_SECONDS = 1e6  # eleven days


def seconds(at_least: float) -> click.FloatRange:
    """The type of an option that takes seconds: a finite number, `at_least` or more."""
    return _Seconds(min=at_least)


SECONDS = seconds(0.5)  # the type of every --timeout

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def machine_options(command: Decorated) -> Decorated:
    """Adds --machine, --root and --python."""
    for option in (
        click.option("--python", metavar="EXE", help="The Python to examine (default: the active environment's)."),
        click.option("--root", metavar="DIR", help="Read the machine whose root file system is mounted at DIR."),
        click.option("--machine", metavar="DIR", help="Read a recorded machine (a folder or a tar of one)."),
    ):
        command = option(command)
    return command


def open_host(machine: str | None, root: str | None) -> Host:
    """The host that --machine or --root names, else this machine; raises UsageProblem for a wrong one."""
    from fa_doctor.host import LiveHost, open_recording

    if machine is not None and root is not None:
        raise UsageProblem("--machine and --root exclude each other")
    if machine is not None:
        return open_recording(machine)
    if root is not None and not os.path.isdir(root):
        raise UsageProblem(f"--root: {root} is not a folder")
    return LiveHost(root or "/")


def write_output(text: str, path: str | None) -> None:
    """Writes to a file, or to standard output; characters that its encoding lacks become "?", never an error."""
    if path is None or path == "-":
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
        return
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            # /dev/null, /dev/stderr, a pipe: written to, never replaced (root could).
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(text)
            return
        # Written beside and renamed: a reader never sees half a report, and a full disk leaves the old one whole.
        path = os.path.realpath(path)  # behind a link it is the file that changes, not the link
        partial = f"{path}.{os.getpid()}.partial"
        with open(partial, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(partial, path)
    except OSError as error:
        raise UsageProblem(f"{path} cannot be written: {error.strerror or error}") from error
