"""Every way in which a probe's child can go wrong, with real children: found, named, in time, nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa_doctor.checks.kernels import smoke
from fa_doctor.diagnosis.model import Status, Verdict
from fa_doctor.facts.gpus import Gpu, Gpus
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.packages import Torch
from fa_doctor.facts.probes import Ending, Probe, StepState
from fa_doctor.host import CommandOutput, LiveHost
from fa_doctor.probe import launch as launch_module
from fa_doctor.probe.result import read_steps

STEPS = ("first", "second", "third")
BEGIN = """
import json, os, signal, subprocess, sys, time
fd = int(os.environ["FA_DOCTOR_REPORT_FD"])
def say(event, step, **more):
    os.write(fd, (json.dumps({"event": event, "step": step, **more}) + "\\n").encode())
say("begin", "first"); say("end", "first", seconds=0.1)
say("begin", "second")
"""
END = 'say("end", "second"); say("begin", "third"); say("end", "third")\n'


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Runs a script in place of the probe's own child, on one pretended device."""

    def run(script: str, timeout_s: float = 10.0, devices: list[int | None] | None = None) -> list[Probe]:
        (tmp_path / "__main__.py").write_text(BEGIN + script)

        @launch_module.contextlib.contextmanager
        def folders():  # type: ignore[no-untyped-def]
            yield tmp_path, tmp_path

        monkeypatch.setattr(launch_module, "package_folders", folders)
        return launch_module.launch(LiveHost(), sys.executable, "smoke", STEPS, devices or [0], timeout_s)

    return run


def states(found: Probe) -> list[str]:
    return [step.state for step in found.steps]


def test_a_child_that_does_well(probe) -> None:  # type: ignore[no-untyped-def]
    (found,) = probe(END)
    assert found.complete
    assert states(found) == ["ok"] * 3
    assert found.steps[0].seconds == 0.1


@pytest.mark.parametrize(
    ("script", "state", "ending"),
    [
        ("sys.exit(1)", StepState.DIED, "exit status 1"),
        ("os._exit(0)", StepState.DIED, "exit status 0"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", StepState.DIED, "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", StepState.DIED, "SIGKILL"),
        ("print('Memory access fault by GPU node-1', file=sys.stderr, flush=True); os.abort()", StepState.DIED, "SIGABRT"),
        ("time.sleep(600)", StepState.HUNG, "did not end in time"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass", StepState.HUNG, "did not end in time"),
        ("os.close(fd); time.sleep(600)", StepState.HUNG, "did not end in time"),
        ("os.close(fd)", StepState.DIED, "exit status 0"),
    ],
)  # fmt: skip
def test_the_step_is_named(probe, script: str, state: str, ending: str) -> None:  # type: ignore[no-untyped-def]
    started = time.monotonic()
    (found,) = probe(script, timeout_s=1.5)
    assert time.monotonic() - started < 4
    assert states(found) == ["ok", state, "not reached"]
    assert found.last_good is not None
    assert found.last_good.name == "first"
    assert ending in str(found.ending)


def test_an_exception_comes_back_with_its_traceback(probe) -> None:  # type: ignore[no-untyped-def]
    (found,) = probe('say("error", "second", type="OSError", message="no", traceback="Traceback ..."); sys.exit(1)')
    assert found.failed is not None
    assert (found.failed.error, found.failed.trace) == ("OSError: no", "Traceback ...")


def test_a_flood_does_not_hide_the_step_nor_fill_memory(probe) -> None:  # type: ignore[no-untyped-def]
    (found,) = probe("for _ in range(100): print('x' * 1_000_000)\n" + END, timeout_s=20)
    assert found.complete
    assert len(found.output) < 100_000


def test_garbage_in_the_report_is_counted_and_passed_over(probe) -> None:  # type: ignore[no-untyped-def]
    junk = r'os.write(fd, b"\xff\x00{not json}\n[1]\n{}\n" + b"[" * 5000 + b"\n{\"event\": \"end\", \"step\": \"none\"}\n")'
    (found,) = probe(f"{junk}\n{END}")
    assert found.complete
    assert found.garbage == 5


def test_a_grandchild_that_is_left_behind_is_ended_and_not_waited_for(probe) -> None:  # type: ignore[no-untyped-def]
    started = time.monotonic()
    (found,) = probe("p = subprocess.Popen(['sleep', '619']); print('pid', p.pid, flush=True)\n" + END)
    assert time.monotonic() - started < 5
    assert found.complete
    pid = int(found.output.split()[1])
    for _ in range(40):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    pytest.fail("the grandchild is still running")


def test_children_run_side_by_side_and_the_bad_one_is_named(probe) -> None:  # type: ignore[no-untyped-def]
    started = time.monotonic()
    script = f"time.sleep(0.8)\nif os.environ['HIP_VISIBLE_DEVICES'] == '5': os.abort()\n{END}"
    found = probe(script, devices=list(range(8)), timeout_s=20)
    assert time.monotonic() - started < 8 * 0.8
    assert [one.complete for one in found] == [number != 5 for number in range(8)]
    gpus = tuple(Gpu(number, "gfx942", name="Instinct MI300X", pci=f"0000:{number:02x}:00.0") for number in range(8))
    verdicts = judged(found, gpus)
    assert [verdict.status for verdict in verdicts].count(Status.FAIL) == 1
    assert "GPU 5 (Instinct MI300X, 0000:05:00.0)" in verdicts[5].title
    assert "With the same software 7 of 8 GPUs are right" in verdicts[5].detail


INTERRUPTED = """
import contextlib
from pathlib import Path
from fa_doctor.host import LiveHost
from fa_doctor.probe import launch

@contextlib.contextmanager
def folders():
    yield Path(CHILD), Path(CHILD)

launch.package_folders = folders
launch.launch(LiveHost(), PYTHON, "smoke", ("first", "second"), [0, 1, 2], 60)
"""


def test_ctrl_c_ends_every_child_at_once(tmp_path: Path) -> None:
    (tmp_path / "__main__.py").write_text(f"{BEGIN}time.sleep(600)")
    script = INTERRUPTED.replace("CHILD", repr(str(tmp_path))).replace("PYTHON", repr(sys.executable))
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    children: list[psutil.Process] = []
    while len(children) < 3 and time.monotonic() < deadline:
        children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.05)
    assert len(children) == 3
    started = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    _, words = process.communicate(timeout=20)
    assert time.monotonic() - started < 10
    assert "KeyboardInterrupt" in words
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def judged(probes: list[Probe], gpus: tuple[Gpu, ...] = (Gpu(0, "gfx942"),)) -> list[Verdict]:
    machine = Machine(
        "live", "x", gpus=Gpus(gpus, len(gpus)), torch=Torch("2.9.1+rocm6.4", "/t", "rocm"), probes=tuple(probes)
    )
    verdicts = smoke(machine)
    assert isinstance(verdicts, list)
    return verdicts


def test_the_finding_has_the_step_the_last_good_one_and_the_cause_of_the_output(probe) -> None:  # type: ignore[no-untyped-def]
    fault = (
        "Memory access fault by GPU node-1 (Agent handle: 0x5581) on address 0x7f0000000000. Reason: Page not present."
    )
    (verdict,) = judged(probe(f"print({fault!r}, file=sys.stderr, flush=True); os.abort()"))
    assert verdict.status is Status.FAIL
    assert verdict.cause == "gpu-memory-fault"
    assert "'second'" in verdict.title
    assert "'first' went well" in verdict.detail
    assert any("Memory access fault" in evidence.text for evidence in verdict.evidence)


def test_a_hang_is_a_hang_and_wrong_numbers_are_wrong_numbers(probe) -> None:  # type: ignore[no-untyped-def]
    (hung,) = judged(probe("time.sleep(60)", timeout_s=1.0))
    assert hung.cause == "gpu-hang-or-reset"
    (wrong,) = judged(probe('say("error", "second", type="AssertionError", message="out: 1 of 9 wrong"); sys.exit(1)'))
    assert wrong.cause == "numerics-wrong"
    assert "1 of 9 wrong" in wrong.detail


@pytest.mark.parametrize(
    ("name", "words", "command"),
    [("SIGSEGV", "killed by SIGSEGV. ", "amdgpu"), ("SIGKILL", "Somebody else sent that", "oom")],
)
def test_a_child_that_dies_without_a_word_has_no_cause(probe, name: str, words: str, command: str) -> None:  # type: ignore[no-untyped-def]
    (verdict,) = judged(probe(f"os.kill(os.getpid(), signal.{name})"))
    assert (verdict.status, verdict.cause) == (Status.FAIL, None)
    assert words in verdict.detail
    assert command in verdict.fixes[0].commands[0]


def test_errors_are_told_in_two_figures(probe) -> None:  # type: ignore[no-untyped-def]
    told = (
        'say("end", "second", seconds=0.1, errors={"causal": {"dq": 0.000123456, "dk": 1.5}, "window": {"dq": 2e-07}})'
    )
    (verdict,) = judged(probe(f'{told}; say("begin", "third"); say("end", "third", error=0.031415)'))
    found = {evidence.source: evidence.text for evidence in verdict.evidence}
    assert found["largest error, second"] == "causal: dq 0.00012, dk 1.5; window: dq 2e-07"
    assert found["largest error, third"] == "0.031"


def test_without_a_gpu_it_is_never_called_a_success(probe) -> None:  # type: ignore[no-untyped-def]
    (verdict,) = judged(probe(END, devices=[None]), ())
    assert verdict.status is Status.SKIP
    assert "proves nothing about a GPU" in " ".join(verdict.title.split())


def test_a_python_that_is_not_there_or_cannot_start() -> None:
    (absent,) = launch_module.launch(LiveHost(), "/no/such/python", "smoke", STEPS, [0], 5)
    assert absent.steps == ()
    (verdict,) = judged([absent])
    assert verdict.status is Status.UNKNOWN
    (broken,) = launch_module.launch(LiveHost(), "/bin/false", "smoke", STEPS, [0], 5)
    assert states(broken) == ["died", "not reached", "not reached"]


@given(
    report=st.text(max_size=400),
    code=st.one_of(st.none(), st.integers(-20, 3)),
    problem=st.sampled_from([None, "timed out", "failed"]),
)
def test_any_report_can_be_read(report: str, code: int | None, problem: str | None) -> None:
    steps, _ = read_steps(report, STEPS, Ending(code, problem))
    assert [step.name for step in steps] == list(STEPS)


def test_a_variable_that_hides_devices_is_narrowed_never_widened() -> None:
    host = LiveHost(environ={**os.environ, "HIP_VISIBLE_DEVICES": "3, 6"})
    assert launch_module._restrict(host, "HIP_VISIBLE_DEVICES", 1) == "6"
    assert launch_module._restrict(LiveHost(environ={}), "HIP_VISIBLE_DEVICES", 1) == "1"
    assert isinstance(host.run(["true"]), CommandOutput)
