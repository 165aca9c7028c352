"""Runs a program to its end: in a process group of its own, with a deadline, its output kept for the error message."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fa_doctor.installer.errors import InstallFailed

__all__ = ["Outcome", "clean_environment", "run_child", "telling_lines"]

TAIL = 4000  # characters of output that an error message quotes at most
LINES = 12  # lines of it, of those that tell what went wrong


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a child ended, and its output (stdout and stderr together)."""

    returncode: int
    output: str


def clean_environment(environ: Mapping[str, str], **extra: str) -> dict[str, str]:
    """The environment for a child that must see the target's packages and nothing of ours or of the user's settings."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__")
    kept = {
        name: value for name, value in environ.items() if name not in dropped and not name.startswith(("PIP_", "UV_"))
    }
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", **extra}


def telling_lines(output: str) -> str:
    """Of a tool's output what says why it failed: from its first line that names an error on, else its end."""
    lines = [line for line in output.strip()[-TAIL:].splitlines() if line.strip()]
    first = next((at for at, line in enumerate(lines) if re.match(r"\s*(error|fatal)\b|\s*[×✗]", line, re.I)), None)
    return "\n".join(lines[-LINES:] if first is None else lines[first : first + LINES])


def run_child(
    command: Sequence[str | Path], *, environ: Mapping[str, str], deadline_s: float, cwd: Path | None = None
) -> Outcome:
    """Runs `command`; the whole group is killed at the deadline and when this process is interrupted.

    Raises InstallFailed when it cannot be started or does not end in time; a failing status is the caller's to judge.
    """
    words = [str(word) for word in command]
    try:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=dict(environ),
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise InstallFailed(f"{words[0]} could not be started: {error}") from error
    try:
        output, _ = child.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        _kill_group(child)
        raise InstallFailed(f"{' '.join(words[:4])} did not end within {deadline_s:.0f} s") from None
    except BaseException:
        _kill_group(child)
        raise
    return Outcome(child.returncode, output)


def _kill_group(child: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
