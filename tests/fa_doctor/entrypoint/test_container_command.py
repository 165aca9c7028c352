"""The line that starts a container with the GPUs of a host, for the hosts that there are."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from healthy import mi300x, rx7900xtx, wsl
from staged_machine import examine

from fa_doctor.entrypoint.container_command import container_command
from fa_doctor.errors import UsageProblem
from fa_doctor.facts.machine import Machine


def test_devices_and_the_numbers_of_the_groups_that_own_them(tmp_path: Path) -> None:
    machine, _ = examine(mi300x(), tmp_path)
    words = shlex.split(container_command(machine, "docker"))
    assert words[:2] == ["docker", "run"]
    assert words[-1] == "IMAGE"
    assert "--device=/dev/kfd" in words
    assert "--device=/dev/dri" in words
    owners = {node.gid for node in (machine.driver.kfd, *machine.driver.render_nodes) if node is not None}
    given = {int(words[place + 1]) for place, word in enumerate(words) if word == "--group-add"}
    assert given == owners
    assert "--privileged" not in words


def test_rootless_podman_has_one_group_option(tmp_path: Path) -> None:
    machine, _ = examine(rx7900xtx(), tmp_path)
    assert machine.user is not None
    assert machine.user.uid != 0
    line = container_command(machine, "podman")
    assert "--group-add keep-groups" in line
    assert line.count("--group-add") == 1


def test_wsl_has_another_device(tmp_path: Path) -> None:
    machine, _ = examine(wsl(), tmp_path)
    line = container_command(machine, "docker")
    assert "--device=/dev/dxg" in line
    assert "/dev/kfd" not in line


def test_a_host_without_a_gpu_has_nothing_to_give() -> None:
    with pytest.raises(UsageProblem, match="/dev/kfd"):
        container_command(Machine("live", "x"), "docker")
