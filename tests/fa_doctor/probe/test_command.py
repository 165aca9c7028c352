"""What `fa-doctor probe` says and returns, over children that are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result

from fa_doctor.commands.probe import command
from fa_doctor.errors import UsageProblem
from fa_doctor.facts.probes import Ending, Probe, Step, StepState
from fa_doctor.probe import gather as probing
from fa_doctor.probe.gather import SMOKE_STEPS
from fa_doctor.probe.points import SPEED_STEPS, speed_points


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command with children that all end well (or in `failing`), on the devices given."""
    pytest.importorskip("torch")

    def invoke(*argv: str, devices: list[int | None], failing: str = "") -> Result:
        def launch(host: Any, python: str, mode: str, steps: Any, on: Any, *_: Any, **__: Any) -> list[Probe]:
            named = SMOKE_STEPS if mode == "smoke" else SPEED_STEPS
            points = [
                {
                    **point,
                    "ms": 1.0,
                    "low": 1.0,
                    "high": 1.1,
                    "tflops": 300.0 if point["provider"] == "bundled" else 100.0,
                }
                for point in speed_points()
            ]
            details = {"measure attention": {"notes": points}}
            done = tuple(
                Step(name, StepState.DIED if name == failing else StepState.OK, 0.1, details.get(name, {}))
                for name in named
            )
            return [Probe(mode, device, done, Ending(-6 if failing else 0), "") for device in on]

        monkeypatch.setattr(probing, "launch", launch)
        monkeypatch.setattr(probing, "probed_devices", lambda *_: devices)
        return CliRunner().invoke(command, ["--python", sys.executable, *argv], standalone_mode=False)

    return invoke


def test_without_a_gpu_it_is_interpreted_and_no_verdict(run: Callable[..., Result]) -> None:
    result = run(devices=[None])
    said = " ".join(result.stdout.split())
    assert result.return_value == 3
    assert "Could not be decided" in said
    assert "proves nothing about a GPU" in said
    assert "Healthy" not in said
    assert said.count("proves nothing about a GPU") == 1
    assert json.loads(run("--format", "json", devices=[None]).stdout)["summary"]["status"] == "unknown"


def test_on_a_gpu_it_names_what_passed_and_prints_the_table(run: Callable[..., Result]) -> None:
    result = run("--speed", devices=[0])
    assert result.return_value == 0, result.stdout
    assert "PASS    KER001" in result.stdout
    assert "length 2048, forward" in result.stdout
    assert "+200%" in result.stdout
    assert "batch 32, backward" in result.stdout


def test_a_child_that_dies_fails_the_command(run: Callable[..., Result]) -> None:
    result = run(devices=[0, 1], failing="attention forward")
    assert result.return_value == 1
    assert result.stdout.count("FAIL    KER001") == 2


def test_a_device_that_is_not_there_is_wrong_usage(run: Callable[..., Result]) -> None:
    for word in ("7", "-1", "gpu"):
        result = run("--device", word, devices=[0, 1])
        assert isinstance(result.exception, UsageProblem | SystemExit) or result.exit_code == 2, (word, result)


def test_a_python_that_does_not_start_is_not_said_to_lack_torch() -> None:
    for python, words in (("/no/such/python", "no such program"), ("/bin/false", "does not start")):
        result = CliRunner().invoke(command, ["--python", python], standalone_mode=False)
        assert isinstance(result.exception, UsageProblem)
        assert words in str(result.exception), result.exception


def test_a_search_for_tiles_and_other_stand_ins_are_kept_out_of_the_smoke_test(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    class Host:
        environ: ClassVar = {
            "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE": "TRUE",
            "TRITON_INTERPRET": "1",
            "FA_DOCTOR_KERNELS": "reference",
        }

        def run(self, argv: Any, *, env: dict[str, str], **_: Any) -> Any:
            from fa_doctor.host import CommandOutput

            seen.update(env)
            return CommandOutput(tuple(argv), 0)

    probing.smoke(Host(), "python3", [0], 5.0, None)  # type: ignore[arg-type]
    assert seen["FLASH_ATTENTION_TRITON_AMD_AUTOTUNE"] == "FALSE"
    assert seen["TRITON_INTERPRET"] == "0"
    assert seen["FA_DOCTOR_KERNELS"] == "triton"
