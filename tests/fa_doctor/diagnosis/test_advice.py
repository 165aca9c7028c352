"""Advice is filled in for the machine at hand, and on Windows only what can be typed there is given."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fa_doctor.diagnosis.advice import fixes_for, question, typed_on_windows
from fa_doctor.diagnosis.conditions import FactValue
from fa_doctor.diagnosis.context import context_from_mapping
from fa_doctor.diagnosis.derived import derive
from fa_doctor.diagnosis.failures import Failure, knowledge

FAILURES = {failure.id: failure for failure in knowledge().failures}
ON_WINDOWS = {"gfx": "gfx1201", "os": "Windows 11", "torch": "2.9.1+rocm7.1"}


def facts_of(machine: dict[str, Any]) -> dict[str, FactValue]:
    context = context_from_mapping(machine)
    derive(context)
    return context.values()


def commands(failure: str, machine: dict[str, Any], evidence: str = "") -> list[str]:
    return [line for fix in fixes_for(FAILURES[failure], facts_of(machine), evidence) for line in fix.commands]


def test_companions_are_those_of_the_installed_torch_and_its_index() -> None:
    asked = commands("cuda-companion", {"torch": "2.9.1+rocm6.4", "gfx": "gfx942", "os": "Ubuntu 24.04"})
    assert any("'torch==2.9.1'" in line and line.endswith("/rocm6.4") for line in asked)


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_on_windows_no_advice_is_for_a_linux_shell(failure: Failure) -> None:
    fixes = fixes_for(failure, facts_of(ON_WINDOWS), "flash attention image compose avc")
    assert fixes
    for line in (line for fix in fixes for line in (*fix.commands, *(fix.undo or ()))):
        assert not re.search(
            r"\b(?:sudo|export|unset|apt)\b|\$\(|/dev/|/opt/|HSA_OVERRIDE|download\.pytorch\.org", line
        )
        assert not re.match(r"[A-Z_]+=", line)


def test_variables_and_quotes_as_cmd_takes_them() -> None:
    assert "set FLASH_ATTENTION_TRITON_AMD_ENABLE=TRUE" in commands("build-took-cuda-path", ON_WINDOWS)
    assert any('"flash-attn>=2.8.3"' in line for line in commands("build-took-cuda-path", ON_WINDOWS))
    assert commands("aiter-unfit", ON_WINDOWS)[:2] == ["set VLLM_ROCM_USE_AITER=0", "set SGLANG_USE_AITER=0"]


def test_an_override_is_no_advice_where_it_has_no_effect() -> None:
    apu = {"gfx": "gfx1103"}
    assert any("HSA_OVERRIDE" in line for line in commands("arch-without-code", {**apu, "os": "Fedora 42"}))
    assert not any("HSA_OVERRIDE" in line for line in commands("arch-without-code", {**apu, "os": "Windows 11"}))


def test_wsl_of_a_recent_rocm_is_told_to_look_for_the_gpu() -> None:
    recent = {"wsl": True, "rocm": "7.2.1", "gfx": "gfx1201"}
    fixes = fixes_for(FAILURES["wsl-runtime"], facts_of(recent))
    assert "export HSA_ENABLE_DXG_DETECTION=1" in fixes[0].commands
    assert "export HSA_ENABLE_DXG_DETECTION=1" not in commands("wsl-runtime", {**recent, "rocm": "6.4.2"})


def test_a_question_that_cannot_be_typed_is_not_asked() -> None:
    run = "{python} -m pip list | grep -i triton"
    assert question(run, facts_of({"os": "Ubuntu 24.04"})) == "python -m pip list | grep -i triton"
    assert question(run, facts_of(ON_WINDOWS)) is None
    assert question("python -c 'print(\"x\")'", facts_of(ON_WINDOWS)) == "python -c \"print('x')\""


def test_a_comment_does_not_become_part_of_a_value_on_windows() -> None:
    assert typed_on_windows(["export MIOPEN_FIND_MODE=2    # the fast search"]) == (
        "set MIOPEN_FIND_MODE=2",
        "rem the fast search",
    )
