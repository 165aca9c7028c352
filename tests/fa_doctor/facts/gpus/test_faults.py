"""Broken sysfs and broken tools: a fact that is unknown, or a finding, never an exception and never a wait without end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from healthy import mi300x, rx7900xtx
from machine_parts import GIB, kfd_gpu
from staged_machine import Staged

from fa_doctor.diagnosis.check import all_checks
from fa_doctor.diagnosis.engine import run_checks
from fa_doctor.diagnosis.model import Finding, Status
from fa_doctor.facts import driver, gpus, health, node, system
from fa_doctor.facts.gpus import Gpu, Gpus, Tool
from fa_doctor.facts.gpus import tools as gpu_tools
from fa_doctor.facts.machine import Machine
from fa_doctor.host import Host, LiveHost
from fa_doctor.level import Level

NODE = "sysroot/sys/class/kfd/kfd/topology/nodes/1"
CARD = "sysroot/sys/class/drm/card1/device"


def examine(host: Host, *, deep: bool = False) -> tuple[Machine, list[Finding]]:
    """The facts and findings of GPUs, driver and node alone."""
    found = gpus.gather(host, deep=deep)
    of_system = system.gather(host)
    of_driver = driver.gather(host, found, of_system, deep=deep)
    machine = Machine(
        host.kind,
        host.description,
        gpus=found,
        driver=of_driver,
        health=health.gather(host, found, of_driver),
        node=node.gather(host, found, of_system),
        system=of_system,
    )
    ours = [check for check in all_checks() if check.id[:3] in ("GPU", "DRV", "SPD")]
    findings = run_checks(machine, ours, Level.QUICK)
    broken = [finding for finding in findings if "itself broke" in finding.verdict.title]
    assert broken == []
    return machine, findings


def empty(path: Path) -> None:
    path.write_text("")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def huge(path: Path) -> None:
    path.write_text("9" * 3_000_000)


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def leads_out(path: Path) -> None:
    path.unlink()
    path.symlink_to("../" * 40 + "etc/passwd")


def gone(path: Path) -> None:
    path.unlink()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


BREAKS = [empty, cut, huge, binary, a_folder, a_loop, leads_out, gone, a_pipe]


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda break_it: break_it.__name__)
def test_any_file_of_the_gpu_can_be_broken(break_it: Callable[[Path], None], tmp_path: Path) -> None:
    """Every file of the topology and of the card, all at once and the more telling ones alone."""
    rx7900xtx().open(tmp_path / "whole")
    originals = sorted(
        path.relative_to(tmp_path / "whole")
        for part in (NODE, CARD)
        for path in (tmp_path / "whole" / part).rglob("*")
        if path.is_file()
    )
    alone = [path for path in originals if path.name in ("properties", "uevent", "mem_info_vram_total", "gpu_id")]
    for number, broken in enumerate([originals, *([path] for path in alone)]):
        host = rx7900xtx().open(tmp_path / str(number))
        for path in broken:
            break_it(tmp_path / str(number) / path)
        machine, _ = examine(host)
        for gpu in machine.gpus.known:
            assert gpu.gfx in (None, "gfx1100")
            # Half of a number is a number: only there nobody can know better.
            assert gpu.vram_bytes in (None, 25753026560) or break_it is cut, broken


def test_a_loop_in_place_of_the_topology(tmp_path: Path) -> None:
    host = rx7900xtx().open(tmp_path)
    folder = tmp_path / NODE
    moved = folder.rename(folder.parent / "moved")
    folder.symlink_to("1")
    machine, findings = examine(host)
    assert machine.gpus.unreadable == (1,)
    moved.rename(folder.parent / "other")
    assert {found.id for found in findings if found.status in (Status.FAIL, Status.WARN)} <= {"GPU001", "GPU002"}


def test_nothing_may_be_read(tmp_path: Path) -> None:
    machine = rx7900xtx()
    machine.recording["reads"] = {path: "denied" for path in machine.files if path.startswith("/sys/")}
    found, findings = examine(machine.open(tmp_path))
    assert found.gpus.withheld == (0, 1)
    assert [one.id for one in findings if one.status is Status.FAIL] == ["GPU001"]


def test_no_sysfs_and_no_proc(tmp_path: Path) -> None:
    machine = Staged(files={"/etc/os-release": "ID=debian\n"}, recording={"complete": False})
    found, findings = examine(machine.open(tmp_path))
    assert found.gpus.devices is None
    assert not [one for one in findings if one.status is Status.FAIL]


def test_sixty_four_gpus_are_read_fast(tmp_path: Path) -> None:
    machine = mi300x(0)
    for card in range(8):
        for part in range(8):
            number = card * 8 + part
            kfd_gpu(machine, node=2 + number, card=1 + card, minor=128 + number, bus=0x05 + 0x10 * card, name="ip discovery",
                     gfx_target_version=90402, device_id=0x74A1, compute_units=38, simd_per_cu=4, wavefront=64, lds_kib=64,
                     vram=24 * GIB, unique_id=0x6A9C2B1D00000001 + card, xcc=1, partition=("CPX", "NPS4"))  # fmt: skip
            path = f"/sys/class/kfd/kfd/topology/nodes/{2 + number}/properties"
            place = (0x05 + 0x10 * card) << 8
            machine.files[path] = str(machine.files[path]).replace(
                f"location_id {place}", f"location_id {place + part}"
            )
    host = machine.open(tmp_path)
    gpus.gather(host)  # the tables are parsed once a process
    started = time.process_time()
    found, _ = examine(host)
    assert time.process_time() - started < 1.5  # a staged machine resolves each link itself; sysfs is faster
    assert len(found.gpus.known) == 64
    assert found.gpus.cards == 8
    assert {gpu.partition for gpu in found.gpus.known} == {"CPX"}
    assert {gpu.vram_bytes for gpu in found.gpus.known} == {24 * GIB}


class WithKfd(LiveHost):
    """This machine's tools beside another machine's sysfs and device nodes."""

    def __init__(self, staged: Host, path: str) -> None:
        super().__init__("/", {"PATH": path})
        self.staged = staged
        self.read, self.list, self.stat = staged.read, staged.list, staged.stat  # type: ignore[method-assign]
        self.can_open_all, self.real_path = staged.can_open_all, staged.real_path  # type: ignore[method-assign]


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def staged(tmp_path: Path) -> Host:
    return rx7900xtx().open(tmp_path / "machine")


@pytest.fixture
def tools_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "sleep", "head", "tr", "cat"):
        (folder / name).symlink_to(f"/bin/{name}")
    return folder


def test_no_tool_is_run_where_sysfs_tells(staged: Host, tools_folder: Path) -> None:
    for name in ("rocminfo", "amd-smi", "rocm-smi", "dmesg"):
        tool(tools_folder, name, f"touch {tools_folder}/{name}-was-run")
    machine, _ = examine(WithKfd(staged, str(tools_folder)))
    assert machine.gpus.tools == ()
    assert machine.gpus.gfx_targets == ("gfx1100",)
    assert not list(tools_folder.glob("*-was-run"))


@pytest.mark.parametrize("name", ["rocminfo", "amd-smi"])
def test_a_tool_that_never_returns_is_a_wedged_gpu(
    name: str, staged: Host, tools_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sysfs shows the GPU, its tool hangs (and holds its pipes through a grandchild): never "install ROCm"."""
    monkeypatch.setattr(gpu_tools, "DEADLINE_S", 0.5)
    tool(tools_folder, name, "sleep 600 & sleep 600")
    started = time.monotonic()
    machine, findings = examine(WithKfd(staged, str(tools_folder)), deep=True)
    assert time.monotonic() - started < 15
    assert machine.gpus.tools[-1].state == "hung"
    (failed,) = [found for found in findings if found.status is Status.FAIL]
    assert (failed.id, failed.verdict.cause) == ("GPU007", "gpu-hang-or-reset")
    words = json.dumps([[fix.title, *fix.commands] for fix in failed.verdict.fixes])
    assert "dmesg" in words
    assert "reset" in words
    assert "install" not in words


@pytest.mark.parametrize(
    "script",
    [
        "head -c 50000000 /dev/zero | tr '\\0' 'x'",
        "head -c 300000 /dev/urandom",
        "exit 0",
        "echo HSA_STATUS_ERROR >&2; exit 1",
        "kill -SEGV $$",
    ],
    ids=["50 MB", "binary", "nothing", "error", "crash"],
)
def test_a_tool_that_prints_rubbish_changes_nothing(script: str, staged: Host, tools_folder: Path) -> None:
    tool(tools_folder, "rocminfo", script)
    started = time.monotonic()
    machine, findings = examine(WithKfd(staged, str(tools_folder)), deep=True)
    assert time.monotonic() - started < 15
    assert machine.gpus.gfx_targets == ("gfx1100",)
    (answer,) = machine.gpus.tools
    assert answer.state == "failed"
    assert not [found for found in findings if found.status is Status.FAIL]


def test_a_hanging_tool_on_a_machine_without_a_gpu_is_not_asked(tmp_path: Path, tools_folder: Path) -> None:
    tool(tools_folder, "rocminfo", "sleep 600")
    bare = Staged(files={"/sys/module/snd/initstate": "live\n"}).open(tmp_path / "bare")
    machine, findings = examine(WithKfd(bare, str(tools_folder)), deep=True)
    assert machine.gpus.devices == ()
    assert machine.gpus.tools == ()
    assert [found.id for found in findings if found.status is Status.FAIL] == ["GPU001"]


def test_a_hanging_rocminfo_under_wsl_is_no_missing_gpu(tmp_path: Path, tools_folder: Path) -> None:
    """Only a runtime can tell there: its silence is a GPU that does not answer, and no verdict on which there are."""
    tool(tools_folder, "rocminfo", "sleep 600")
    bare = Staged(devices={"/dev/dxg": "crw-rw-rw- root root 10,125"}).open(tmp_path / "wsl")
    started = time.monotonic()
    machine, findings = examine(WithKfd(bare, str(tools_folder)))
    assert time.monotonic() - started < 15
    assert machine.system.wsl
    by_id = {found.id: found for found in findings}
    assert by_id["GPU001"].status is Status.UNKNOWN
    assert by_id["GPU007"].verdict.cause == "gpu-hang-or-reset"


def test_device_nodes_are_not_opened_while_something_hangs_in_the_driver(tmp_path: Path) -> None:
    machine = mi300x()
    machine.files["/proc/77/stat"] = "77 (kworker/u8:1+amdgpu-reset-dev) D 2 0 0 0 -1 69238880\n"
    found, findings = examine(machine.open(tmp_path))
    assert [process.pid for process in found.driver.stuck_processes] == [77]
    assert found.driver.kfd is not None
    assert found.driver.kfd.openable is None
    assert [one.id for one in findings if one.status is Status.FAIL] == ["GPU007"]


def test_an_open_that_does_not_return_is_a_wedged_gpu(tmp_path: Path) -> None:
    staged = rx7900xtx()
    staged.recording["openable"]["/dev/dri/renderD128"] = "no answer"
    machine, findings = examine(staged.open(tmp_path))
    assert machine.driver.unanswered == "/dev/dri/renderD128"
    (failed,) = [one for one in findings if one.status is Status.FAIL]
    assert (failed.id, failed.verdict.cause) == ("GPU007", "gpu-hang-or-reset")


def test_waiting_for_a_disk_is_no_stuck_gpu(tmp_path: Path) -> None:
    machine = mi300x()
    machine.files |= {"/proc/88/stat": "88 (cp) D 1 0 0 0 -1\n", "/proc/88/wchan": "folio_wait_bit_common\n"}
    found, _ = examine(machine.open(tmp_path))
    assert found.driver.stuck_processes == ()


def test_findings_of_every_combination_of_unknowns() -> None:
    """Machines of which single facts are missing: each check gives a verdict."""
    full = Gpu(
        0, "gfx1100", "gfx1100", "Radeon", "RDNA3", 32, 96, GIB, GIB, "0000:03:00.0", 0x744C, card=0, card_index=0
    )
    for field in (
        "gfx",
        "gfx_in_force",
        "name",
        "family",
        "vram_bytes",
        "pci",
        "device_id",
        "integrated",
        "visible",
        "card",
    ):
        for state in ("ok", "hung", "failed", "absent"):
            found = Gpus(
                (replace(full, **{field: None}),), None, tools=(Tool("rocminfo", state, "x"),), override="11.0.0"
            )
            for variables in (None, {}, {"HIP_VISIBLE_DEVICES": "7"}):
                machine = Machine("live", "x", gpus=found, variables=variables)
                for check in all_checks():
                    if check.id[:3] in ("GPU", "DRV", "SPD"):
                        assert run_checks(machine, [check], Level.FULL)[0].verdict.title
