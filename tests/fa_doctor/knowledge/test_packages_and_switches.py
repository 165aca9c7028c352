"""The tables of packages around torch and of switches for finding faults."""

from __future__ import annotations

from fa_doctor.knowledge.packages import package, packages
from fa_doctor.knowledge.switches import switches
from fa_doctor.knowledge.variables import names


def test_rows_are_whole() -> None:
    for name, row in packages().items():
        assert name == row.name == name.lower()
        assert row.module
        assert row.sources
        assert not (row.cuda_only_from or row.cuda_only_default_index) or row.instead
        assert all("/" not in pattern or not pattern.startswith("/") for pattern in row.extensions)


def test_from_which_version_on_a_package_is_for_nvidia_only() -> None:
    sage, torchvision = package("sageattention"), package("torchvision")
    assert sage is not None
    assert torchvision is not None
    assert [sage.is_cuda_only(version) for version in ("1.0.6", "2.0.0", "2.2.0+cu128")] == [False, True, True]
    assert not torchvision.is_cuda_only("99")


def test_switches_are_known_variables_and_say_what_turns_them_on() -> None:
    for switch in switches():
        assert switch.name in names()
        assert switch.on
        assert all(value == value.lower() for value in switch.on)
        assert not switch.is_on("0")
        assert not switch.is_on("")
        assert switch.sources
