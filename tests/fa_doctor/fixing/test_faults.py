"""Faults in the middle of a fix: afterwards the environment is the old one, file for file, or the new one, proved."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from healthy import mi300x
from index_server import stall, status
from real_environment import TRITON, Stage, ask_python, rocm_triton, states, two_tritons, versions, wheels

from fa_doctor.environment_file import Variable, environment_file_of
from fa_doctor.installer.tree import manifest

AUTOTUNE = "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE"
EXCHANGE = "call:fa_doctor.installer.placing:exchange"
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # linux/prctl.h, linux/capability.h


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.02)


def killed(stage: Stage, point: str, *arguments: str) -> str:
    """Runs a fix that kills itself at a point; returns what it had said."""
    process = stage.start(point, *arguments)
    said = process.communicate(timeout=180)[0]
    assert process.returncode == -signal.SIGKILL, said
    return said


@pytest.mark.parametrize(
    "point", ["journal:1", "call:fa_doctor.fixing.packages:clone", EXCHANGE, "two-steps", "journal:2"]
)
def test_killed_while_packages_are_replaced(stage: Stage, point: str, capsys: pytest.CaptureFixture[str]) -> None:
    two_tritons(stage)
    before = manifest(stage.environment)
    killed(stage, point, "--yes")
    if point in ("journal:1", "call:fa_doctor.fixing.packages:clone"):
        assert manifest(stage.environment) == before
    elif point != "two-steps":
        assert versions(stage, "triton", "pytorch-triton-rocm") == [None, TRITON]
        assert stage.trouble() == set()
    if point == "two-steps":
        assert not stage.environment.exists()
        assert stage.fix("--dry-run") == 2
        assert "moved away" in capsys.readouterr().err
    else:
        assert stage.fix("--dry-run") in (0, 1)
        assert "was cut off" in capsys.readouterr().out
        assert stage.fix() == 2  # nobody is there to be asked
        assert "--yes" in capsys.readouterr().err
    assert stage.fix("--undo", "--yes") == 0
    assert manifest(stage.environment) == before
    assert states(stage) == [("TRI002", "undone")]
    assert not (stage.state / "fixes" / "1").exists()
    if point == EXCHANGE:
        assert stage.fix("--yes") == 0
        assert stage.trouble() == set()


def test_killed_and_then_fixed_in_one_go(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    two_tritons(stage)
    killed(stage, EXCHANGE, "--yes")
    assert stage.fix("--yes") == 0
    said = capsys.readouterr().out
    assert re.search(r"Applying fix 1 was cut off: TRI002, .*\(begun 20", said)
    assert "taken back" in said
    assert states(stage) == [("TRI002", "undone"), ("TRI002", "kept")]
    assert stage.trouble() == set()


@pytest.mark.parametrize("point", ["journal:1", EXCHANGE, "journal:2"])
def test_killed_while_packages_are_taken_back(stage: Stage, point: str) -> None:
    two_tritons(stage)
    before = manifest(stage.environment)
    assert stage.fix("--yes") == 0
    killed(stage, point, "--undo", "--yes")
    if point == "journal:2":
        assert states(stage) == [("TRI002", "undone")]
    else:
        assert states(stage) == [("TRI002", "undoing")]
        assert stage.fix("--undo", "--yes") == 0
    assert manifest(stage.environment) == before
    assert ask_python(stage, "import triton; print(triton.__version__)") == "3.7.1"


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_killed_while_a_variable_is_set(healthy: Stage, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    del healthy.environ[AUTOTUNE]
    killed(healthy, f"journal:{lines}", "--yes")
    assert healthy.kept == ({} if lines == 1 else {AUTOTUNE: "TRUE"})
    assert states(healthy) == [("FAT005", {1: "begin", 2: "applied", 3: "kept"}[lines])]
    assert healthy.fix("--undo", "--yes") == 0
    assert healthy.kept == {}
    assert healthy.fix("--yes") == 0
    assert healthy.kept == {AUTOTUNE: "TRUE"}


def test_an_install_that_fails(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    two_tritons(stage)
    before = manifest(stage.environment)
    stage.index.faults.append((r"files/pytorch_triton", status(404)))
    assert stage.fix("--yes") == 1
    said = capsys.readouterr().out
    assert "failed, everything is as it was" in said
    assert "404" in said
    assert "tried: it failed" in said
    assert manifest(stage.environment) == before
    assert states(stage) == [("TRI002", "undone")]
    assert sorted(path.name for path in stage.state.iterdir()) == ["fixes", "fixes.jsonl", "lock"]
    assert list((stage.state / "fixes").iterdir()) == []


def test_a_fix_that_does_not_help(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """What the index gives under that name holds the files of another build."""
    two_tritons(stage)
    before = manifest(stage.environment)
    wrong = {**rocm_triton(mi300x(1)).modules, "triton/__init__.py": "__version__ = '9.9.9'\n"}
    stage.index.offer("whl/rocm6.4", wheels.Wheel("pytorch-triton-rocm", TRITON, modules=wrong, tag=wheels.NATIVE))
    assert stage.fix("--yes") == 1
    said = capsys.readouterr().out
    assert "did not help, and was taken back: TRI002 says the same as before" in said
    assert manifest(stage.environment) == before
    assert states(stage) == [("TRI002", "undone")]


def test_a_fix_that_breaks_another_check(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """What it installs overwrites a file of torch."""
    two_tritons(stage)
    before = manifest(stage.environment)
    good = rocm_triton(mi300x(1)).modules
    cuda = "__version__ = '2.9.1'\nhip = None\ncuda = '12.8'\n"
    wrong = wheels.Wheel("pytorch-triton-rocm", TRITON, modules={**good, "torch/version.py": cuda}, tag=wheels.NATIVE)
    stage.index.offer("whl/rocm6.4", wrong)
    assert stage.fix("--yes") == 1
    assert "it broke TOR101" in capsys.readouterr().out
    assert manifest(stage.environment) == before


def test_one_at_a_time_and_an_interrupt(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_tritons(stage)
    before = manifest(stage.environment)
    first = stage.start(f"wait:{tmp_path / 'there'}", "--yes")
    wait_until((tmp_path / "there").exists, first)
    assert stage.fix("--yes", "--ignore", "TRI003") in (0, 1)  # the first has replaced them: nothing is left to do
    del stage.environ[AUTOTUNE]
    assert stage.fix("--yes") == 1
    assert "works on" in capsys.readouterr().err
    assert stage.kept == {}
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=180)[0]
    assert first.returncode == 130, said
    assert "Interrupted: the machine is as it was." in said
    assert manifest(stage.environment) == before
    assert states(stage) == [("TRI002", "undone")]


def test_terminated_in_the_middle_of_a_download(stage: Stage) -> None:
    two_tritons(stage)
    before = manifest(stage.environment)
    stage.index.faults.append((r"files/pytorch_triton", stall(30)))
    process = stage.start("never", "--yes")
    wait_until(lambda: any("files/pytorch_triton" in path for path in stage.index.requests), process)
    process.terminate()
    said = process.communicate(timeout=180)[0]
    assert process.returncode == 130, said
    assert "as it was" in said
    assert manifest(stage.environment) == before
    assert list((stage.state / "fixes").iterdir()) == []


def test_an_environment_that_cannot_be_written(stage: Stage) -> None:
    """Root is held to the permissions here, too: without the capability to pass over them."""

    def without_override() -> None:
        if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) != 0 and os.geteuid() == 0:
            os._exit(77)

    two_tritons(stage)
    del stage.environ[AUTOTUNE]
    before = manifest(stage.environment)
    places = (stage.environment, stage.environment.parent)
    modes = [place.stat().st_mode for place in places]
    for place in places:
        place.chmod(0o555)
    try:
        process = stage.start("never", "--yes", preexec_fn=without_override)
        said = process.communicate(timeout=180)[0]
    finally:
        for place, mode in zip(places, modes, strict=True):
            place.chmod(mode)
    if process.returncode == 77:
        pytest.skip("this process may not give up a capability")
    assert process.returncode == 1, said
    assert "cannot be written by this user" in said
    assert "Nothing was changed" in said
    assert manifest(stage.environment) == before
    assert not stage.state.exists()


def test_what_was_changed_since_is_left_alone(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    two_tritons(stage)
    assert stage.fix("--yes") == 0
    module = next(stage.environment.glob("lib/*/site-packages/triton/__init__.py"))
    module.write_text("__version__ = '3.5.1'\n# mine\n")
    changed = manifest(stage.environment)
    assert stage.fix("--undo", "--yes") == 1
    assert "triton/__init__.py" in capsys.readouterr().err
    assert manifest(stage.environment) == changed
    assert states(stage) == [("TRI002", "kept")]
    assert stage.fix("--yes") == 0  # and nothing is in the way of what comes next


def test_a_variable_that_was_changed_since_is_left_alone(healthy: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    del healthy.environ[AUTOTUNE]
    killed(healthy, "journal:2", "--yes")
    file = environment_file_of(str(healthy.environment), "venv")
    file.set(AUTOTUNE, Variable("0", "mine"))
    assert healthy.fix("--undo", "--yes") == 1
    assert "changed again since" in capsys.readouterr().err
    assert healthy.kept == {AUTOTUNE: "0"}
    assert states(healthy) == [("FAT005", "lost")]


def test_an_environment_that_was_made_anew(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    two_tritons(stage)
    assert stage.fix("--yes") == 0
    shutil.rmtree(stage.environment)
    stage.put_packages(wheels.plain("mine", "2.0"))
    before = manifest(stage.environment)
    assert stage.fix("--undo", "--yes") == 1
    assert "no longer the environment" in capsys.readouterr().err
    assert manifest(stage.environment) == before
    assert stage.fix("--undo", "--yes") == 2


def test_an_environment_file_that_is_damaged(healthy: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    (healthy.environment / "fa-doctor-environment.json").write_text("{")
    assert healthy.fix("--yes") == 2
    assert "damaged" in capsys.readouterr().err
