"""One install at a time in an environment: the lock beside it, held by the process that works there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from filelock import FileLock, Timeout

from fa_doctor.installer.errors import NotReady
from fa_doctor.installer.plan import Paths

__all__ = ["locked"]


@contextmanager
def locked(paths: Paths, wait_s: float) -> Iterator[None]:
    """Holds the lock of an environment; waits up to `wait_s` seconds for another install to end, then raises NotReady.

    The lock ends with its process, however that ends. Its file stays: removing it would let two in.
    """
    try:
        paths.state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotReady(f"{paths.state} cannot be made ({error.strerror}): nothing was changed") from error
    owner = paths.state / "owner"
    try:
        lock = FileLock(paths.lock, timeout=wait_s)
        with lock:
            with suppress(OSError):
                owner.write_text(f"{os.getpid()}\n")
            try:
                yield
            finally:
                with suppress(OSError):
                    owner.unlink()
    except Timeout:
        raise NotReady(
            f"another fa-doctor works on {paths.environment}{_process(owner)}: wait for it (--wait SECONDS) or end it"
        ) from None
    except PermissionError as error:
        raise NotReady(f"{paths.lock} cannot be opened ({error.strerror}): nothing was changed") from error


def _process(owner: os.PathLike[str]) -> str:
    try:
        with open(owner, encoding="ascii") as file:
            return f" (process {int(file.read())})"
    except (OSError, ValueError):
        return ""
