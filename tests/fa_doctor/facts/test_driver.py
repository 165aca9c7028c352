"""The kernel driver: loaded or not, whose it is, what blocks it, and who may open the nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from healthy import mi300x, rx7900xtx, wsl
from staging import stage

from fa_doctor.facts import driver, gpus, system
from fa_doctor.facts.driver import Driver, blacklist_lines, groups_by_id
from fa_doctor.host import Host


def gather(host: Host) -> Driver:
    return driver.gather(host, gpus.gather(host), system.gather(host))


def test_the_package_of_amd_has_a_version_and_the_kernels_own_has_not(tmp_path: Path) -> None:
    package = gather(mi300x(1).open(tmp_path / "a"))
    assert (package.loaded, package.origin, package.version) == (True, "dkms", "6.12.12")
    own = gather(rx7900xtx().open(tmp_path / "b"))
    assert (own.loaded, own.origin, own.version) == (True, "in-tree", "6.14.0-29-generic")


def test_a_tainted_module_is_not_the_kernels_own(tmp_path: Path) -> None:
    machine = rx7900xtx()
    machine.files["/sys/module/amdgpu/taint"] = "OE\n"
    found = gather(machine.open(tmp_path))
    assert (found.origin, found.version) == ("dkms", None)


@pytest.mark.parametrize(
    ("module", "origin", "version"),
    [
        ("ROCk module version 6.10.5 is loaded", "dkms", "6.10.5"),
        ("ROCk module is loaded", None, None),
    ],
)
def test_rocminfo_tells_where_no_file_does(
    module: str, origin: str | None, version: str | None, tmp_path: Path
) -> None:
    text = f"{module}\nAgent 1\n  Name: gfx1100\n  Device Type: GPU\n"
    found = gather(stage(tmp_path, commands={("rocminfo",): text}, complete=False))
    assert (found.loaded, found.origin, found.version) == (True, origin, version)


def test_nodes_with_owner_group_and_members(tmp_path: Path) -> None:
    found = gather(rx7900xtx().open(tmp_path))
    assert found.kfd is not None
    assert (found.kfd.mode, found.kfd.uid, found.kfd.gid, found.kfd.group) == (0o660, 0, 109, "render")
    assert found.kfd.members == ("user",)
    assert found.kfd.openable is True
    assert [node.path for node in found.render_nodes] == ["/dev/dri/renderD128"]


def test_render_nodes_of_other_makers_are_left_out(tmp_path: Path) -> None:
    machine = rx7900xtx()
    machine.devices["/dev/dri/renderD129"] = "crw-rw---- root 109 226,129"
    machine.files["/sys/class/drm/renderD129/device/vendor"] = "0x10de\n"
    machine.devices["/dev/dri/renderD130"] = "crw-rw---- root 109 226,130"
    machine.files["/sys/class/drm/renderD130/device/uevent"] = "DRIVER=amdgpu_xcp_drv\nMODALIAS=platform:amdgpu_xcp\n"
    found = gather(machine.open(tmp_path))
    assert [node.path for node in found.render_nodes] == ["/dev/dri/renderD128", "/dev/dri/renderD130"]


def test_wsl_has_another_node(tmp_path: Path) -> None:
    found = gather(wsl().open(tmp_path))
    assert found.loaded is False
    assert found.dxg is not None
    assert found.dxg.exists
    assert found.kfd is not None
    assert found.kfd.exists is False


def test_what_keeps_the_module_away() -> None:
    text = "# blacklist amdgpu\nblacklist amdgpu # old card\n blacklist  amdgpu_xcp\ninstall amdgpu /bin/false\nblacklist nouveau\n"
    assert blacklist_lines(text) == ["blacklist amdgpu", "install amdgpu /bin/false"]


def test_groups() -> None:
    assert groups_by_id("render:x:109:a,b\nbroken\nx:y:z:\nvideo:x:44:\n") == {
        109: ("render", ("a", "b")),
        44: ("video", ()),
    }
