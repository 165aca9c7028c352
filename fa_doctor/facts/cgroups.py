"""The limits that control groups set on this process: memory and processor time, of version 2 and of version 1."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fa_doctor.evidence import Evidence
from fa_doctor.host import Host

__all__ = ["Limits", "limits", "own_groups", "parse_cpu_max", "parse_memory_limit"]

_ROOT = "/sys/fs/cgroup"
_UNLIMITED = 1 << 60  # version 1 writes "no limit" as the largest page-aligned number


@dataclass(frozen=True, slots=True)
class Limits:
    """The tightest limits that hold: bytes and processors (a fraction is possible); None: no limit, or not known."""

    version: int | None = None
    memory_bytes: int | None = None
    cpus: float | None = None
    evidence: tuple[Evidence, ...] = ()


def limits(host: Host) -> Limits:
    """The tightest limit on the way from this process's group up to the root of what is mounted here."""
    groups = own_groups(host.read("/proc/self/cgroup").text or "")
    if host.exists(f"{_ROOT}/cgroup.controllers"):
        return _tightest(
            host, 2, _upwards(_ROOT, groups.get("", "/")), _upwards(_ROOT, groups.get("", "/")), "memory.max", "cpu.max"
        )
    memory = _upwards(f"{_ROOT}/memory", groups.get("memory", "/"))
    cpu = _upwards(f"{_ROOT}/cpu", groups.get("cpu", "/"))
    if host.exists(f"{_ROOT}/memory/memory.limit_in_bytes"):
        return _tightest(host, 1, memory, cpu, "memory.limit_in_bytes", "cpu.cfs_quota_us")
    return Limits()


def own_groups(text: str) -> dict[str, str]:
    """/proc/self/cgroup: controller -> path; the one group of version 2 stands under ""."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and parts[2].startswith("/"):
            for controller in parts[1].split(","):
                groups.setdefault(controller, parts[2])
    return groups


def parse_memory_limit(text: str) -> int | None:
    """memory.max or memory.limit_in_bytes; None for no limit."""
    number = text.strip()
    if not re.fullmatch(r"\d{1,20}", number, re.ASCII):
        return None
    return None if int(number) >= _UNLIMITED else int(number)


def parse_cpu_max(text: str, period: str | None = None) -> float | None:
    """cpu.max ("200000 100000"), or cpu.cfs_quota_us with its period in another file: processors, None for no limit."""
    words = text.split()
    if period is not None:
        words = [*words[:1], period.strip()]
    if len(words) != 2 or not all(re.fullmatch(r"\d{1,15}", word, re.ASCII) for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1]) if int(words[0]) else None


def _upwards(root: str, group: str) -> list[str]:
    """The folders of a group and of its ancestors. Below a container's root the path may name nothing: harmless."""
    parts = [part for part in group.split("/") if part and part != ".."]
    return ["/".join([root, *parts[:count]]) for count in range(len(parts), -1, -1)]


def _tightest(
    host: Host, version: int, memory_folders: list[str], cpu_folders: list[str], memory_file: str, cpu_file: str
) -> Limits:
    evidence: list[Evidence] = []
    memory: int | None = None
    cpus: float | None = None
    for folder in memory_folders:
        path = f"{folder}/{memory_file}"
        value = parse_memory_limit(host.read_line(path) or "")
        if value is not None and (memory is None or value < memory):
            memory = value
            evidence.append(Evidence(path, str(value)))
    for folder in cpu_folders:
        path = f"{folder}/{cpu_file}"
        period = host.read_line(f"{folder}/cpu.cfs_period_us") or "" if version == 1 else None
        share = parse_cpu_max(host.read_line(path) or "", period)
        if share is not None and (cpus is None or share < cpus):
            cpus = share
            evidence.append(Evidence(path, f"{share:g} processors"))
    return Limits(version, memory, cpus, tuple(evidence))
