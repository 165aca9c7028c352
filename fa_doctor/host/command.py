"""Runs one command: without a shell, in its own process group, under a deadline, its output limited."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from fa_doctor.host.base import COMMAND_OUTPUT_LIMIT, CommandOutput, Problem

__all__ = ["run_command"]

_KILL_GRACE_S = 0.5  # how long a killed process may take to vanish before it counts as stuck in the kernel


def run_command(
    argv: Sequence[str],
    timeout_s: float,
    env: Mapping[str, str],
    output_limit: int = COMMAND_OUTPUT_LIMIT,
) -> CommandOutput:
    """Runs `argv` with exactly the environment `env`; never raises for what the command does.

    The command gets no standard input. When the deadline passes, or when it printed more than `output_limit` bytes
    on a stream twice over, its process group is killed whole, grandchildren included. A grandchild that keeps the
    pipes open after the command ended does not hold us up.
    """
    started = time.monotonic()
    name = tuple(argv)
    try:
        process = subprocess.Popen(
            name,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            start_new_session=True,
            close_fds=True,
        )
    except FileNotFoundError:
        return CommandOutput(name, None, problem=Problem.ABSENT)
    except PermissionError:
        return CommandOutput(name, None, problem=Problem.DENIED)
    except (OSError, ValueError) as error:
        return CommandOutput(name, None, stderr=str(error), problem=Problem.FAILED)

    deadline = started + timeout_s
    streams, flooded = _collect(process, deadline, output_limit)
    timed_out = False
    if flooded:
        _kill_group(process)
    unkillable = False
    try:
        process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        timed_out = not flooded
        _kill_group(process)
        try:
            process.wait(timeout=_KILL_GRACE_S)
        except subprocess.TimeoutExpired:
            unkillable = True
    finally:
        _kill_group(process)  # grandchildren that outlived the command
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    stdout, stderr = (bytes(data[:output_limit]).decode("utf-8", "replace") for data in streams)
    return CommandOutput(
        argv=name,
        returncode=process.returncode,
        stdout=stdout,
        stderr=stderr,
        problem=Problem.TIMED_OUT if timed_out else None,
        truncated=any(len(data) > output_limit for data in streams),
        duration_s=time.monotonic() - started,
        unkillable=unkillable,
    )


def _collect(process: subprocess.Popen[bytes], deadline: float, limit: int) -> tuple[tuple[bytearray, bytearray], bool]:
    """Reads both pipes until they close, the process ends, or the deadline; True if one was flooded past `limit`."""
    assert process.stdout is not None
    assert process.stderr is not None
    buffers = {process.stdout: bytearray(), process.stderr: bytearray()}
    flooded = False
    with selectors.DefaultSelector() as selector:
        for pipe in buffers:
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ)
        ended_at: float | None = None
        while selector.get_map() and not flooded:
            now = time.monotonic()
            if now >= deadline:
                break
            # Once the command itself has ended, what is in the pipes is drained, but nobody who still holds them
            # open (a daemon it left behind) is waited for.
            if ended_at is None and process.poll() is not None:
                ended_at = now
            wait = 0.05 if ended_at is None else 0.0
            ready = selector.select(min(wait, deadline - now))
            if not ready and ended_at is not None:
                break
            for key, _ in ready:
                pipe = process.stdout if key.fileobj is process.stdout else process.stderr
                chunk = os.read(pipe.fileno(), 1 << 16)
                if not chunk:
                    selector.unregister(pipe)
                    continue
                buffer = buffers[pipe]
                if len(buffer) <= limit:
                    buffer += chunk
                else:
                    flooded = True
    return (buffers[process.stdout], buffers[process.stderr]), flooded


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
