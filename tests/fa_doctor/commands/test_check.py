"""`fa-doctor check` over every machine there is: reports that hold to their schema, and screens that can be read."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from healthy import mi300x, rx7900xtx, wsl
from staged_machine import Staged, examine

from fa_doctor.diagnosis.check import all_checks
from fa_doctor.diagnosis.examine import examine as examine_host
from fa_doctor.host import LiveHost, open_recording
from fa_doctor.level import Level
from fa_doctor.report import document, formats, text


def recorded(shared: Path) -> list[Path]:
    return sorted(path.parent for path in (shared / "machines").glob("*/machine.json"))


def made(folder: Path, level: Level = Level.STANDARD) -> document.Document:
    machine, findings = examine_host(open_recording(str(folder)), all_checks(), level, 60.0)
    return document.build(machine, findings, level, 0.1)


def shown(report: document.Document) -> str:
    stream = io.StringIO()
    text.write(report, stream)
    return stream.getvalue()


def test_reports_of_recorded_machines(shared: Path) -> None:
    """Each holds to the schema, none comes from a broken part of ours, and each fits on a screen and a half."""
    validator = jsonschema.Draft202012Validator(document.schema())
    folders = recorded(shared)
    assert folders
    for folder in folders:
        report = made(folder)
        assert list(validator.iter_errors(json.loads(formats.render(report, "json")))) == [], folder.name
        assert report["machine"]["faults"] == [], folder.name
        assert not [finding for finding in report["findings"] if "itself broke" in finding["title"]], folder.name
        lines = shown(report).splitlines()
        assert len(lines) < 60, folder.name
        commands = {
            line
            for finding in report["findings"]
            for fix in finding["fixes"]
            for line in "\n".join(fix["commands"]).splitlines()
        }
        assert not [line for line in lines if len(line) > 80 and line.strip() not in commands], folder.name


NOT_USABLE = {
    "nvidia-rtx4080": ("GPU001", "NVIDIA", "CUDA"),
    "intel-igpu-only": ("GPU001", "Intel", "ROCm cannot use it"),
    "hd7870-radeon-driver": ("GPU001", "Pitcairn", "too old"),
    "vega10-mi25-old-kernel": ("GPU003", "gfx900", "too old"),
    "wsl-rx7600-no-adapter": ("GPU001", "WSL", "Windows driver"),
    "container-without-dev-kfd": ("CON001", "/dev/kfd", "--device=/dev/kfd"),
}


@pytest.mark.parametrize("name", NOT_USABLE)
def test_without_a_usable_gpu_the_first_thing_said_is_what_is_there_instead(name: str, shared: Path) -> None:
    report = made(shared / "machines" / name)
    id, *words = NOT_USABLE[name]
    screen = shown(report)
    first = screen.split("\n\n")[1]
    assert first.startswith(f"FAIL    {id}")
    said = " ".join(first.split())
    assert all(word in said for word in words), said
    assert formats.exit_code(report) == 1
    assert f"`fa-doctor checks {id}` explains {id}" in screen


def test_sixty_three_devices_are_one_line(shared: Path) -> None:
    screen = shown(made(shared / "machines" / "mi300x-x8-cpx"))
    assert "63 x Instinct MI300X (gfx942, 38 CU, CPX)" in screen
    assert "8 cards, 63 compute devices" in screen
    assert screen.count("MI300X") <= 3


def test_what_is_not_known_is_a_line_for_each_reason(shared: Path) -> None:
    report = made(shared / "machines" / "rx9070xt-drm")
    screen = shown(report)
    assert screen.count("the environment variables are not known") == 1
    assert "Healthy" not in screen, "with most of it unseen"
    bare = [one for one in report["findings"] if one["status"] == "unknown"]
    assert all(one["id"] in screen for one in bare)


@pytest.mark.parametrize("build", [mi300x, rx7900xtx, wsl], ids=lambda build: build.__name__)
def test_reports_of_healthy_machines(build: Callable[[], Staged], tmp_path: Path) -> None:
    machine, findings = examine(build(), tmp_path)
    report = document.build(machine, findings, Level.QUICK, 0.1)
    jsonschema.validate(report, document.schema())
    assert formats.exit_code(report) == 0
    assert "\nHealthy: " in shown(report)


@pytest.mark.parametrize("level", [Level.QUICK, Level.STANDARD], ids=["quick", "standard"])
def test_this_machine(level: Level) -> None:
    machine, findings = examine_host(LiveHost(), all_checks(), level, 60.0)
    report = document.build(machine, findings, level, 0.1)
    jsonschema.validate(json.loads(formats.render(report, "json")), document.schema())
    assert report["machine"]["faults"] == []
    if not os.path.exists("/dev/kfd"):
        assert formats.exit_code(report) == 1
