"""The drill: what a machine in trouble does to a diagnosing program. A whole fa-doctor process goes through each.

Every run must end within its deadline, with a documented exit code, with no traceback, and with something said.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from fa_doctor import cli
from fa_doctor.commands import check
from fa_doctor.host import FileText, LiveHost

TOOLS = ("rocminfo", "rocm-smi", "amd-smi", "rocm_agent_enumerator", "hipcc", "lspci", "dmesg")
DOCTOR = [sys.executable, "-m", "fa_doctor"]
SLACK_S = 20.0  # a loaded test machine starts Python slowly; --timeout counts from fa-doctor's own first line


def doctor(
    *arguments: str, env: Mapping[str, str] | None = None, before: Sequence[str] = (), limit_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Runs fa-doctor as a process; fails the test if it shows a traceback or gives an exit code of no meaning."""
    done = subprocess.run(
        [*before, *DOCTOR, *arguments],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=limit_s,
        check=False,
    )
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    assert "Traceback" not in out + err, err
    assert done.returncode in (0, 1, 2, 3), (done.returncode, err)
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("level", ["quick", "standard"])
def test_tools_that_never_return_come_first_on_path(level: str, tmp_path: Path) -> None:
    for tool in TOOLS:
        program(tmp_path / "bin", tool, "trap '' TERM\nsleep 987654")
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    limit = {"quick": 5.0, "standard": 15.0}[level]
    started = time.monotonic()
    done = doctor("check", "--level", level, "--format", "json", "--timeout", str(limit), env=env)
    assert time.monotonic() - started < limit + SLACK_S
    report = json.loads(done.stdout)
    assert report["duration_s"] <= limit
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep 987654" not in left, "a tool's children outlive the check"


@pytest.mark.parametrize(
    "text",
    ["head -c 60000000 /dev/zero | tr '\\0' 'x'", "head -c 200000 /dev/urandom", "kill -SEGV $$", "exec 1>&-"],
    ids=["much", "binary", "crash", "silent"],
)
def test_tools_that_talk_nonsense(text: str, tmp_path: Path) -> None:
    for tool in TOOLS:
        program(tmp_path / "bin", tool, text)
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = doctor("check", "--level", "quick", "--timeout", "10", "--format", "json", env=env)
    assert json.loads(done.stdout)["machine"]["faults"] == []


@pytest.mark.parametrize("format_", ["text", "json", "markdown", "github", "junit", "npd"])
def test_strict_ascii_output(format_: str, shared: Path, tmp_path: Path) -> None:
    machine = tmp_path / "maschine-größe-ß"
    shutil.copytree(shared / "machines" / "rx9070xt-plus-igpu", machine)
    env = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = doctor("check", "--machine", str(machine), "--format", format_, env=env)
    assert done.returncode == 0 or format_ == "npd"
    assert done.stdout.isascii()


@pytest.mark.parametrize("command", [["checks"], ["gpus"], ["stacks"], ["gpus", "gfx942"], ["checks", "GPU001"]])
def test_strict_ascii_output_of_lists(command: list[str]) -> None:
    done = doctor(*command, env={"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"})
    assert done.returncode == 0
    assert done.stdout.isascii()


@pytest.mark.parametrize("arguments", [["checks"], ["check", "--level", "quick", "-v"], ["--help"]])
def test_a_reader_that_closes_the_pipe(arguments: list[str]) -> None:
    """As in `fa-doctor checks | head -1`: quiet, and 141 as of a process that SIGPIPE ends."""
    reading, writing = os.pipe()
    process = subprocess.Popen([*DOCTOR, *arguments], stdout=writing, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    os.close(writing)
    os.close(reading)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, b"")


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1", "FORCE_COLOR": ""}, {"TERM": "xterm-256color"}])
def test_no_escapes_in_a_pipe(env: dict[str, str], shared: Path) -> None:
    done = doctor("check", "--machine", str(shared / "machines" / "mi300x-x8-cpx"), env=env)
    assert "\x1b" not in done.stdout + done.stderr
    assert all(line == line.rstrip() for line in done.stdout.splitlines())


def test_no_color_in_a_terminal(shared: Path) -> None:
    """A terminal of 80 columns: bold is allowed by NO_COLOR, colour is not; no line but a command is wider."""
    machine = str(shared / "machines" / "mi300x-x8-cpx")
    script = "import os, pty, sys; os.environ['COLUMNS'] = '80'; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    env = {**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color"}
    argv = [sys.executable, "-c", script, *DOCTOR, "check", "--machine", machine]
    done = subprocess.run(argv, env=env, capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert b"63 x Instinct MI300X" in done.stdout
    assert not [colour for colour in range(30, 50) if f"\x1b[{colour}m".encode() in done.stdout]


def test_no_network() -> None:
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not make a network namespace")
    done = doctor("check", "--level", "quick", "--timeout", "10", "--format", "json", before=["unshare", "--net"])
    assert json.loads(done.stdout)["machine"]["faults"] == []


def test_a_user_without_a_home() -> None:
    env = {"HOME": "/no/such/home", "XDG_CACHE_HOME": "", "XDG_STATE_HOME": ""}
    done = doctor("check", "--level", "quick", "--timeout", "10", "--format", "json", env=env)
    report = json.loads(done.stdout)
    assert report["machine"]["faults"] == []
    assert report["findings"]


def test_a_user_that_no_account_names() -> None:
    """As `docker run --user 12345`: no passwd entry, no HOME, no writable folder."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    code = "import sys; sys.path[:0] = sys.argv.pop(1).split(':'); from fa_doctor.__main__ import main; main()"
    root = str(Path(__file__).resolve().parents[2])
    base = "/usr/bin/python3"
    if subprocess.run([base, "-c", "import sys; assert sys.version_info >= (3, 10)"], check=False).returncode:
        pytest.skip("no system Python that another user may run")
    probe = subprocess.run(
        [base, "-c", "import click, rich, sys"], user=12345, group=12345, capture_output=True, check=False, cwd="/"
    )
    if probe.returncode or not os.access(root, os.R_OK | os.X_OK):
        pytest.skip("that user may not read the packages that fa-doctor needs")
    done = subprocess.run(
        [base, "-c", code, root, "check", "--level", "quick", "--timeout", "10", "--format", "json"],
        user=12345,
        group=12345,
        extra_groups=[],
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["machine"]["faults"] == []


def test_standard_output_is_closed() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *DOCTOR, "checks"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["checks"], ["check", "--level", "quick"], ["--version"], ["gpus"]])
def test_standard_output_is_full(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*DOCTOR, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "No space left on device" in done.stderr


# A sitecustomize that makes one read of the machine wait for ever, as a dead network file system would.
HANGING_READ = """
import builtins, os, time
real = os.open
def waits(path, *arguments, **options):
    if str(path) == os.environ["FA_TEST_HANGS_AT"]:
        time.sleep(100000)
    return real(path, *arguments, **options)
os.open = waits
real_open = builtins.open
def opens(path, *arguments, **options):
    if str(path) == os.environ["FA_TEST_HANGS_AT"]:
        time.sleep(100000)
    return real_open(path, *arguments, **options)
builtins.open = opens
"""


@pytest.mark.parametrize("level", ["quick", "standard"])
def test_a_read_that_hangs_costs_no_more_than_the_timeout(level: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGING_READ)
    env = {"PYTHONPATH": str(tmp_path), "FA_TEST_HANGS_AT": "/etc/os-release"}
    started = time.monotonic()
    done = doctor("check", "--level", level, "--timeout", "3", "--format", "json", env=env)
    assert time.monotonic() - started < 3 + SLACK_S
    report = json.loads(done.stdout)
    assert done.returncode == 3
    assert report["summary"]["status"] == "unknown"
    assert report["duration_s"] <= 4  # 3, and what a loaded machine takes to write it
    assert "system." in report["findings"][0]["evidence"][0]["text"]


def test_what_hangs_does_not_end_the_process_of_a_caller(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that calls the command line as a function gets its exit code; only `main` may leave at once."""
    answer = threading.Event()

    class Hanging(LiveHost):
        def read(self, path: str, limit: int = 0) -> FileText:
            answer.wait(60)
            raise AssertionError

        list = stat = read  # type: ignore[assignment]

    monkeypatch.setattr(check, "open_host", lambda *_: Hanging(environ={}))
    try:
        assert cli.run(["check", "--timeout", "1"]) == 3
        assert "the facts were not gathered" in capsys.readouterr().out
    finally:
        answer.set()


def test_a_fifo_where_a_file_is_expected(tmp_path: Path) -> None:
    """Opening a FIFO for reading waits for a writer that never comes."""
    root = tmp_path / "root"
    for path in ("etc/os-release", "proc/cmdline", "proc/modules", "sys/module/amdgpu/version"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(root / path)
    node = root / "sys/class/kfd/kfd/topology/nodes/1"
    node.mkdir(parents=True)
    os.mkfifo(node / "properties")
    done = doctor("check", "--root", str(root), "--level", "quick", "--timeout", "8", "--format", "json")
    report = json.loads(done.stdout)
    assert report["duration_s"] <= 8
    assert report["machine"]["faults"] == []
    fifo = tmp_path / "machine.tar"
    os.mkfifo(fifo)
    for option in (["check", "--machine"], ["diff", str(root)], ["check", "--level", "quick", "--ignore-file"]):
        assert doctor(*option, str(fifo)).returncode == 2


def test_a_target_python_that_hangs_or_crashes(tmp_path: Path) -> None:
    for name, text in {"hangs": "sleep 987655", "crashes": "kill -SEGV $$", "babbles": "yes"}.items():
        program(tmp_path, name, text)
        done = doctor(
            "check", "--level", "quick", "--timeout", "3", "--python", str(tmp_path / name), "--format", "json"
        )
        report = json.loads(done.stdout)
        (finding,) = [finding for finding in report["findings"] if finding["id"] == "TOR001"]
        assert finding["status"] in ("fail", "unknown"), name
        assert report["duration_s"] <= 3.2, name


# What must be answered with exit 2, the word at fault and no traceback.
WRONG = [
    ["nope"],
    ["--nope"],
    ["check", "surplus"],
    ["check", "--level", "nope"],
    ["check", "--machine", "/no/such/machine"],
    ["check", "--machine", "/etc"],
    ["check", "--machine", ""],
    ["check", "--machine", "/dev/null"],
    ["check", "--machine", "/dev/zero"],
    ["check", "--machine", "/etc/passwd"],
    ["check", "--root", "/no/such/root"],
    ["check", "--root", "/", "--machine", "/"],
    ["check", "--timeout", "soon"],
    ["check", "--timeout", "-1"],
    ["check", "--timeout", "nan"],
    ["check", "--select", "NOPE"],
    ["check", "--ignore", "NOPE"],
    ["check", "--format", "nope"],
    ["check", "--level", "quick", "--format", "json", "--output", "/no/such/folder/report"],
    ["check", "--format", "json", "--format", "text", "--format", "junit"],
    ["check", "--output", "a", "--output", "b"],
    ["check", "--ignore-file", "/no/such/file"],
    ["check", "--ignore-file", "/etc/passwd"],
    ["check", "--ignore-file", "/etc"],
    ["fix", "--nope"],
    ["fix", "--rollback", "surplus"],
    ["gpus", "nope"],
    ["gpus", "gfx942", "gfx1100"],
    ["stacks", "nope"],
    ["checks", "nope"],
    ["diff"],
    ["diff", "/etc/passwd"],
    ["diff", "/etc/passwd", "/etc/group"],
    ["diff", "/etc", "/usr"],
    ["snapshot"],
    ["snapshot", "/proc/no/such"],
    ["snapshot", "/etc"],
    ["explain", "/no/such/log"],
    ["fleet", "--nope"],
    ["explain", "/etc"],
    ["explain", "--context", "/no/such/file", "/etc/passwd"],
    ["env", "--shell", "nope"],
    ["run"],
    ["run", "--"],
    ["probe", "--device", "nope"],
    ["probe", "--python", "/no/such/python"],
    ["bench", "--nope"],
    ["install", "--arch", "nope", "--dry-run"],
    ["install", "--stack", "nope", "--dry-run"],
    ["kernels"],
    ["kernels", "nope"],
    ["kernels", "compile"],
    ["kernels", "compile", "--arch", "nope"],
    ["tune", "--nope"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_use_is_exit_2_and_a_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, through the same function as the program: a process each would cost a minute."""
    from fa_doctor.cli import run

    monkeypatch.chdir(tmp_path)
    code = run(arguments)
    said = capsys.readouterr()
    assert code == 2
    assert said.err.strip()
    assert "Traceback" not in said.err
    assert "internal error" not in said.err


def test_every_command_is_used_wrongly_above() -> None:
    from fa_doctor.cli import COMMANDS

    assert {arguments[0] for arguments in WRONG} >= set(COMMANDS)


def test_an_exception_of_ours_is_exit_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken check is a finding; anything else that breaks is exit 3 with one clear line, never Python's 1."""
    from fa_doctor.commands import options

    def broken(machine: object, root: object) -> None:
        raise RuntimeError("a fault of ours")

    import fa_doctor.commands.check as check_command

    monkeypatch.setattr(check_command, "open_host", broken)
    assert options.open_host is not broken
    assert cli.run(["check", "--level", "quick"]) == 3
    assert "a fault of ours" in capsys.readouterr().err
