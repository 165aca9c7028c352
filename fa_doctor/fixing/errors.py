"""What can go wrong while a fix is applied or taken back."""

from __future__ import annotations

from fa_doctor.errors import EXIT_FAILED, FaDoctorError

__all__ = ["Conflict", "FixFailed"]


class FixFailed(FaDoctorError):
    """A fix could not be applied; the sentence says why. What it had changed is put back by whoever catches it."""

    exit_code = EXIT_FAILED


class Conflict(FaDoctorError):
    """A fix cannot be taken back, since what it changed was changed again by something else. Nothing was touched."""

    exit_code = EXIT_FAILED
