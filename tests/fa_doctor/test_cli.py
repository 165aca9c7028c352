"""The command line as a whole: version, help, exit codes."""

from __future__ import annotations

import importlib
import subprocess
import sys

from fa_doctor import __version__
from fa_doctor.cli import COMMANDS


def fa_doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fa_doctor", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_version() -> None:
    done = fa_doctor("--version")
    assert done.returncode == 0
    assert done.stdout.strip() == f"fa-doctor {__version__}"


def test_an_unknown_command_is_a_usage_error() -> None:
    done = fa_doctor("heal")
    assert done.returncode == 2
    assert "heal" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_has_help_that_begins_with_its_summary() -> None:
    for name, (module, summary) in COMMANDS.items():
        command = importlib.import_module(module).command
        assert command.name == name
        assert command.help is not None
        assert command.help.split("\n\n")[0].replace("\n", " ").strip() == summary
