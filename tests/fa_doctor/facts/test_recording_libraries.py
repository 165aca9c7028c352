"""What a recording keeps of libraries and tools gives the same facts again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from shared_objects import ElfMaker

from fa_doctor.facts import libraries, packages, rocm, toolchain
from fa_doctor.facts.libraries import Libraries
from fa_doctor.facts.python import gather as gather_python
from fa_doctor.facts.toolchain import Toolchain
from fa_doctor.host import Host, LiveHost, RecordedHost
from fa_doctor.host.recorder import RecordingHost


def facts(host: Host) -> tuple[Libraries, Toolchain]:
    python = gather_python(host, sys.executable)
    found = packages.gather(host, python)
    installs = rocm.gather(host, python, found.torch)
    played = libraries.gather(host, python, found, installs)
    return played, toolchain.gather(host, python, found.triton, installs, played)


def test_the_same_facts_from_the_recording_of_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    recording = RecordingHost(LiveHost())
    live = facts(recording)
    recording.write(tmp_path / "machine")
    assert (tmp_path / "machine/sysroot/etc/ld.so.cache").read_bytes() == Path("/etc/ld.so.cache").read_bytes()
    assert facts(RecordedHost(tmp_path / "machine")) == live
    assert live[0].torch is not None
    assert len(live[0].mapped) > 5


def test_a_binary_file_with_a_secret_is_left_out(tmp_path: Path) -> None:
    secret = tmp_path / "ld.so.cache"
    secret.write_bytes(b"glibc-ld.so.cache1.1/home/jane/lib\0")
    recording = RecordingHost(LiveHost())
    assert recording.read_bytes(str(secret)).data
    recording.write(tmp_path / "machine", clean=lambda text: text.replace("jane", "user"))
    assert not list((tmp_path / "machine").rglob("*.cache"))
    replayed = RecordedHost(tmp_path / "machine").read_bytes(str(secret))
    assert replayed.data is None


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_pipe_in_place_of_a_library_holds_nobody_up(tmp_path: Path) -> None:
    import os

    from fa_doctor.facts.linker import LinkedProcess
    from fa_doctor.facts.linker_system import LinkerSystem

    make = ElfMaker(tmp_path / "make")
    program = make.program(tmp_path / "program", ("libx.so",), runpath="$ORIGIN/lib")
    (tmp_path / "lib").mkdir()
    os.mkfifo(tmp_path / "lib/libx.so")
    process = LinkedProcess(LinkerSystem(LiveHost(environ={})))
    assert process.start(str(program))
    assert process.missing[0].error
