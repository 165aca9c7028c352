"""A snapshot gives the findings of the machine it was made on and none of its secrets; diff names what broke first."""

from __future__ import annotations

import json
import os
import socket
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from healthy import mi300x, rx7900xtx
from staged_machine import Staged

from fa_doctor.cli import run

SECRETS = {
    "HF_TOKEN": "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "PIP_INDEX_URL": "https://me:hunter2hunter2@packages.example/simple",
    "LD_LIBRARY_PATH": "/opt/rocm/lib:/home/somebody/lib",
}


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["check", "--format", "json", *arguments]) in (0, 1)
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    return made


def findings(made: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one["id"], one["status"], one["title"]) for one in made["findings"]]


@pytest.mark.parametrize("level", ["quick", "standard"])
def test_a_snapshot_of_this_machine_gives_the_same_findings(
    level: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    python = ["--python", sys.executable, "--timeout", "60"]
    live = report(capsys, "--level", level, *python)
    folder = tmp_path / "snapshot"
    assert run(["snapshot", str(folder), "--level", level, *python]) == 0
    capsys.readouterr()
    again = report(capsys, "--level", level, "--machine", str(folder), *python)
    if Path.home() != Path("/root"):  # the home folder is renamed in a snapshot, and some titles name paths
        assert [one[:2] for one in findings(again)] == [one[:2] for one in findings(live)]
    else:
        assert findings(again) == findings(live)
    for part in ("gpus", "gpu_cards", "driver", "torch", "triton", "flash_attn", "wsl", "os"):
        assert again["machine"][part] == live["machine"][part], part

    written = [(path, path.read_bytes()) for path in folder.rglob("*") if path.is_file()]
    assert written
    hidden = [value for name, value in SECRETS.items() if name != "LD_LIBRARY_PATH"] + ["hunter2", "somebody"]
    host = socket.gethostname()
    if len(host) > 3 and host != "localhost":
        hidden.append(host)
    for word in hidden:
        assert not [path for path, content in written if word.encode() in content], word
    assert not [path for path, _ in written if "somebody" in str(path)]

    with tarfile.open(tmp_path / "snapshot.tar.gz", "w:gz") as archive:
        archive.add(folder, "snapshot")
    packed = report(capsys, "--level", level, "--machine", str(tmp_path / "snapshot.tar.gz"), *python)
    assert findings(packed) == findings(again)


def test_a_snapshot_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine")
    assert run(["snapshot", str(tmp_path), "--level", "quick"]) == 2
    assert (tmp_path / "mine").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["mine"]
    capsys.readouterr()


def no_flag() -> Staged:
    machine = mi300x()
    del machine.environ["FLASH_ATTENTION_TRITON_AMD_AUTOTUNE"]
    return machine


def cuda_torch() -> Staged:
    machine = mi300x()
    machine.files = {path.replace("2.9.1+rocm6.4", "2.9.1+cu128"): text for path, text in machine.files.items()}
    for path, text in machine.files.items():
        if path.endswith(("torch-2.9.1+cu128.dist-info/METADATA", "torch/version.py")):
            text = text.decode() if isinstance(text, bytes) else text
            machine.files[path] = text.replace("2.9.1+rocm6.4", "2.9.1+cu128").replace("hip: ", "was: ")
    return machine


def override() -> Staged:
    machine = mi300x()
    machine.environ["HSA_OVERRIDE_GFX_VERSION"] = "11.0.0"
    return machine


def hidden_gpus() -> Staged:
    machine = mi300x()
    machine.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    return machine


@pytest.mark.parametrize(
    ("broken", "first"),
    [(no_flag, "FAT005"), (cuda_torch, "TOR101"), (override, "GPU004"), (hidden_gpus, "GPU006")],
    ids=lambda value: value.__name__ if callable(value) else value,
)
def test_diff_names_the_broken_thing_first(
    broken: Callable[[], Staged], first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mi300x().open(tmp_path / "good")
    broken().open(tmp_path / "bad")
    good, bad = str(tmp_path / "good"), str(tmp_path / "bad")
    assert run(["diff", good, bad, "--format", "json"]) == 1
    rows = json.loads(capsys.readouterr().out)["differences"]
    assert rows[0]["what"] == f"finding {first}"
    assert rows[0]["left"].startswith("pass")
    assert run(["diff", good, bad]) == 1
    assert capsys.readouterr().out.startswith(f"finding {first}\n  A  pass")
    assert run(["diff", good, good]) == 0
    assert capsys.readouterr().out == "Nothing differs.\n"


def test_diff_of_reports_and_of_other_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mi300x().open(tmp_path / "server")
    rx7900xtx().open(tmp_path / "desktop")
    for name in ("server", "desktop"):
        made = report(capsys, "--machine", str(tmp_path / name))
        (tmp_path / f"{name}.json").write_text(json.dumps(made))
    sides = [str(tmp_path / "server.json"), str(tmp_path / "desktop")]
    assert run(["diff", *sides, "--format", "json"]) == 1
    rows = {row["what"]: row for row in json.loads(capsys.readouterr().out)["differences"]}
    assert (rows["gpus.gfx"]["left"], rows["gpus.gfx"]["right"]) == ("gfx942", "gfx1100")
    assert rows["gpus.count"]["left"] == "8"
