"""The speed probe's verdict, over what a GPU's child might have measured."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from healthy import mi300x

from fa_doctor.checks.kernel_speed import AUTOTUNE, attention
from fa_doctor.diagnosis.gather import gather
from fa_doctor.diagnosis.model import Status, Verdict
from fa_doctor.facts.gpus import Gpu, Gpus
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.probes import Ending, Probe, Step, StepState
from fa_doctor.level import Level
from fa_doctor.probe.points import SPEED_STEPS, rows_of, speed_points, speed_table
from fa_doctor.probe.result import read_steps
from fa_doctor.report.table import print_table

QUIET = {"unfused": 50.0, "sdpa": 150.0, "bundled": 160.0}


def measured(tflops: dict[str, float | str], spread: float = 1.05, product: float = 700.0) -> Probe:
    """A speed probe in which each provider reached the same at every point, or failed with a message."""
    points: list[dict[str, Any]] = []
    for point in speed_points():
        value = tflops[point["provider"]]
        found: dict[str, Any] = {"error": value}
        if not isinstance(value, str):
            found = {"ms": 100 / value, "low": 100 / value, "high": 100 * spread / value, "tflops": value}
        points.append({**point, **found})
    details: list[dict[str, Any]] = [{}, {}, {"tflops": {"float16": product}}, {"notes": points}]
    steps = (Step(name, StepState.OK, 1.0, told) for name, told in zip(SPEED_STEPS, details, strict=True))
    return Probe("speed", 0, tuple(steps), Ending(0), "")


def judged(probe: Probe, **machine: Any) -> Verdict:
    gpus = Gpus((Gpu(0, "gfx942", name="AMD Instinct MI300X"),), 1)
    verdicts = attention(Machine("live", "x", **{"gpus": gpus, "variables": {}, **machine, "probes": (probe,)}))
    assert isinstance(verdicts, list)
    return verdicts[0]


def test_fast_is_healthy_and_says_how_fast() -> None:
    verdict = judged(measured(QUIET))
    assert verdict.status is Status.PASS
    assert "3.2 to 3.2 times as fast as unfused" in verdict.title
    assert any("+220%" in evidence.text for evidence in verdict.evidence)


def test_slower_names_what_it_is_slower_than_and_only_reasons_that_were_read() -> None:
    slow = measured({**QUIET, "bundled": 40.0})
    verdict = judged(slow)
    assert (verdict.status, verdict.cause) == (Status.WARN, "slow-no-autotune")
    assert "0.27 times the speed of sdpa" in verdict.title
    assert any(AUTOTUNE in command for fix in verdict.fixes for command in fix.commands)
    for value in ("TRUE", "1", "on"):
        tuned = judged(slow, variables={AUTOTUNE: value})
        assert (tuned.status, tuned.cause, tuned.fixes) == (Status.WARN, None, ())
        assert "Nothing that was read" in tuned.detail
    overridden = dataclasses.replace(Gpus((Gpu(0, "gfx1032"),), 1), override="10.3.0")
    both = judged(slow, gpus=overridden)
    assert "HSA_OVERRIDE_GFX_VERSION=10.3.0" in both.detail
    assert both.cause is None  # one of two, and nobody knows which


CARD = "/sys/class/drm/card1/device"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({f"{CARD}/hwmon/hwmon3/power1_cap": "400000000\n", f"{CARD}/hwmon/hwmon3/power1_cap_default": "750000000\n"}, "capped at 400 W of 750"),
        ({f"{CARD}/hwmon/hwmon3/power1_cap": "740000000\n", f"{CARD}/hwmon/hwmon3/power1_cap_default": "750000000\n"}, ""),
        ({f"{CARD}/power_dpm_force_performance_level": "low\n"}, "performance level is low"),
        ({f"{CARD}/power_dpm_force_performance_level": "high\n"}, ""),
        ({f"{CARD}/current_link_width": "4\n"}, "4 of 16 lanes"),
        ({f"{CARD}/current_link_speed": "8.0 GT/s PCIe\n"}, "8 of 32 GT/s"),
        ({f"{CARD}/hwmon/hwmon3/temp2_input": "103000\n", f"{CARD}/hwmon/hwmon3/temp2_crit": "105000\n"}, "at 103 C"),
        ({"/sys/class/kfd/kfd/proc/4711/pasid": "32770\n", "/proc/4711/comm": "python3\n"}, "python3 (4711)"),
    ],
    ids=["power", "power, as it should be", "level", "level, for speed", "lanes", "link", "heat", "another process"],
)  # fmt: skip
def test_reasons_are_read_from_the_machine(tmp_path: Path, files: dict[str, str], words: str) -> None:
    staged = mi300x(1)
    staged.files |= files
    machine = gather(staged.open(tmp_path), level=Level.QUICK)
    machine = dataclasses.replace(machine, variables={AUTOTUNE: "TRUE"}, probes=(measured({**QUIET, "bundled": 40.0}),))
    verdicts = attention(machine)
    assert isinstance(verdicts, list)
    (verdict,) = verdicts
    if words:
        assert words in verdict.detail
    else:
        assert "Nothing that was read" in verdict.detail
    assert verdict.cause is None


def test_what_lies_within_the_spread_of_single_times_is_not_called_slower() -> None:
    slightly = {**QUIET, "bundled": 130.0}
    assert judged(measured(slightly, spread=1.5)).status is Status.PASS
    assert "than single times differ" in judged(measured(slightly, spread=1.5)).title
    assert judged(measured(slightly, spread=1.1)).status is Status.WARN


def test_a_fallback_to_plain_arithmetic_is_named_and_not_laid_on_the_kernels() -> None:
    verdict = judged(measured({"unfused": 50.0, "sdpa": 51.0, "bundled": 160.0}))
    assert (verdict.status, verdict.cause) == (Status.WARN, "slow-fallback")
    assert "scaled_dot_product_attention" in verdict.title
    slow = judged(measured({"unfused": 50.0, "sdpa": 51.0, "bundled": 25.0}), variables={AUTOTUNE: "TRUE"})
    assert slow.cause is None


def test_what_was_measured_before_the_deadline_is_shown() -> None:
    report = "".join(
        json.dumps(
            {"event": "note", "step": "measure attention", **point, "ms": 1.0, "low": 1.0, "high": 1.0, "tflops": 9.0}
        )
        + "\n"
        for point in speed_points()[:3]
    )
    begun = "".join(json.dumps({"event": "begin", "step": name}) + "\n" for name in SPEED_STEPS)
    ending = Ending(-9, "timed out")
    steps, garbage = read_steps(begun + report, SPEED_STEPS, ending)
    assert garbage == 0
    verdict = judged(Probe("speed", 0, steps, ending, ""))
    assert verdict.status is Status.UNKNOWN
    assert any("bundled 9.0 TFLOP/s" in evidence.text for evidence in verdict.evidence)


def test_a_noisy_machine_gets_no_verdict() -> None:
    verdict = judged(measured({**QUIET, "bundled": 40.0}, spread=2.5))
    assert verdict.status is Status.UNKNOWN
    assert "factor of 2.5" in verdict.title


def test_a_card_far_below_its_peak_is_a_finding() -> None:
    verdict = judged(measured(QUIET, product=200.0))
    assert verdict.status is Status.WARN
    assert "200 TFLOP/s" in verdict.title


def test_what_could_not_be_timed_is_not_passed() -> None:
    assert judged(measured({**QUIET, "unfused": "OutOfMemoryError: HIP out of memory"})).status is Status.UNKNOWN
    died = Probe("speed", 0, (Step(SPEED_STEPS[0], StepState.DIED),), Ending(-11), "")
    verdict = judged(died)
    assert verdict.status is Status.UNKNOWN
    assert "SIGSEGV" in verdict.title


def test_the_table_has_a_row_for_each_point_and_is_never_wrapped() -> None:
    table = speed_table(measured({**QUIET, "sdpa": "RuntimeError: no"}))
    assert table is not None
    header, rows = table
    assert len(rows) == len(rows_of(measured(QUIET))) == 8
    assert rows[0] == ["length 512, forward", "50.0", "failed", "160.0", "+220%", "23%", "1.05"]
    stream = io.StringIO()
    print_table(stream, header, rows)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 9
    assert len({len(line.rstrip()) for line in lines}) == 1
    assert speed_table(Probe("speed", 0, (), Ending(1), "")) is None
