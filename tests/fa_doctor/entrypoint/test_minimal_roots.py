"""The one-file build in bare surroundings: a python3 and nothing else, and each of the things that can be missing.

A root is put together from bind mounts in a mount namespace: /usr (read-only) and nothing of /proc, /sys or /etc but
what a test gives it. That needs the right to make namespaces; where there is none, the tests are skipped.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PYTHON = "/usr/bin/python3"  # the system's: it lies below /usr whole


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fa-doctor.pyz, built by the script that users run."""
    target = tmp_path_factory.mktemp("pyz") / "fa-doctor.pyz"
    script = ROOT / "deploy/zipapp/build.py"
    done = subprocess.run(
        [sys.executable, str(script), "--output", str(target)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


class Root:
    """A root file system in which only `mounts` of the real one are there, read-only."""

    def __init__(self, folder: Path, pyz: Path) -> None:
        self.folder = folder
        self.lines = [f"mount -t tmpfs -o size=48m tmpfs {folder}"]
        for name in ("usr", "tmp", "etc", "dev"):
            self.lines.append(f"mkdir {folder}/{name}")
        for name in ("bin", "lib", "lib64", "sbin"):
            self.lines.append(f"ln -s usr/{name} {folder}/{name}")
        self.lines += [
            f"mount --bind -o ro /usr {folder}/usr && mount -o remount,bind,ro {folder}/usr",
            f"touch {folder}/fa-doctor.pyz && mount --bind {pyz} {folder}/fa-doctor.pyz",
            f"touch {folder}/dev/null && mount --bind /dev/null {folder}/dev/null",
        ]

    def run(
        self, *arguments: str, before: str = "", user: int = 0, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        enter = f"chroot --userspec={user}:{user} {self.folder} {PYTHON} /fa-doctor.pyz {' '.join(arguments)}"
        script = "set -e\n" + "\n".join([*self.lines, before, f"cd / && exec {enter}"])
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **(env or {})}
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", script],
            capture_output=True, text=True, timeout=60, check=False, env=environment, **options,
        )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, pyz: Path) -> Root:
    if not Path(PYTHON).exists():
        pytest.skip("there is no system python3")
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, timeout=20, check=False)
    if probe.returncode != 0:
        pytest.skip("no mount namespaces here")
    folder = tmp_path / "root"
    folder.mkdir()
    return Root(folder, pyz)


def healthy_process(done: subprocess.CompletedProcess[str]) -> None:
    """A report and one of its exit codes; no traceback, no fault of the tool."""
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    assert "internal error" not in done.stderr, done.stderr
    assert done.returncode in (0, 1, 3), done.stderr


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    healthy_process(done)
    document: dict[str, Any] = json.loads(done.stdout)
    assert not document["machine"]["faults"], document["machine"]["faults"]
    assert not [finding for finding in document["findings"] if "itself broke" in finding["title"]]
    return document


CHECK = ("check", "--level", "quick", "--format", "json")


def test_python_and_nothing_else(root: Root) -> None:
    """No /proc, no /sys, no /etc, no home, no /tmp that can be written."""
    report = report_of(root.run(*CHECK))
    assert report["machine"]["gpus"] == []
    statuses = {finding["id"]: finding["status"] for finding in report["findings"]}
    assert statuses["GPU001"] in ("fail", "unknown")


def test_with_proc_but_no_sys(root: Root) -> None:
    before = f"mkdir {root.folder}/proc && mount -t proc proc {root.folder}/proc"
    report_of(root.run(*CHECK, before=before))


def test_a_read_only_root(root: Root) -> None:
    report_of(root.run(*CHECK, before=f"mount -o remount,ro {root.folder}", env={"HOME": "/nowhere"}))


def test_a_user_without_an_entry_and_without_a_home(root: Root) -> None:
    before = f"mkdir {root.folder}/proc && mount -t proc proc {root.folder}/proc && chmod 755 {root.folder}"
    report_of(root.run(*CHECK, before=before, user=54321, env={"HOME": "/root"}))
    done = root.run("run", "--on-fail", "warn", "--", "/usr/bin/id", "-u", before=before, user=54321)
    healthy_process(done)
    assert done.stdout == "54321\n"


def test_in_64_megabytes(root: Root) -> None:
    """An address space of 64 MiB, which counts more than a memory limit would: the file is mapped, not only read."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (64 << 20, 64 << 20))

    report_of(root.run(*CHECK, preexec_fn=limit))


def test_run_as_the_entrypoint(root: Root) -> None:
    done = root.run("run", "--on-fail", "warn", "--", "/bin/sh", "-c", "'exit 23'")
    assert done.returncode == 23
    assert "Traceback" not in done.stderr
    stopped = root.run("run", "--", "/bin/true")
    assert stopped.returncode in (1, 3)
    assert "was not started" in stopped.stderr


def test_env_prints_nothing_that_breaks_a_shell(root: Root) -> None:
    done = root.run("env")
    healthy_process(done)
    checked = subprocess.run(["bash", "-n"], input=done.stdout, text=True, capture_output=True, timeout=20, check=False)
    assert checked.returncode == 0
