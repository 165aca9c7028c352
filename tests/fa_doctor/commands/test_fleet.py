"""Many machines' reports as one: what fails and where, who is not like the others, what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from healthy import mi300x
from staged_machine import Staged, examine
from test_causes_python_world import cuda_torch

from fa_doctor.cli import run
from fa_doctor.level import Level
from fa_doctor.report import document


def put_report(machine: Staged, path: Path) -> None:
    found, findings = examine(machine, path.with_suffix(""))
    path.write_text(json.dumps(document.build(found, findings, Level.QUICK, 0.1)))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three healthy nodes, one with a CUDA torch, and one whose report was cut off."""
    built, folder = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("reports")
    for name in ("node01", "node02", "node03"):
        put_report(mi300x(), built / f"{name}.json")
    put_report(cuda_torch(), built / "node04.json")
    for path in built.glob("*.json"):
        (folder / path.name).write_text(path.read_text())
    (folder / "node05.json").write_text((folder / "node04.json").read_text()[:2000])
    return folder


def fleet(capsys: pytest.CaptureFixture[str], *paths: str, code: int) -> dict[str, Any]:
    assert run(["fleet", *paths, "--format", "json"]) == code
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    return made


def test_what_fails_and_where(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = fleet(capsys, str(reports), code=1)
    assert made["schema"] == "fa-doctor/fleet/1"
    assert made["summary"] == {"pass": 3, "fail": 1, "unreadable": 1}
    states = {machine["name"]: machine["status"] for machine in made["machines"]}
    assert states["node04"] == "fail"
    assert states["node05"] == "unreadable"
    (failing,) = (finding for finding in made["findings"] if finding["status"] == "fail")
    assert (failing["id"], failing["machines"]) == ("TOR101", ["node04"])


def test_who_is_not_like_the_others(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = fleet(capsys, str(reports), code=1)
    odd = {difference["what"]: difference for difference in made["differences"]}
    assert odd["torch.build"]["usual"] == "rocm"
    assert odd["torch.build"]["usual_count"] == 3
    assert odd["torch.build"]["others"] == {"cuda": ["node04"]}
    assert "gpus.gfx" not in odd  # all have the same GPUs


def test_the_screen(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fleet", str(reports)]) == 1
    said = capsys.readouterr().out
    assert all(len(line) <= 80 for line in said.splitlines())
    assert said.index("TOR101") < said.index("node05  its report cannot be read") < said.index("node04: not like")
    assert "torch.build: cuda (elsewhere rocm)" in said
    assert said.endswith("5 machines: 1 failing, 1 unreadable, 3 healthy.\n")


def test_healthy_ones_and_an_unreadable_one(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    healthy = [str(reports / f"node0{number}.json") for number in (1, 2, 3)]
    assert fleet(capsys, *healthy, code=0)["findings"] == []
    assert fleet(capsys, *healthy, str(reports / "node05.json"), code=3)["summary"] == {"pass": 3, "unreadable": 1}


def test_recorded_machines_and_names_that_agree(
    reports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mi300x().open(tmp_path / "racks" / "node01")
    made = fleet(capsys, str(tmp_path / "racks"), str(reports / "node01.json"), code=0)
    names = {machine["name"] for machine in made["machines"]}
    assert names == {str(tmp_path / "racks" / "node01"), str(reports / "node01.json")}


@pytest.mark.parametrize("path", ["nothing-here", "."])
def test_a_path_with_nothing(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["fleet", path]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
