"""Runs the bundled kernels' own entry point (kernels/__main__.py) in another Python, and relays what it says.

The doctor itself imports neither torch nor Triton; the target Python has them. A compiler that crashes or never ends takes
only that process with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

from fa_doctor.errors import Undecided, UsageProblem
from fa_doctor.package_files import on_disk, package_files

__all__ = ["KernelProcess", "ProcessDied", "target_python", "why_it_ended"]


class ProcessDied(Exception):
    """The process ended, or was ended at its deadline, before it said what was waited for."""


def target_python(choice: str | None) -> str:
    """The interpreter to use: `choice`, else the active virtual or conda environment's, else python3 on PATH, else this."""
    if choice:
        found = shutil.which(choice)
        if not found:
            raise UsageProblem(f"there is no executable {choice!r} (--python)")
        return found
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        folder = os.environ.get(variable)
        if folder and os.access(os.path.join(folder, "bin", "python"), os.X_OK):
            return os.path.join(folder, "bin", "python")
    return shutil.which("python3") or sys.executable


def why_it_ended(python: str, death: ProcessDied, errors: str) -> str:
    """Why the kernels of `python` ended, for a person: what it lacks, else the last line that it wrote to `errors`."""
    missing = re.search(r"ModuleNotFoundError: No module named '(torch|triton)", errors)
    if missing:
        return f"{python} has no {missing[1]}; name a Python that has torch and Triton with --python"
    last = [line.strip() for line in errors.splitlines() if line.strip()][-1:]
    return ": ".join([f"{python} {death}", *last])


class KernelProcess:
    """A child `python KERNELS command request`. Use as a context manager; it never outlives the with block."""

    def __init__(
        self, python: str, command: str, request: Mapping[str, Any], env: Mapping[str, str] | None = None
    ) -> None:
        self._files = contextlib.ExitStack()  # closed in __exit__
        kernels = self._files.enter_context(on_disk(package_files("fa_doctor.kernels")))
        self._errors: IO[bytes] = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._read_to = 0
        self.python = python
        try:
            self._process = subprocess.Popen(
                [python, str(kernels), command, json.dumps(request)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=dict(os.environ if env is None else env),
                start_new_session=True,
            )
        except OSError as error:
            self._files.close()
            raise Undecided(f"{python} could not be started: {error.strerror or error}") from None
        self._buffer = b""

    def __enter__(self) -> KernelProcess:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        if self._process.stdout:
            self._process.stdout.close()
        self._files.close()

    def messages(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """What the process says, one message at a time; each must come within `timeout_s` of the one before.

        Ends when the process ends with status 0. Raises ProcessDied otherwise.
        """
        while True:
            line = self._line(time.monotonic() + timeout_s, timeout_s)
            if line is None:
                return
            try:
                message = json.loads(line)
            except ValueError:
                continue  # a library that prints to standard output
            if isinstance(message, dict) and "event" in message:
                yield message

    def _line(self, deadline: float, timeout_s: float) -> bytes | None:
        stdout = self._process.stdout
        assert stdout is not None
        os.set_blocking(stdout.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ProcessDied(f"gave no answer for {timeout_s:.0f} s")
                if not selector.select(min(left, 1.0)):
                    continue
                chunk = os.read(stdout.fileno(), 1 << 16)
                if not chunk:
                    self._check_ended(deadline)
                    return None
                self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _check_ended(self, deadline: float) -> None:
        try:
            status = self._process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise ProcessDied("closed its output and did not end") from None
        if status == 0:
            return
        if status < 0:
            raise ProcessDied(f"was killed by signal {-status} ({signal.Signals(-status).name})")
        raise ProcessDied(f"ended with status {status}")

    def new_errors(self) -> str:
        """What it wrote to standard error since this was last asked."""
        self._errors.seek(self._read_to)
        text = self._errors.read(1 << 20)
        self._errors.seek(0, os.SEEK_END)
        self._read_to = self._errors.tell()
        return text.decode("utf-8", "replace")
