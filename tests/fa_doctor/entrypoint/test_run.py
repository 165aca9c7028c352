"""`fa-doctor run`: CMD is what the outside sees, as an ordinary process and as PID 1 of new namespaces."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fa_doctor.entrypoint.settings import load_settings
from fa_doctor.errors import UsageProblem

FA_DOCTOR = [sys.executable, "-m", "fa_doctor"]
RUN = [*FA_DOCTOR, "run", "--on-fail", "warn", "--"]


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "FA_DOCTOR_STATE_DIR": str(tmp_path / "state"), **more}


def namespaces() -> list[str]:
    """A prefix that makes a command PID 1 of a new PID and mount namespace; skips where the system refuses that."""
    prefix = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"]
    if os.geteuid() != 0:
        prefix.insert(1, "--map-root-user")
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True, timeout=20, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if done.returncode != 0:
        pytest.skip(f"no new namespaces here: {done.stderr.decode().strip()}")
    return prefix


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 37", 37), ("kill -TERM $$", -15), ("kill -SEGV $$", -11)]
)
def test_the_exit_status_is_the_commands(tmp_path: Path, script: str, status: int) -> None:
    done = subprocess.run([*RUN, "sh", "-c", script], env=environment(tmp_path), timeout=60, check=False)
    assert done.returncode == status


def test_standard_input_and_arguments_pass_through(tmp_path: Path) -> None:
    argv = [*RUN, sys.executable, "-c", "import sys; print(sys.argv[1:], sys.stdin.read())", "--level", "-- x", ""]
    done = subprocess.run(
        argv, input="in", text=True, capture_output=True, env=environment(tmp_path), timeout=60, check=False
    )
    assert done.stdout == "['--level', '-- x', ''] in\n"


def test_a_command_that_is_not_there_or_may_not_run(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    for name, status in (
        ("/no/such/command", 127),
        ("no-such-command-anywhere", 127),
        (str(plain), 126),
        ("/tmp", 126),
    ):
        done = subprocess.run(
            [*RUN, name], env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, name
        assert "Traceback" not in done.stderr


def test_the_command_gets_the_usual_signal_dispositions(tmp_path: Path) -> None:
    """Python ignores SIGPIPE; `yes | head` in the command would never end if that were inherited."""
    script = "grep -E '^(SigIgn|SigBlk)' /proc/self/status"
    done = subprocess.run(
        [*RUN, "sh", "-c", script], env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=True
    )
    masks = {line.split(":")[0]: int(line.split()[1], 16) for line in done.stdout.splitlines()}
    assert masks["SigIgn"] & (1 << (signal.SIGPIPE - 1)) == 0
    assert masks["SigIgn"] & (1 << (signal.SIGXFSZ - 1)) == 0
    assert masks["SigBlk"] == 0


def test_no_file_descriptor_leaks(tmp_path: Path) -> None:
    done = subprocess.run(
        [*RUN, "ls", "/proc/self/fd"], env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["0", "1", "2", "3"]  # 3 is ls's own, of the folder that it lists


HANGING_READ = """
import os, time
real = os.open
def waits(path, *arguments, **options):
    if str(path) == "/etc/os-release":
        time.sleep(100000)
    return real(path, *arguments, **options)
os.open = waits
"""


@pytest.mark.parametrize(("script", "status"), [("exit 37", 37), ("kill -KILL $$", 137), ("no-such-command", 127)])
def test_a_look_that_hangs_does_not_hold_the_command_up(tmp_path: Path, script: str, status: int) -> None:
    """A thread that waits in the kernel cannot be ended, and exec would wait for it."""
    (tmp_path / "sitecustomize.py").write_text(HANGING_READ)
    argv = [*FA_DOCTOR, "run", "--on-fail", "warn", "--timeout", "1", "--", "sh", "-c", script]
    env = environment(tmp_path, PYTHONPATH=str(tmp_path))
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status
    assert "the facts were not gathered" in done.stderr


def test_signals_reach_the_command_while_a_look_hangs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGING_READ)
    script = "trap 'echo got it; exit 9' TERM; (exit 0) & echo ready; while :; do sleep 0.05; done"
    argv = [*namespaces(), *FA_DOCTOR, "run", "--on-fail", "warn", "--timeout", "1", "--", "sh", "-c", script]
    env = environment(tmp_path, PYTHONPATH=str(tmp_path))
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    inside = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.kill(inside, signal.SIGTERM)
    assert process.stdout.readline() == "got it\n"
    assert process.wait(timeout=20) == 9


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_as_pid_1_signals_reach_the_command(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import os, signal, sys, time\n"
        "def end(n, f): print('got', n, flush=True); sys.exit(9)\n"
        f"signal.signal({int(number)}, end)\n"
        "print('pid', os.getpid(), flush=True)\n"
        "time.sleep(60)"
    )
    argv = [*namespaces(), *RUN, sys.executable, "-c", script]
    process = subprocess.Popen(
        argv, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "pid 1\n"
    inside = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.kill(inside, number)
    assert process.stdout.readline() == f"got {int(number)}\n"
    assert process.wait(timeout=20) == 9


def test_as_pid_1_it_ends_on_sigterm_while_it_still_looks(tmp_path: Path) -> None:
    """The kernel drops a signal for PID 1 that has no handler: a container could not be stopped in that time."""
    argv = [*namespaces(), *FA_DOCTOR, "run", "--no-keep", "--wait", "60", "--", "true"]
    if (
        subprocess.run(
            [*FA_DOCTOR, "run", "--", "true"], env=environment(tmp_path), capture_output=True, timeout=60, check=False
        ).returncode
        == 0
    ):
        pytest.skip("this machine is healthy: nothing is waited for")
    process = subprocess.Popen(argv, env=environment(tmp_path), stderr=subprocess.DEVNULL)
    time.sleep(2.0)
    inside = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    started = time.monotonic()
    os.kill(inside, signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert time.monotonic() - started < 5


def test_as_pid_1_no_zombie_stays(tmp_path: Path) -> None:
    script = "for d in /proc/[0-9]*; do echo $(sed 's/.*) //' $d/stat | cut -d' ' -f1); done"
    done = subprocess.run(
        [*namespaces(), *RUN, "sh", "-c", script],
        env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "Z" not in done.stdout.split()


def test_a_terminal_passes_through(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    argv = [*RUN, sys.executable, "-c", "import os; print(os.isatty(0), os.isatty(1), input('? '))"]
    process = subprocess.Popen(argv, stdin=terminal, stdout=terminal, stderr=terminal, env=environment(tmp_path))
    os.close(terminal)
    seen = b""
    deadline = time.monotonic() + 60
    answered = False
    while time.monotonic() < deadline:
        if select.select([controller], [], [], 0.2)[0]:
            try:
                chunk = os.read(controller, 4096)
            except OSError:
                break
            seen += chunk
            if b"? " in seen and not answered:
                os.write(controller, b"typed\n")
                answered = True
        elif process.poll() is not None:
            break
    process.wait(timeout=20)
    os.close(controller)
    assert b"True True typed" in seen


def test_it_is_quiet_or_says_what_is_wrong_on_stderr(tmp_path: Path) -> None:
    done = subprocess.run(
        [*RUN, "echo", "out"], env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "out\n"
    stopped = subprocess.run(
        [*FA_DOCTOR, "run", "--", "echo", "out"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if stopped.returncode == 0:
        assert stopped.stderr == ""
    else:
        assert stopped.returncode in (1, 3)
        assert stopped.stdout == ""
        assert "was not started" in stopped.stderr


def test_options_come_from_variables_and_a_file_too(tmp_path: Path) -> None:
    settings = tmp_path / "run.toml"
    settings.write_text('[run]\non-fail = "warn"\ntimeout = 20\n')
    argv = [*FA_DOCTOR, "run", "--", "true"]
    by_file = environment(tmp_path, FA_DOCTOR_CONFIG=str(settings))
    assert subprocess.run(argv, env=by_file, capture_output=True, timeout=60, check=False).returncode == 0
    by_variable = environment(tmp_path, FA_DOCTOR_ON_FAIL="warn")
    assert subprocess.run(argv, env=by_variable, capture_output=True, timeout=60, check=False).returncode == 0
    wrong = environment(tmp_path, FA_DOCTOR_ON_FAIL="explode")
    done = subprocess.run(argv, env=wrong, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "explode" in done.stderr


@pytest.mark.parametrize("text", ["[run]\ncolour = 1", "[run]\nwait = true", "run = 1", "[run", "[run]\nlevel = 3"])
def test_a_bad_settings_file_is_a_usage_problem(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(UsageProblem):
        load_settings(str(path), "/nowhere")
    assert load_settings(None, "/nowhere") == {}
