"""The same remedy on different machines: package managers, users, environments, containers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from healthy import in_container, mi300x, rx7900xtx
from machine_parts import RENDER

from fa_doctor.diagnosis.actions import MakeFolder, ReplacePackages, SetVariable
from fa_doctor.diagnosis.gather import gather
from fa_doctor.diagnosis.model import Safety
from fa_doctor.diagnosis.remedies import (
    container_devices,
    install_line,
    install_system_packages,
    join_groups,
    make_folder,
    replace_packages,
    set_variable,
    unset_variable,
)
from fa_doctor.diagnosis.torch_choice import choose_torch, install_torch, pythons_for
from fa_doctor.facts.driver import DeviceNode
from fa_doctor.facts.gpus import Gpu, Gpus
from fa_doctor.facts.machine import Machine
from fa_doctor.host import User
from fa_doctor.level import Level

NAMES = {"apt-get": "gcc", "dnf": "gcc", "zypper": "gcc", "pacman": "gcc", "apk": "build-base"}


@pytest.fixture
def desktop(tmp_path: Path) -> Machine:
    return gather(rx7900xtx().open(tmp_path), level=Level.QUICK)


def with_user(machine: Machine, uid: int) -> Machine:
    return dataclasses.replace(machine, user=User(uid, uid, (uid,), "root" if uid == 0 else "me", None))


@pytest.mark.parametrize(
    ("manager", "line"),
    [
        ("apt-get", "sudo apt-get install -y gcc"),
        ("dnf", "sudo dnf install -y gcc"),
        ("zypper", "sudo zypper install -y gcc"),
        ("pacman", "sudo pacman -S --needed gcc"),
        ("apk", "sudo apk add build-base"),
    ],
)
def test_each_package_manager(manager: str, line: str, desktop: Machine) -> None:
    machine = dataclasses.replace(desktop, system=dataclasses.replace(desktop.system, package_manager=manager))
    assert install_system_packages(machine, "Install a compiler", NAMES).commands[-1] == line
    as_root = install_system_packages(with_user(machine, 0), "Install a compiler", NAMES)
    assert as_root.commands[-1] == line.removeprefix("sudo ")


def test_an_unknown_package_manager_gets_words_not_a_guess(desktop: Machine) -> None:
    machine = dataclasses.replace(desktop, system=dataclasses.replace(desktop.system, package_manager=None))
    assert install_system_packages(machine, "Install a compiler", NAMES).commands == ()


def test_in_an_image_it_is_a_line_of_its_dockerfile(tmp_path: Path) -> None:
    machine = gather(in_container(mi300x()).open(tmp_path), level=Level.QUICK)
    assert install_system_packages(machine, "x", NAMES).commands == ("RUN apt-get update && apt-get install -y gcc",)
    assert "ENV A='b c'" in set_variable(machine, "A", "b c", "x").commands


def test_pip_and_uv_are_given_the_target_and_its_path_is_quoted(desktop: Machine) -> None:
    python = dataclasses.replace(desktop.python, executable="/a b/bin/python")
    machine = dataclasses.replace(desktop, python=python)
    assert (
        install_line(machine, ("x==1",), "https://i/") == "'/a b/bin/python' -m pip install --index-url https://i/ x==1"
    )
    machine = dataclasses.replace(desktop, python=dataclasses.replace(python, uv="/usr/bin/uv"))
    assert install_line(machine, ("x==1",)) == "uv pip install --python '/a b/bin/python' x==1"


def test_a_replacement_can_be_applied_and_taken_back(desktop: Machine) -> None:
    fix = replace_packages(desktop, "x", remove=("triton-rocm",), install=("triton-rocm==3.6.0",), index="https://i/")
    assert fix.action == ReplacePackages(("triton-rocm",), ("triton-rocm==3.6.0",), "https://i/")
    assert fix.automatic
    assert fix.undo == ("/home/user/venv/bin/python -m pip install triton-rocm==3.7.1",)
    fix = replace_packages(desktop, "x", remove=("torch",), install=("torch==2.12.0+rocm7.2",))
    assert fix.undo is not None
    assert "--index-url https://download.pytorch.org/whl/rocm7.2 torch==2.13.0+rocm7.2" in fix.undo[0]


def test_a_managed_python_is_left_alone(desktop: Machine) -> None:
    python = dataclasses.replace(desktop.python, externally_managed=True, environment="system")
    fix = replace_packages(
        dataclasses.replace(desktop, python=python), "x", remove=("a",), install=("b",), index="https://i/"
    )
    assert fix.action is None
    assert "-m venv" in fix.commands[0]
    assert fix.commands[-1] == "pip install --index-url https://i/ b"


def test_variables(desktop: Machine) -> None:
    fix = set_variable(desktop, "A", "x", "t")
    assert (fix.commands, fix.undo, fix.action) == (("export A=x",), ("unset A",), SetVariable("A", "x"))
    fix = unset_variable(desktop, "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE", "t")
    assert fix.undo == ("export FLASH_ATTENTION_TRITON_AMD_AUTOTUNE=TRUE",)
    folder = make_folder(desktop, "/tmp/a b", "TRITON_CACHE_DIR", "t")
    assert folder.commands == ("mkdir -p '/tmp/a b'", "export TRITON_CACHE_DIR='/tmp/a b'")
    assert folder.action == MakeFolder("/tmp/a b", "TRITON_CACHE_DIR")


def test_groups_are_those_that_own_the_nodes(desktop: Machine) -> None:
    machine = with_user(desktop, 1000)
    named = DeviceNode("/dev/kfd", True, 0o660, 0, RENDER, "render")
    nameless = DeviceNode("/dev/dri/renderD128", True, 0o660, 0, 992, None)
    closed = DeviceNode("/dev/dri/renderD129", True, 0o600, 0, 7, "odd")
    assert join_groups(machine, (named,)).commands == ("sudo usermod -aG render me",)
    assert join_groups(machine, (named, nameless)).commands == (
        "sudo groupadd --gid 992 gpu992",
        "sudo usermod -aG render,gpu992 me",
    )
    assert join_groups(machine, (closed,)).commands == ()
    assert join_groups(machine, (DeviceNode("/dev/kfd", True, 0o660, 0, 0, "root"),)).commands == ()


@pytest.mark.parametrize(
    ("runtime", "rootless", "line"),
    [
        ("docker", None, f"docker run --device=/dev/kfd --device=/dev/dri --group-add {RENDER} ... IMAGE"),
        ("podman", True, "podman run --device=/dev/kfd --device=/dev/dri --group-add keep-groups ... IMAGE"),
        ("apptainer", None, "apptainer exec --rocm IMAGE COMMAND"),
        ("kubernetes", None, f"securityContext: {{supplementalGroups: [{RENDER}]}}   # of the pod"),
    ],
)
def test_devices_for_each_engine(runtime: str, rootless: bool | None, line: str, desktop: Machine) -> None:
    container = dataclasses.replace(desktop.container, inside=True, runtime=runtime, rootless=rootless)
    machine = with_user(dataclasses.replace(desktop, container=container), 1000)
    assert container_devices(machine).commands[-1] == line


def on(machine: Machine, *targets: str) -> Machine:
    return dataclasses.replace(
        machine, gpus=Gpus(tuple(Gpu(i, gfx=gfx) for i, gfx in enumerate(targets)), len(targets))
    )


@pytest.mark.parametrize(
    ("gfx", "installed", "pin"),
    [
        ("gfx942", "2.9.1+cu128", "2.9.1+rocm6.4"),
        ("gfx1100", "2.15.0", "2.13.0+rocm7.2"),
        ("gfx1151", "2.9.1", "2.13.0+rocm7.2"),  # ROCm before 7.2 crashes on it
        ("gfx906", "2.13.0", "2.9.1+rocm6.3"),  # rocBLAS of newer wheels has no kernels for it
        ("gfx1152", "2.13.0", "2.14.0+rocm10.1.0"),
        ("gfx1032", "2.9.1", "2.9.1+rocm6.4"),  # through the override of its family
    ],
)
def test_the_torch_for_a_gpu(gfx: str, installed: str, pin: str, desktop: Machine) -> None:
    assert desktop.torch is not None
    machine = on(dataclasses.replace(desktop, torch=dataclasses.replace(desktop.torch, version=installed)), gfx)
    choice = choose_torch(machine)
    assert choice.stack is not None
    assert choice.stack.torch_pin == pin
    fixes = install_torch(machine, choice, "TOR101")
    same_release = pin.split("+")[0] == installed.split("+")[0]
    assert fixes[0].safety is (Safety.SAFE if same_release else Safety.UNSAFE)
    assert all("cu1" not in line for line in fixes[0].commands)


def test_no_torch_for_an_unknown_gpu_or_two_that_share_none(desktop: Machine) -> None:
    assert choose_torch(on(desktop, "gfx803")).stack is None
    assert choose_torch(on(desktop, "gfx1152", "gfx900")).stack is None
    assert choose_torch(on(desktop)).problem == "the gfx target of the GPU is not known"
    assert "3.12" in pythons_for(("gfx942",))
