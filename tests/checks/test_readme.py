"""The screen that README shows is what `check` says of such a machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from healthy import rx7900xtx
from test_causes_python_world import cuda_torch

from fa_doctor import cli

README = Path(__file__).parents[2] / "README.md"


def test_the_screen_in_readme(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    machine = tmp_path / "machine"
    cuda_torch(rx7900xtx).open(machine)
    assert cli.run(["check", "--machine", str(machine)]) == 1
    said = capsys.readouterr().out
    block = README.read_text().partition("    $ fa-doctor check\n")[2].partition("\n\n## ")[0]
    shown = [line.removeprefix("    ").rstrip() for line in block.splitlines()]
    varies = ("fa-doctor 0", "...")  # which machine is read; what README leaves out
    for line in without_time(shown):
        assert line.strip().startswith(varies) or line in without_time(said.splitlines()), line


def without_time(lines: list[str]) -> list[str]:
    return [re.sub(r"; \d+\.\d+ s\.$", "", line) for line in lines]
