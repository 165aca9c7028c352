"""Faults at every step: afterwards the environment is the old one, file for file, or the new one, verified.

Each test says so through `judge`; the counts are printed as a table by benchmarks/install_faults.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import Install, quick_verify, snapshot
from filelock import FileLock
from index_server import cut, stall, status

from fa_doctor.installer import download
from fa_doctor.installer.destination import Destination, existing
from fa_doctor.installer.errors import InstallFailed, NothingFits, Refused
from fa_doctor.installer.index import IndexUnreachable
from fa_doctor.installer.lockfile import load
from fa_doctor.installer.locking import locked
from fa_doctor.installer.package import RemoteFile
from fa_doctor.installer.plan import Step
from fa_doctor.installer.planner import plan_from_lock
from fa_doctor.installer.recover import complete_placing, roll_back, unfinished
from fa_doctor.installer.target import inspect_python
from fa_doctor.installer.tree import clone
from fa_doctor.installer.verify import Verdict

KILL = Path(__file__).with_name("kill_after.py")
LINES = 22  # lines that the journal of an install into an existing environment has, and one more


def judge(install: Install, before: dict[str, str] | None) -> str:
    """ "old" if nothing changed, "new" if the new environment is whole and works; anything else fails."""
    after = snapshot(install.environment)
    if after == before:
        return "old"
    there = existing(install.environment)
    assert there is not None, "the environment is gone"
    assert there.installed["torch"].version == "2.13.0+rocm7.2"
    assert quick_verify(install.plan(), there.environment / "bin" / "python", os.environ).ok
    return "new"


def leavings(install: Install) -> list[str]:
    state = install.environment.with_name(f".{install.environment.name}.fa-doctor")
    return sorted(path.name for path in state.iterdir()) if state.exists() else []


# The network


def test_a_server_that_fails_now_and_then_is_asked_again(old: Install) -> None:
    old.server.faults += [
        (r"/filelock/|/torch/", status(503, times=1)),
        (r"files/torch-2.13.*whl$", status(500, times=2)),
    ]
    old.retries = 4
    transaction = old.transaction()
    old.server.faults.append((r"files/torch-2.13", status(502, times=1)))
    transaction.run()
    assert judge(old, None) == "new"


def test_an_index_that_stays_down_is_named(old: Install) -> None:
    before = snapshot(old.environment)
    old.server.faults.append((r"/whl/", status(500)))
    with pytest.raises(IndexUnreachable, match="500"):
        old.transaction()
    assert judge(old, before) == "old"


def test_a_file_that_cannot_be_had_ends_the_install(old: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS_WITHOUT_PROGRESS", 2)
    before = snapshot(old.environment)
    transaction = old.transaction()
    old.server.faults.append((r"files/torch-2.13.*whl$", status(404)))
    with pytest.raises((InstallFailed, Refused), match="404"):
        transaction.run()
    assert judge(old, before) == "old"


def test_a_download_that_is_cut_is_resumed_where_it_stopped(old: Install, tmp_path: Path) -> None:
    transaction = old.transaction()
    name = next(
        package.file.filename for package in transaction.plan.packages if package.name == "torch" and package.file
    )
    # Random bytes, so that the wheel is long enough to be cut several times.
    size = len(old.server.files[name])
    old.server.faults.append((r"files/torch-2.13.*whl$", cut(size // 5, times=3)))
    transaction.run()
    assert judge(old, None) == "new"


def test_a_server_without_ranges_is_served_from_the_start(tmp_path: Path, old: Install) -> None:
    content = os.urandom(300_000)
    old.server.offer_file("default", "blob", "blob-1.0.tar.gz", content)
    cuts = cut(100_000, times=1)
    old.server.faults.append((r"blob", cuts))
    whole = RemoteFile(
        "blob-1.0.tar.gz", f"{old.server.url}/files/blob-1.0.tar.gz", old.server.hash_of("blob-1.0.tar.gz")
    )
    session = old.transaction().session
    session.headers.pop("Range", None)
    fetched = download.Downloader(tmp_path / "d", session, pause=lambda seconds: None).fetch(whole)
    assert fetched.read_bytes() == content


def test_a_connection_that_stalls_is_given_up(old: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", (0.3, 0.3))
    monkeypatch.setattr(download, "ATTEMPTS_WITHOUT_PROGRESS", 2)
    before = snapshot(old.environment)
    transaction = old.transaction()
    monkeypatch.setattr("fa_doctor.installer.preconditions._network", lambda plan, session: [])
    old.server.faults.append((r"files/torch-2.13.*whl$", stall(1.0)))
    with pytest.raises(InstallFailed, match="could not be fetched"):
        transaction.run()
    assert judge(old, before) == "old"


def test_a_file_with_a_wrong_hash_is_thrown_away(old: Install) -> None:
    before = snapshot(old.environment)
    transaction = old.transaction()
    name = next(name for name in old.server.files if name.startswith("torch-2.13.0+rocm7.2"))
    old.server.files[name] = old.server.files[name][:-100] + b"x" * 100
    with pytest.raises(InstallFailed, match="SHA-256"):
        transaction.run()
    assert judge(old, before) == "old"
    assert not list(transaction.plan.paths.wheels.glob("torch-2.13*"))


def test_no_wheel_that_fits(old: Install) -> None:
    before = snapshot(old.environment)
    names = old.server.indexes["whl/rocm7.2"]["torch"]
    names[:] = [name.replace("cp311-cp311", "cp399-cp399") for name in names]
    for name in names:
        old.server.files[name] = b""
    with pytest.raises(NothingFits, match="another Python or platform"):
        old.transaction()
    assert judge(old, before) == "old"


def test_the_cuda_torch_is_not_taken_even_when_the_stack_has_none(old: Install) -> None:
    before = snapshot(old.environment)
    old.server.indexes["whl/rocm7.2"]["torch"].clear()
    with pytest.raises(NothingFits, match=r"torch==2\.13\.0\+rocm7\.2"):
        old.transaction()
    assert judge(old, before) == "old"


# The machine


def test_a_disk_that_fills_up(install: Install, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=False).returncode
    ):
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        install.environment = disk / "env"
        transaction = install.transaction()
        with pytest.raises(Refused, match="GB free"):
            transaction.run()
        assert judge(install, None) == "old"
        # The check before the first change is no guarantee: others fill the disk, too.
        (disk / "hog").write_bytes(b"x" * (disk_free(disk) - 60_000))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fa_doctor.installer.preconditions._room", lambda plan: [])
            with pytest.raises((InstallFailed, OSError)):
                install.transaction().run()
        assert judge(install, None) == "old"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def disk_free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def test_an_environment_that_cannot_be_written(old: Install, tmp_path: Path) -> None:
    """For root, permissions are no obstacle: there, a read-only mount stands in."""
    before = snapshot(old.environment)
    parent = old.environment.parent
    if os.geteuid() == 0:
        done = subprocess.run(["mount", "--bind", "-o", "ro", parent, parent], check=False, capture_output=True)
        if done.returncode:
            pytest.skip("a read-only mount is not permitted here")
        undo = ["umount", "-l", str(parent)]
    else:
        parent.chmod(0o500)
        undo = ["chmod", "700", str(parent)]
    try:
        with pytest.raises((Refused, InstallFailed), match="cannot be"), locked(old.plan().paths, 0):
            old.transaction().run()
        assert judge(old, before) == "old"
    finally:
        subprocess.run(undo, check=True)


def test_a_wheel_that_is_broken(old: Install) -> None:
    before = snapshot(old.environment)
    name = next(name for name in old.server.files if name.startswith("filelock-"))
    old.server.offer_file("default", "typing-extensions", "typing_extensions-4.15.0-py3-none-any.whl", b"PK no wheel")
    shutil.rmtree(next(old.environment.glob("lib/python*/site-packages")) / name.partition("-")[0], ignore_errors=True)
    with pytest.raises(InstallFailed):
        old.transaction().run()
    assert judge(old, before) == "old"


def test_a_verification_that_fails(old: Install) -> None:
    before = snapshot(old.environment)
    with pytest.raises(InstallFailed, match="off by a third"):
        old.transaction(verifier=lambda *arguments: Verdict(False, problem="off by a third")).run()
    assert judge(old, before) == "old"
    assert leavings(old) == ["journal.jsonl", "plan.toml", "wheels"]


def test_an_environment_that_changes_meanwhile_is_left_as_it_is(old: Install) -> None:
    def meddle(*arguments: object) -> Verdict:
        (old.environment / "notes.txt").write_text("changed by hand\n")
        return Verdict(True)

    with pytest.raises(InstallFailed, match="notes"):
        old.transaction(verifier=meddle).run()
    assert (old.environment / "notes.txt").read_text() == "changed by hand\n"
    assert "triton" in (existing(old.environment) or pytest.fail("gone")).installed


def test_a_write_into_the_copy_does_not_reach_the_old_environment(old: Install) -> None:
    before = snapshot(old.environment)

    def write(plan: object, python: Path, environ: object) -> Verdict:
        for path in python.parent.parent.glob("lib/python*/site-packages/*.dist-info/*"):
            with path.open("a") as file:
                file.write("# written in place\n")
        return Verdict(False, problem="as ordered")

    with pytest.raises(InstallFailed, match="as ordered"):
        old.transaction(verifier=write).run()
    assert judge(old, before) == "old"


# Interrupts


@pytest.mark.parametrize("name", ["download", "copy", "remove", "install", "kernels", "compile", "verify", "place"])
def test_an_interrupt_at_each_step(name: str, old: Install) -> None:
    before = snapshot(old.environment)

    def interrupt(step: Step, event: str) -> None:
        if (step.name, event) == (name, "start"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        old.transaction(on_step=interrupt).run()
    assert judge(old, before) == "old"
    assert unfinished(old.plan().paths) is None


def test_two_installs_at_once(old: Install) -> None:
    paths = old.plan().paths
    with locked(paths, 0):
        with pytest.raises(Refused, match=f"process {os.getpid()}"), locked(paths, 0):
            pass
        waited = threading.Event()

        def wait() -> None:
            with locked(paths, 20):
                waited.set()

        second = threading.Thread(target=wait)
        second.start()
        assert not waited.wait(0.3)
    second.join(20)
    assert waited.is_set()
    assert isinstance(FileLock(paths.lock), FileLock)


# kill -9


def killed(install: Install, point: str) -> int:
    command = [sys.executable, KILL, install.server.url, install.environment, point]
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode


def resume(install: Install) -> None:
    paths = install.plan().paths
    cut_off = unfinished(paths)
    if cut_off is None:
        return
    if complete_placing(paths, cut_off):
        return
    there = existing(install.environment)
    destination = there or Destination(install.environment, False, inspect_python(cut_off.base_python), {})
    install.transaction(plan=plan_from_lock(load(cut_off.plan), destination, replace=True)).run()


def check_kill(install: Install, point: str) -> str:
    """Kills an install into an existing environment at a point; tries both ways on; returns what stood there before."""
    before = snapshot(install.environment)
    code = killed(install, point)
    state = judge_or_missing(install, before)
    saved = install.environment.parent / "saved"
    shutil.copytree(install.environment.parent, saved, symlinks=True, ignore=shutil.ignore_patterns("saved"))
    if unfinished(install.plan().paths):
        assert code == -9
        roll_back(install.plan().paths)
        assert judge(install, before) == "old", "--rollback brings back the old environment"
        bring_back(install.environment.parent, saved)
        resume(install)
        assert judge(install, before) == "new", "--resume completes the new one"
    return state


def judge_or_missing(install: Install, before: dict[str, str] | None) -> str:
    if not install.environment.exists():
        return "moved away"  # only where the file system cannot exchange; see the test of it
    return judge(install, before)


def bring_back(folder: Path, saved: Path) -> None:
    for path in folder.iterdir():
        if path != saved:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in list(saved.iterdir()):
        os.rename(path, folder / path.name)


@pytest.mark.parametrize("line", [1, 5, 9, 16, 17, 18, 19, 21])
def test_a_kill_between_steps(line: int, old: Install) -> None:
    assert check_kill(old, f"journal:{line}") in ("old", "new")


@pytest.mark.slow
@pytest.mark.parametrize("line", range(1, LINES))
def test_a_kill_after_each_line_of_the_journal(line: int, old: Install) -> None:
    assert check_kill(old, f"journal:{line}") in ("old", "new")


def test_a_kill_right_after_the_exchange(old: Install) -> None:
    assert check_kill(old, "exchanged") == "new"


def test_a_kill_where_both_cannot_be_exchanged(old: Install) -> None:
    assert check_kill(old, "two-steps") == "moved away"


def test_an_environment_of_a_lower_image_layer(old: Install, tmp_path: Path) -> None:
    """In a container build the environment may come from an earlier layer: overlayfs cannot rename such a folder."""
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir()
    lower.mkdir()
    shutil.copytree(old.environment, lower / "env", symlinks=True)
    options = f"lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off"
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, merged], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("mounting an overlay is not permitted here")
    try:
        old.environment = merged / "env"
        before = snapshot(old.environment)
        old.transaction().run()
        assert judge(old, before) == "new"
        roll_back(old.plan().paths)
        assert judge(old, before) == "old"
    finally:
        subprocess.run(["umount", "-l", merged], check=True)


def test_a_kill_while_a_new_environment_is_made(install: Install) -> None:
    for line in (5, 15):
        assert killed(install, f"journal:{line}") == -9
        assert not install.environment.exists()
        paths = install.plan().paths
        roll_back(paths)
        assert not install.environment.exists()
        assert leavings(install) == ["journal.jsonl", "lock"] or "stage" not in leavings(install)
    assert killed(install, "journal:11") == -9
    resume(install)
    assert judge(install, None) == "new"


# Copies of whole environments


def test_a_copy_for_moments_shares_what_nobody_writes_into(tmp_path: Path) -> None:
    source = tmp_path / "env"
    files = {
        "pyvenv.cfg": "home = /usr/bin\n",
        "bin/tool": "#!/bin/sh\n",
        "lib/python3.12/site-packages/easy-install.pth": "x\n",
        "lib/python3.12/site-packages/torch/__init__.py": "a = 1\n",
        "lib/python3.12/site-packages/torch/lib/big.so": "x" * (2 << 20),
        "lib/python3.12/site-packages/torch-2.0.dist-info/RECORD": "torch/__init__.py,,\n",
        "lib/python3.12/site-packages/torch-2.0.dist-info/licenses/LICENSE": "text\n",
    }
    for name, text in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    before = snapshot(source)
    kept, moment = tmp_path / "kept", tmp_path / "moment"
    clone(source, kept)
    clone(source, moment, for_moments=True)
    assert snapshot(kept) == snapshot(moment) == before
    for folder, shared in ((kept, ("big.so",)), (moment, ("big.so", "torch/__init__.py"))):
        for name in files:
            if not os.path.samefile(source / name, folder / name):
                (folder / name).write_text("written in place\n")
                assert not name.endswith(shared), name
            else:
                assert name.endswith(shared), name
    assert snapshot(source) == before
