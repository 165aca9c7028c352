"""A kept verdict is used while nothing changed, and never when something it rests on did."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fa_doctor.entrypoint import witness
from fa_doctor.entrypoint.kept_verdict import KEEP_S, KeptVerdict
from fa_doctor.host import FileText, LiveHost, Stat, User
from fa_doctor.host.recorder import RecordingHost

OUTCOME = {"status": "pass", "variables": {"A": "1"}}


class Fake(LiveHost):
    """This machine, with single answers replaced: what a reboot, another driver or another user would change."""

    def __init__(self, environ: dict[str, str]) -> None:
        super().__init__(environ=environ)
        self.texts: dict[str, str] = {}
        self.stats: dict[str, Stat] = {}
        self.who: User | None = None
        self.may_open: bool | None = None

    def read(self, path: str, limit: int = 1 << 20) -> FileText:
        return FileText(path, self.texts[path]) if path in self.texts else super().read(path, limit)

    def stat(self, path: str) -> Stat:
        return self.stats.get(path) or super().stat(path)

    def can_open(self, path: str, *, write: bool = True) -> bool | None:
        return super().can_open(path, write=write) if self.may_open is None else self.may_open

    @property
    def user(self) -> User | None:
        return self.who or super().user


class Kept:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "site-packages/torch-1.dist-info").mkdir(parents=True)
        (folder / "site-packages/torch-1.dist-info/METADATA").write_text("Version: 1\n")
        (folder / "cache").mkdir()
        (folder / "bin").mkdir()
        tool = folder / "bin/mytool"
        tool.write_text("#!/bin/sh\necho 1\n")
        tool.chmod(0o755)
        self.environ = {"PATH": f"{folder}/bin:/usr/bin:/bin", "HIP_VISIBLE_DEVICES": "0"}
        self.verdict = KeptVerdict(folder / "state", {"level": "QUICK"})
        recorder = RecordingHost(self.host())
        recorder.read(f"{folder}/site-packages/torch-1.dist-info/METADATA")
        recorder.read("/sys/kernel/mm/transparent_hugepage/enabled")
        recorder.read(f"{folder}/not-there")
        recorder.list(f"{folder}/site-packages")
        recorder.stat("/dev/null")
        recorder.can_open("/dev/null")
        recorder.can_write_folder(f"{folder}/cache")
        recorder.disk(str(folder))
        recorder.elf(f"{folder}/bin/mytool")
        recorder.real_path(f"{folder}/link")
        recorder.which("mytool")
        recorder.run(["mytool"])
        assert recorder.environ is not None
        recorder.environ.get("HIP_VISIBLE_DEVICES")
        recorder.environ.get("HSA_OVERRIDE_GFX_VERSION")
        self.verdict.save(recorder.questions(), self.host(), OUTCOME)

    def host(self, **environ: str) -> Fake:
        return Fake({**self.environ, **environ})


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_it_is_used_while_nothing_changed(kept: Kept) -> None:
    assert kept.verdict.load(kept.host()) == (OUTCOME, "")
    assert kept.verdict.load(kept.host(SOMETHING_ELSE="1"))[0] == OUTCOME, "a variable that nothing read"


def add_package(kept: Kept) -> Fake:
    (kept.folder / "site-packages/triton-3.dist-info").mkdir()
    return kept.host()


def change_package(kept: Kept) -> Fake:
    (kept.folder / "site-packages/torch-1.dist-info/METADATA").write_text("Version: 2\n")
    return kept.host()


def make_missing_file(kept: Kept) -> Fake:
    (kept.folder / "not-there").touch()
    return kept.host()


def make_broken_link_whole(kept: Kept) -> Fake:
    (kept.folder / "link").symlink_to(kept.folder / "bin")
    return kept.host()


def replace_tool(kept: Kept) -> Fake:
    (kept.folder / "bin/mytool").write_text("#!/bin/sh\necho 2\n")
    return kept.host()


def remove_tool(kept: Kept) -> Fake:
    (kept.folder / "bin/mytool").unlink()
    return kept.host()


def with_text(path: str, text: str) -> Callable[[Kept], Fake]:
    def change(kept: Kept) -> Fake:
        host = kept.host()
        host.texts[path] = text
        return host

    return change


def other_user(kept: Kept) -> Fake:
    host = kept.host()
    host.who = User(4321, 4321, (4321,), None, None)
    return host


def other_groups(kept: Kept) -> Fake:
    host = kept.host()
    user = host.user
    assert user is not None
    host.who = User(user.uid, user.gid, (*user.groups, 987), user.name, user.home)
    return host


def device_mode(kept: Kept) -> Fake:
    host = kept.host()
    found = host.stat("/dev/null")
    host.stats["/dev/null"] = Stat("/dev/null", found.kind, 0o600, 0, 0, 0, found.device)
    return host


def device_gone(kept: Kept) -> Fake:
    host = kept.host()
    host.may_open = False
    return host


def kfd_appears(kept: Kept) -> Fake:
    host = kept.host()
    found = host.stat("/dev/null")
    host.stats["/dev/kfd"] = Stat("/dev/kfd", found.kind, 0o660, 0, 109, 0, (235, 0))
    return host


def cache_not_writable(kept: Kept) -> Fake:
    (kept.folder / "cache").rmdir()
    (kept.folder / "cache").touch()  # a file where the folder was: root, too, cannot write into it
    os.chmod(kept.folder, 0o755)
    host = kept.host()
    host.can_write_folder = lambda path: False  # type: ignore[method-assign]
    return host


def other_variable(kept: Kept) -> Fake:
    return kept.host(HIP_VISIBLE_DEVICES="1")


def new_variable(kept: Kept) -> Fake:
    return kept.host(HSA_OVERRIDE_GFX_VERSION="10.3.0")


CHANGES: dict[str, Callable[[Kept], Fake]] = {
    "reboot": with_text("/proc/sys/kernel/random/boot_id", "another-boot\n"),
    "driver version": with_text("/sys/module/amdgpu/version", "6.99\n"),
    "driver build": with_text("/sys/module/amdgpu/srcversion", "ABCDEF\n"),
    "topology": with_text("/sys/class/kfd/kfd/topology/generation_id", "99\n"),
    "kernel": with_text("/proc/version", "Linux version 99\n"),
    "kernel settings": with_text("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never] other\n"),
    "container": with_text("/proc/self/mountinfo", "1 0 0:9 / / rw - overlay overlay rw,upperdir=/other\n"),
    "host name": with_text("/proc/sys/kernel/hostname", "another\n"),
    "package added": add_package,
    "package changed": change_package,
    "missing file made": make_missing_file,
    "link made": make_broken_link_whole,
    "tool replaced": replace_tool,
    "tool removed": remove_tool,
    "user": other_user,
    "groups": other_groups,
    "mode of a device": device_mode,
    "device cannot be opened": device_gone,
    "device appears": kfd_appears,
    "cache not writable": cache_not_writable,
    "variable changed": other_variable,
    "variable set": new_variable,
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_not_used_when_something_changed(kept: Kept, change: str) -> None:
    outcome, reason = kept.verdict.load(CHANGES[change](kept))
    assert outcome is None
    assert reason


def test_every_kind_of_question_has_a_change_that_shows(kept: Kept) -> None:
    """So that a kind of question added to RecordingHost cannot be forgotten here."""
    import json

    kinds = set(json.loads(kept.verdict.path.read_text())["witness"]) - {"version", "user", "container"}
    assert kinds == {
        "reads", "listings", "stats", "real_paths", "openable", "writable", "disks", "elf", "which", "programs", "variables",
    }  # fmt: skip


def test_another_version_or_age_is_not_used(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + KEEP_S + 1)
    assert kept.verdict.load(kept.host())[1] == "the kept verdict is too old"
    monkeypatch.setattr(time, "time", lambda: now - 3600)  # the clock was set back
    assert kept.verdict.load(kept.host())[0] is None
    monkeypatch.undo()
    monkeypatch.setattr(witness, "__version__", "99")
    assert kept.verdict.load(kept.host())[1] == "the version of fa-doctor changed"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": "fa-doctor/verdict/1"}', "\x00\xff"])
def test_damage_means_looking_again(kept: Kept, content: str) -> None:
    kept.verdict.path.write_text(content)
    assert kept.verdict.load(kept.host())[0] is None


def test_what_somebody_else_could_have_written_is_not_used(kept: Kept) -> None:
    kept.verdict.path.chmod(0o666)
    assert kept.verdict.load(kept.host())[0] is None


def test_a_folder_that_cannot_be_written_only_keeps_nothing(tmp_path: Path) -> None:
    verdict = KeptVerdict(Path("/proc/self/nowhere"), {"level": "QUICK"})
    asked: dict[str, set[str]] = {"reads": set(), "listings": set(), "stats": set()}
    outcome: dict[str, Any] = {"status": "pass", "variables": {}}
    verdict.save(asked, LiveHost(environ={}), outcome)
    assert verdict.load(LiveHost(environ={}))[0] is None


def test_secrets_do_not_stand_in_the_file(tmp_path: Path) -> None:
    recorder = RecordingHost(LiveHost(environ={"HF_TOKEN": "hf_secretsecretsecret", "PATH": "/usr/bin"}))
    assert recorder.environ is not None
    assert recorder.environ["HF_TOKEN"]
    verdict = KeptVerdict(tmp_path, {})
    verdict.save(recorder.questions(), recorder.inner, OUTCOME)
    assert "hf_secret" not in verdict.path.read_text()
