"""The command line: names every command, imports one only when it is called, and turns errors into exit codes."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from fa_doctor import __version__
from fa_doctor.errors import EXIT_UNDECIDED, FaDoctorError

__all__ = ["COMMANDS", "main_group", "run"]

# name -> (module that holds `command`, one line of help). The line stands here so that `fa-doctor --help` need not
# import every command; tests/fa_doctor/test_cli.py holds both against the commands themselves.
COMMANDS: dict[str, tuple[str, str]] = {
    "check": (
        "fa_doctor.commands.check",
        "Finds what keeps FlashAttention from working on this machine, and how to mend it.",
    ),
    "install": (
        "fa_doctor.commands.install",
        "Sets up torch, Triton and attention kernels that fit this GPU, verified, or leaves everything as it was.",
    ),
    "fix": (
        "fa_doctor.commands.fix",
        "Applies the automatic fixes of `check`, proves each, and takes back what did not help.",
    ),
    "env": ("fa_doctor.commands.env", 'Prints the variables that this machine needs: eval "$(fa-doctor env)".'),
    "run": (
        "fa_doctor.commands.run",
        "Checks the machine, sets its variables, and becomes CMD: for container entrypoints.",
    ),
    "probe": (
        "fa_doctor.commands.probe",
        "Runs the attention kernels on every GPU and holds them against float64; also a flash_attn that is not ours.",
    ),
    "bench": (
        "fa_doctor.commands.bench",
        "Times attention over a grid of shapes beside what else this machine has; draws it.",
    ),
    "explain": ("fa_doctor.commands.explain", "Names the cause of an error text and the fix for this machine."),
    "snapshot": (
        "fa_doctor.commands.snapshot",
        "Records what check reads of this machine into a new folder; secrets are removed.",
    ),
    "diff": (
        "fa_doctor.commands.diff",
        "Shows what differs between two reports or recorded machines, most telling first.",
    ),
    "fleet": (
        "fa_doctor.commands.fleet",
        "Reads many machines' reports as one: what fails and where, and which machine is not like the others.",
    ),
    "checks": (
        "fa_doctor.commands.checks",
        "Lists the checks, or explains one: what, why it matters, how to fix, sources.",
    ),
    "gpus": ("fa_doctor.commands.gpus", "Lists the known GPUs, or shows everything known of one."),
    "kernels": ("fa_doctor.commands.kernels", "Works with the bundled attention kernels."),
    "tune": ("fa_doctor.commands.tune", "Searches kernel configurations once and keeps them."),
    "stacks": (
        "fa_doctor.commands.stacks",
        "Lists the stacks that are known to fit together, or shows everything known of one.",
    ),
}


class _ReaderGone(Exception):
    """A closed pipe, under a name that click does not know: it would end with 1, which means a GPU not healthy."""


@contextmanager
def _telling_closed_pipes() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise _ReaderGone from None
    except SystemExit as leaving:  # rich does likewise
        if isinstance(leaving.__context__, BrokenPipeError):
            raise _ReaderGone from None
        raise


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called: starting fa-doctor must stay cheap."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _telling_closed_pipes():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _telling_closed_pipes():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", prog_name="fa-doctor", message="%(prog)s %(version)s")
def main_group() -> None:
    """Makes FlashAttention work on AMD GPUs: checks the machine, installs a working stack, proves it on the GPU."""


def run(argv: list[str] | None) -> int:
    """Runs one command; returns its exit code. Nothing but BrokenPipeError and an OSError of standard output escapes."""
    try:
        outcome = main_group.main(args=argv, prog_name="fa-doctor", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except click.exceptions.Abort:
        sys.stderr.write("fa-doctor: interrupted\n")
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FaDoctorError as error:
        sys.stderr.write(f"fa-doctor: {error}\n")
        return error.exit_code
    except _ReaderGone:
        raise BrokenPipeError from None
    except OSError as error:
        if error.filename is None and error.errno in _WRITING_FAILED:
            raise
        return _internal_error(error)
    except Exception as error:  # noqa: BLE001 - the last line of defence: exit 3, never Python's 1
        return _internal_error(error)


# What writing to an open file can fail with. (An error of opening one has a file name.)
_WRITING_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def _internal_error(error: Exception) -> int:
    sys.stderr.write(
        f"fa-doctor: internal error: {type(error).__name__}: {error}\n"
        "This is a fault of fa-doctor, not of this machine. FA_DOCTOR_TRACEBACK=1 shows where it happened.\n"
    )
    if os.environ.get("FA_DOCTOR_TRACEBACK") == "1":
        import traceback

        traceback.print_exc()
    return EXIT_UNDECIDED
