"""Commands: every way in which a tool can misbehave, each ended within its deadline with nothing left running."""

from __future__ import annotations

import os
import sys
import time

import psutil
import pytest

from fa_doctor.host.base import Problem
from fa_doctor.host.command import run_command

ENV = {"PATH": os.environ["PATH"]}


def python(script: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", script)


def test_output_and_status_come_back() -> None:
    out = run_command(python("import sys; print('a'); print('b', file=sys.stderr); sys.exit(7)"), 10, ENV)
    assert (out.returncode, out.stdout, out.stderr, out.problem) == (7, "a\n", "b\n", None)


def test_a_signal_comes_back_as_a_negative_status() -> None:
    out = run_command(python("import os; os.kill(os.getpid(), 11)"), 10, ENV)
    assert out.returncode == -11
    assert out.problem is None


def test_a_tool_that_never_returns_is_killed_with_its_children() -> None:
    script = "import subprocess, sys; p = subprocess.Popen(['sleep', '613']); print(p.pid, flush=True); p.wait()"
    started = time.monotonic()
    out = run_command(python(script), 0.7, ENV)
    assert time.monotonic() - started < 3
    assert out.problem is Problem.TIMED_OUT
    assert not out.unkillable
    child = int(out.stdout)
    for _ in range(50):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the grandchild is still running")


def test_a_daemon_left_behind_does_not_hold_the_pipe() -> None:
    script = "import subprocess; subprocess.Popen(['sleep', '617']); print('done', flush=True)"
    started = time.monotonic()
    out = run_command(python(script), 10, ENV)
    assert time.monotonic() - started < 3
    assert out.stdout == "done\n"
    assert out.problem is None


def test_a_flood_is_cut_and_does_not_fill_memory() -> None:
    out = run_command(python("while True: print('x' * 10000)"), 20, ENV, output_limit=1 << 16)
    assert out.truncated
    assert len(out.stdout) <= 1 << 16
    assert out.duration_s < 10


def test_what_is_over_the_limit_is_dropped_without_blocking_the_command() -> None:
    out = run_command(python("print('x' * 20_000_000); print('y')"), 20, ENV, output_limit=1 << 16)
    assert out.returncode == 0
    assert out.truncated
    assert len(out.stdout) == 1 << 16


def test_a_report_has_a_pipe_of_its_own() -> None:
    script = "import os; f = int(os.environ['FA_DOCTOR_REPORT_FD']); os.write(f, b'step'); print('noise'); os.close(f)"
    out = run_command(python(script), 10, ENV, report=True)
    assert (out.returncode, out.report, out.stdout) == (0, "step", "noise\n")
    lines: list[str] = []
    script = "import os, time; f = int(os.environ['FA_DOCTOR_REPORT_FD']); os.write(f, b'a\\nb'); time.sleep(0.2); os.write(f, b'c\\n')"
    run_command(python(script), 10, ENV, report=True, on_report=lines.append)
    assert lines == ["a", "bc"]
    closed = run_command(python("import os; os.close(int(os.environ['FA_DOCTOR_REPORT_FD']))"), 10, ENV, report=True)
    assert (closed.returncode, closed.report) == (0, "")


def test_binary_output_is_text_all_the_same() -> None:
    out = run_command(python(r"import sys; sys.stdout.buffer.write(bytes(range(256)) * 20)"), 10, ENV)
    assert out.returncode == 0
    assert "\N{REPLACEMENT CHARACTER}" in out.stdout


def test_it_gets_no_standard_input() -> None:
    out = run_command(python("import sys; print(len(sys.stdin.read()))"), 10, ENV)
    assert out.stdout == "0\n"


@pytest.mark.parametrize(
    ("argv", "problem"),
    [(("/no/such/tool",), Problem.ABSENT), (("/etc/passwd",), Problem.DENIED), (("/bin/ls\0",), Problem.FAILED)],
)
def test_a_command_that_cannot_start_is_told_apart(argv: tuple[str, ...], problem: Problem) -> None:
    out = run_command(argv, 5, ENV)
    assert out.problem is problem
    assert out.returncode is None
