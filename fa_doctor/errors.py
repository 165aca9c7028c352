"""Errors that know their exit code. Any other exception that reaches main() is a fault of fa-doctor itself: exit 3.

Exit codes: 0 healthy, 1 at least one check failed, 2 the command was used wrongly, 3 the verdict could not be reached.
An uncaught exception would leave Python with 1, which every caller reads as "the GPU is bad"; so none may escape.
"""

from __future__ import annotations

__all__ = ["EXIT_FAILED", "EXIT_HEALTHY", "EXIT_UNDECIDED", "EXIT_USAGE", "FaDoctorError", "Undecided", "UsageProblem"]

EXIT_HEALTHY = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNDECIDED = 3


class FaDoctorError(Exception):
    """A sentence for the user and the exit code it ends the process with; never shown with a traceback."""

    exit_code = EXIT_UNDECIDED


class UsageProblem(FaDoctorError):
    """The command was used wrongly: a file that is not there, a value that does not parse."""

    exit_code = EXIT_USAGE


class Undecided(FaDoctorError):
    """The verdict could not be reached: a deadline, a fault of the tool itself."""

    exit_code = EXIT_UNDECIDED
