"""Recorded machines: what is not recorded is unknown, not absent; what was recorded comes back as it was."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from pathlib import Path

import pytest

from fa_doctor.errors import UsageProblem
from fa_doctor.host import LiveHost, NodeKind, Problem, RecordedHost, open_recording
from fa_doctor.host.recorder import RecordingHost
from fa_doctor.host.recording import output_name


def test_missing_is_not_recorded_unless_something_says_absent(tmp_path: Path) -> None:
    (tmp_path / "sysroot/sys").mkdir(parents=True)
    (tmp_path / "sysroot/sys/here").write_text("1\n")
    (tmp_path / "devices.txt").write_text(
        "absent\t/dev/kfd\tls: No such file\nabsent\t/dev/dri\t\npresent\t/dev/dxg\tcrw-rw---- root 109 10,258\n"
    )
    host = RecordedHost(tmp_path)
    assert host.read("/sys/here").text == "1\n"
    assert host.read("/sys/other").problem is Problem.UNRECORDED
    assert host.exists("/sys/other") is None
    assert host.exists("/dev/kfd") is False
    assert host.exists("/dev/dri/renderD128") is False
    assert host.can_open("/dev/kfd") is False
    found = host.stat("/dev/dxg")
    assert (found.kind, found.mode, found.uid, found.gid) == (NodeKind.CHARACTER_DEVICE, 0o660, 0, 109)
    assert host.can_open("/dev/dxg") is None
    assert host.list("/dev").names == ("dxg",)
    assert host.environ is None
    assert host.run(["rocminfo"]).problem is Problem.UNRECORDED


def test_outputs_by_command() -> None:
    assert output_name(["rocminfo"]) == "rocminfo"
    assert output_name(["/opt/rocm/bin/amd-smi", "static", "--json"]) == "amd-smi-static-json"
    assert output_name(["lspci", "-nn", "-d", "1002:"]) == "lspci-nn-d-1002_"


def test_a_machine_of_the_collection(shared: Path) -> None:
    host = open_recording(str(shared / "machines/rx7900xtx-dkms"))
    assert "gfx1100" in host.run(["rocminfo"]).stdout
    assert host.run(["rocminfo"]).returncode is None


def test_what_was_recorded_comes_back(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin/mytool"
    tool.write_text("#!/bin/sh\necho out $1; echo err >&2; exit 3\n")
    tool.chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwxyz",
        "SHELL": "/bin/sh",
    }
    live = RecordingHost(LiveHost(environ=environ))
    paths = ["/etc/os-release", "/no/such/file", "/etc"]

    def ask(host: RecordingHost | RecordedHost) -> list[object]:
        answers: list[object] = [host.read(path) for path in paths]
        answers += [host.list("/etc"), host.list("/nowhere"), host.stat("/dev/null"), host.stat("/nowhere")]
        answers += [host.real_path("/proc/self/exe"), host.can_open("/dev/null"), host.can_write_folder("/tmp")]
        answers += [host.elf("/bin/true"), host.elf("/etc/passwd"), host.which("sh"), host.which("nosuchtool")]
        for argv in (["mytool", "a"], ["mytool", "b"], ["nosuchtool"]):
            out = host.run(argv)
            answers += [(out.returncode, out.stdout, out.stderr, out.problem)]
        assert host.environ is not None
        answers += [host.environ.get("HF_TOKEN") is not None, host.environ.get("NOT_SET"), host.user]
        disk = host.disk("/")
        answers.append(disk)
        return answers

    before = ask(live)
    live.write(tmp_path / "machine")
    after = ask(RecordedHost(tmp_path / "machine"))
    assert after == before
    text = (tmp_path / "machine/recording.json").read_text()
    assert "hf_abcdef" not in text
    assert "SHELL" not in text, "a variable that nothing asked for is not recorded"
    with pytest.raises(UsageProblem, match="not empty"):
        live.write(tmp_path / "machine")


def test_a_tar_is_a_machine_too_and_cannot_write_outside(tmp_path: Path) -> None:
    archive = tmp_path / "machine.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in (("m/sysroot/etc/a", "1"), ("m/devices.txt", "absent\t/dev/kfd\t")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    host = open_recording(str(archive))
    assert host.read("/etc/a").text == "1"
    assert host.exists("/dev/kfd") is False
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("../escaped")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(UsageProblem, match="outside"):
        open_recording(str(archive))
    assert not (tmp_path.parent / "escaped").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": "other"}'])
def test_a_broken_recording_is_a_usage_problem(tmp_path: Path, content: str) -> None:
    (tmp_path / "recording.json").write_text(content)
    with pytest.raises(UsageProblem):
        open_recording(str(tmp_path))


@pytest.mark.parametrize("path", ["/no/such/machine", sys.executable])
def test_what_is_not_a_machine_is_a_usage_problem(path: str) -> None:
    with pytest.raises(UsageProblem):
        open_recording(path)


def test_complete_means_that_the_rest_is_absent(tmp_path: Path) -> None:
    (tmp_path / "recording.json").write_text(json.dumps({"schema": "fa-doctor/recording/1", "complete": True}))
    host = RecordedHost(tmp_path)
    assert host.read("/etc/os-release").problem is Problem.ABSENT
    assert host.run(["rocminfo"]).problem is Problem.ABSENT
