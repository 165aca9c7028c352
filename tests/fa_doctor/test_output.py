"""Where reports go: a file is replaced whole, a device or a pipe is written to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fa_doctor.commands.options import write_output
from fa_doctor.errors import UsageProblem


def test_a_device_stays_a_device() -> None:
    write_output("x\n", "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_file_is_replaced_and_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_output("new\n", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.parametrize("path", ["/no/such/folder/report", "/proc/self/report", "/"])
def test_where_nothing_can_be_written_is_a_usage_problem(path: str) -> None:
    with pytest.raises(UsageProblem):
        write_output("x\n", path)
