"""Runs one command: without a shell, in its own process group, under a deadline, its output limited."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from fa_doctor.host.base import COMMAND_OUTPUT_LIMIT, CommandOutput, Problem

__all__ = ["FLOOD", "give_up", "run_command"]

FLOOD = 256 << 20  # bytes on one stream after which a command is taken to have gone mad
_KILL_GRACE_S = 0.5  # how long a killed process may take to vanish before it counts as stuck in the kernel


def run_command(
    argv: Sequence[str],
    timeout_s: float,
    env: Mapping[str, str],
    output_limit: int = COMMAND_OUTPUT_LIMIT,
    report: bool = False,
    on_report: Callable[[str], None] | None = None,
) -> CommandOutput:
    """Runs `argv` with exactly the environment `env`; never raises for what the command does.

    The command gets no standard input. Of each stream the first `output_limit` bytes are kept and the rest is read and
    dropped, so that a talkative command does not block. When the deadline passes, or a stream floods (FLOOD bytes),
    the process group is killed whole, grandchildren included. A grandchild that keeps the pipes open after the
    command ended does not hold us up.

    With `report` the command finds in FA_DOCTOR_REPORT_FD the number of a pipe that is its own: what it writes there is
    not mixed with what libraries print. `on_report` is called with each line of it as it comes.
    """
    started = time.monotonic()
    name = tuple(argv)
    reader = writer = -1
    if report:
        reader, writer = os.pipe()
        env = {**env, "FA_DOCTOR_REPORT_FD": str(writer)}
    try:
        process = subprocess.Popen(
            name,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            start_new_session=True,
            close_fds=True,
            pass_fds=(writer,) if report else (),
        )
    except (OSError, ValueError) as error:
        if report:
            os.close(reader)
        if isinstance(error, FileNotFoundError):
            return CommandOutput(name, None, problem=Problem.ABSENT)
        if isinstance(error, PermissionError):
            return CommandOutput(name, None, problem=Problem.DENIED)
        return CommandOutput(name, None, stderr=str(error), problem=Problem.FAILED)
    finally:
        if report:
            os.close(writer)

    deadline = started + timeout_s
    assert process.stdout is not None
    assert process.stderr is not None
    pipes: list[IO[bytes]] = [process.stdout, process.stderr]
    if report:
        pipes.append(open(reader, "rb", buffering=0))  # noqa: SIM115 - closed below with the others
    try:
        streams, flooded = _collect(process, pipes, deadline, output_limit, on_report)
    except BaseException:  # Ctrl-C, or a reader of the report that breaks: nothing may be left running
        _kill_group(process)
        for pipe in pipes:
            pipe.close()
        raise
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
        for pipe in pipes:
            pipe.close()
    texts = [bytes(data[:output_limit]).decode("utf-8", "replace") for data in streams]
    return CommandOutput(
        argv=name,
        returncode=process.returncode,
        stdout=texts[0],
        stderr=texts[1],
        report=texts[2] if report else "",
        problem=Problem.TIMED_OUT if timed_out else None,
        truncated=any(len(data) > output_limit for data in streams),
        duration_s=time.monotonic() - started,
        unkillable=unkillable,
    )


def _collect(
    process: subprocess.Popen[bytes],
    pipes: Sequence[IO[bytes]],
    deadline: float,
    limit: int,
    on_report: Callable[[str], None] | None,
) -> tuple[list[bytearray], bool]:
    """Reads the pipes until they close, the process ends, or the deadline; True if one of them flooded."""
    buffers = [bytearray() for _ in pipes]
    seen = [0 for _ in pipes]
    line = b""
    given_up = _given_up
    with selectors.DefaultSelector() as selector:
        for number, pipe in enumerate(pipes):
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ, number)
        ended = False
        while selector.get_map():
            now = time.monotonic()
            if now >= deadline:
                break
            if given_up != _given_up:
                raise KeyboardInterrupt
            # Once the command itself has ended, what is in the pipes is drained, but nobody who still holds them
            # open (a daemon it left behind) is waited for.
            ended = ended or process.poll() is not None
            ready = selector.select(0.0 if ended else min(0.05, deadline - now))
            if not ready and ended:
                break
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                seen[key.data] += len(chunk)
                if on_report is not None and key.data == 2:
                    *lines, line = (line + chunk).split(b"\n")
                    for whole in lines:
                        on_report(whole.decode("utf-8", "replace"))
                    line = line[-limit:]
                if len(buffers[key.data]) <= limit:
                    buffers[key.data] += chunk
                if seen[key.data] > FLOOD:
                    return buffers, True
    return buffers, False


_given_up = 0  # how often all running commands were given up


def give_up() -> None:
    """Ends the commands that other threads are running: only the main thread hears of Ctrl-C, and would wait for them."""
    global _given_up
    _given_up += 1


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
