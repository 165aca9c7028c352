"""What can go wrong in an install, each with the exit code it ends the command with."""

from __future__ import annotations

from fa_doctor.errors import EXIT_FAILED, EXIT_USAGE, FaDoctorError

__all__ = ["InstallFailed", "NotReady", "NothingFits", "Refused"]


class InstallFailed(FaDoctorError):
    """A step failed; the sentence says which and why. What was changed is undone by whoever catches it."""

    exit_code = EXIT_FAILED


class NothingFits(FaDoctorError):
    """No stack, or no wheel of the stack, fits this machine."""

    exit_code = EXIT_FAILED


class Refused(FaDoctorError):
    """The install was not begun: something the user must decide or change first."""

    exit_code = EXIT_USAGE


class NotReady(Refused):
    """The install was not begun, since the machine lacks something: room, rights, a network, or its turn."""

    exit_code = EXIT_FAILED
