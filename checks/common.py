"""What several checks of GPUs and drivers ask of a machine."""

from __future__ import annotations

from collections.abc import Iterable

from fa_doctor.diagnosis.model import Evidence, Fix
from fa_doctor.diagnosis.remedies import as_root
from fa_doctor.facts.gpus import Gpu
from fa_doctor.facts.kernel_trouble import LogTrouble
from fa_doctor.facts.machine import Machine

__all__ = ["in_use", "log_evidence", "log_lines", "log_meanings", "read_log"]


def in_use(machine: Machine) -> list[Gpu]:
    """The devices that a job would run on: the visible ones, without an integrated GPU beside discrete ones."""
    visible = [gpu for gpu in machine.gpus.known if gpu.visible is not False] or list(machine.gpus.known)
    return [gpu for gpu in visible if not gpu.integrated] or visible


def read_log(machine: Machine) -> Fix:
    return Fix("Read what the kernel says of it", (as_root(machine, "dmesg | grep -iE 'amdgpu|kfd|firmware'"),))


def log_lines(machine: Machine, kinds: Iterable[str]) -> list[LogTrouble]:
    wanted = set(kinds)
    return [line for line in machine.driver.kernel_log or () if line.kind in wanted]


def log_evidence(machine: Machine, kinds: Iterable[str]) -> list[Evidence]:
    return [Evidence(line.source, line.line) for line in log_lines(machine, kinds)[-4:]]


def log_meanings(machine: Machine, kinds: Iterable[str]) -> str:
    said = dict.fromkeys(line.meaning for line in log_lines(machine, kinds))
    return " ".join(f"The kernel log says: {meaning}." for meaning in list(said)[-2:])
