"""The speed probe's verdict, over what a GPU's child might have measured."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

from fa_doctor.checks.kernel_speed import AUTOTUNE, attention
from fa_doctor.diagnosis.model import Status, Verdict
from fa_doctor.facts.gpus import Gpu, Gpus
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.probes import Ending, Probe, Step, StepState
from fa_doctor.probe.points import SPEED_STEPS, rows_of, speed_points, speed_table
from fa_doctor.report.table import print_table

QUIET = {"unfused": 50.0, "sdpa": 150.0, "bundled": 160.0}


def measured(tflops: dict[str, float | str], spread: float = 1.05, product: float = 700.0) -> Probe:
    """A speed probe in which each provider reached the same at every point, or failed with a message."""
    points: list[dict[str, Any]] = []
    for point in speed_points():
        value = tflops[point["provider"]]
        found = {"error": value} if isinstance(value, str) else {"ms": 1.0, "low": 1.0, "high": spread, "tflops": value}
        points.append({**point, **found})
    details: list[dict[str, Any]] = [{}, {}, {"tflops": {"float16": product}}, {"measured": points}]
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
    tuned = judged(slow, variables={AUTOTUNE: "TRUE"})
    assert (tuned.status, tuned.cause, tuned.fixes) == (Status.WARN, None, ())
    assert "Nothing that was read" in tuned.detail
    overridden = dataclasses.replace(Gpus((Gpu(0, "gfx1032"),), 1), override="10.3.0")
    assert "HSA_OVERRIDE_GFX_VERSION=10.3.0" in judged(slow, gpus=overridden).detail


def test_a_fallback_to_plain_arithmetic_is_named() -> None:
    verdict = judged(measured({"unfused": 50.0, "sdpa": 51.0, "bundled": 45.0}), variables={AUTOTUNE: "TRUE"})
    assert verdict.cause == "slow-fallback"


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
