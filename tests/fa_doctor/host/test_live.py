"""The live host: what is there, what is absent and what may not be seen are told apart; nothing waits or leaks out."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fa_doctor.host import LiveHost, NodeKind, Problem
from fa_doctor.host.elf import NotElf, read_dynamic


@pytest.fixture
def host() -> LiveHost:
    return LiveHost(environ={"PATH": os.environ["PATH"]})


def test_files(tmp_path: Path, host: LiveHost) -> None:
    (tmp_path / "short").write_text("one\n")
    (tmp_path / "empty").touch()
    (tmp_path / "long").write_text("x" * 5000)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert host.read(f"{tmp_path}/short").text == "one\n"
    assert host.read_line(f"{tmp_path}/short") == "one"
    assert host.read(f"{tmp_path}/empty").text == ""
    cut = host.read(f"{tmp_path}/long", limit=100)
    assert cut.truncated
    assert cut.text == "x" * 100
    assert host.read(f"{tmp_path}/binary").text is not None
    assert host.read(f"{tmp_path}/none").problem is Problem.ABSENT
    assert host.read(f"{tmp_path}/short/below").problem is Problem.ABSENT
    assert host.read(f"{tmp_path}").problem is Problem.FAILED
    assert host.exists(f"{tmp_path}/none") is False


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, host: LiveHost) -> None:
    os.mkfifo(tmp_path / "pipe")
    started = time.monotonic()
    assert host.read(f"{tmp_path}/pipe").problem is Problem.FAILED
    assert host.elf(f"{tmp_path}/pipe") is Problem.FAILED
    assert time.monotonic() - started < 1


def test_a_loop_of_links_is_a_failure_not_an_absence(tmp_path: Path, host: LiveHost) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert host.read(f"{tmp_path}/a").problem is Problem.FAILED
    assert host.stat(f"{tmp_path}/a").problem is Problem.FAILED
    assert host.real_path(f"{tmp_path}/a") is None
    assert LiveHost(str(tmp_path)).read("/a").problem is Problem.FAILED


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_denied(tmp_path: Path, host: LiveHost) -> None:
    (tmp_path / "secret").touch(mode=0)
    assert host.read(f"{tmp_path}/secret").problem is Problem.DENIED


def test_another_root_resolves_its_own_links_and_never_leaves(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").symlink_to("/usr/lib/os-release")
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text("ID=inside\n")
    (tmp_path / "out").symlink_to("../../../../../../etc/passwd")
    host = LiveHost(str(tmp_path))
    assert host.read("/etc/os-release").text == "ID=inside\n"
    assert host.read("/out").problem is Problem.ABSENT
    assert host.real_path("/etc/os-release") == "/usr/lib/os-release"
    assert host.run(["true"]).problem is Problem.UNRECORDED
    assert host.user is None
    assert host.can_open("/etc/os-release") is None


def test_stat_of_a_device(host: LiveHost) -> None:
    found = host.stat("/dev/null")
    assert found.kind is NodeKind.CHARACTER_DEVICE
    assert found.device == (1, 3)
    assert host.can_open("/dev/null") is True


def test_folders_that_can_be_written(tmp_path: Path, host: LiveHost) -> None:
    assert host.can_write_folder(f"{tmp_path}/not/made/yet") is True
    assert list(tmp_path.iterdir()) == []
    assert host.can_write_folder("/proc/self") is False


def test_disk(tmp_path: Path, host: LiveHost) -> None:
    disk = host.disk(f"{tmp_path}/not/made/yet")
    assert disk is not None
    assert 0 <= disk.free_bytes <= disk.total_bytes
    assert disk.filesystem
    proc = host.disk("/proc/self")
    assert proc is not None
    assert proc.filesystem == "proc"


def test_a_tool_that_hung_once_is_not_asked_again(tmp_path: Path) -> None:
    tool = tmp_path / "rocminfo"
    tool.write_text("#!/bin/sh\nsleep 600\n")
    tool.chmod(0o755)
    host = LiveHost(environ={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert host.run(["rocminfo"], timeout_s=0.3).problem is Problem.TIMED_OUT
    started = time.monotonic()
    assert host.run(["rocminfo"], timeout_s=30).problem is Problem.TIMED_OUT
    assert time.monotonic() - started < 0.1


def test_elf_of_a_real_library(host: LiveHost) -> None:
    import ctypes.util

    found = host.elf(os.path.realpath(sys.executable))
    assert not isinstance(found, Problem)
    assert found.bits in (32, 64)
    assert found.interpreter
    assert any(name.startswith(("libc.", "libpython")) for name in found.needed)
    assert host.elf("/etc/passwd") is Problem.FAILED
    assert host.elf("/no/such/file") is Problem.ABSENT
    assert ctypes.util  # the import itself maps libc


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_elf_file_is_not_an_elf_file_and_no_crash(data: st.DataObject) -> None:
    import io

    whole = Path(os.path.realpath("/bin/true")).read_bytes()
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole)))]
    else:
        place = data.draw(st.integers(0, 2000))
        damaged = whole[:place] + data.draw(st.binary(min_size=1, max_size=60)) + whole[place + 60 :]
    try:
        found = read_dynamic(io.BytesIO(damaged))
    except NotElf:
        return
    assert isinstance(found.needed, tuple)


def test_mode_bits_are_permissions_only(tmp_path: Path, host: LiveHost) -> None:
    (tmp_path / "tool").touch()
    (tmp_path / "tool").chmod(0o640)
    found = host.stat(f"{tmp_path}/tool")
    assert found.mode == 0o640
    assert stat.S_IFMT(found.mode) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be")
def test_what_lies_in_a_folder_that_may_not_be_searched_is_unknown(tmp_path: Path) -> None:
    """A container started as a user whose HOME is root's: nothing in there is installed just because it is hidden."""
    (tmp_path / "closed").mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    script = (
        "import os, sys; os.setgid(54321); os.setuid(54321)\n"
        "from fa_doctor.host import LiveHost, Problem\n"
        f"found = LiveHost(environ={{}}).stat({str(tmp_path / 'closed/lib')!r})\n"
        "sys.exit(0 if found.exists is None and found.problem is Problem.DENIED else 1)"
    )
    import subprocess

    # The modules are imported before the user changes: the checkout itself may not be readable to others.
    preload = "import fa_doctor.host\n"
    done = subprocess.run(
        [sys.executable, "-c", preload + script], capture_output=True, text=True, timeout=60, check=False
    )
    if "Permission denied" in done.stderr:
        pytest.skip("the folders above the temporary one are closed to others")
    assert done.returncode in (0, 1), done.stderr
    parents_open = all(parent.stat().st_mode & 0o001 for parent in tmp_path.parents)
    assert done.returncode == 0 or not parents_open
