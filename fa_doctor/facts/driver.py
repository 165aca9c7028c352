"""The amdgpu kernel driver and the device nodes through which a process reaches it."""

from __future__ import annotations

from dataclasses import dataclass

from fa_doctor.evidence import Evidence

__all__ = ["DeviceNode", "Driver"]


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """/dev/kfd, /dev/dri/renderD*, /dev/dxg. `openable`: an open for reading and writing succeeded or did not."""

    path: str
    exists: bool | None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    group: str | None = None  # the group's name on this system, if it has one
    openable: bool | None = None


@dataclass(frozen=True, slots=True)
class Driver:
    """`origin` is "in-tree" or "dkms"; `version` the DKMS module's (the in-tree driver's version is the kernel's)."""

    loaded: bool | None
    origin: str | None = None
    version: str | None = None
    kfd: DeviceNode | None = None
    dxg: DeviceNode | None = None
    render_nodes: tuple[DeviceNode, ...] = ()
    blacklisted: bool | None = None
    kernel_log: tuple[str, ...] = ()  # lines of the kernel log that speak of amdgpu or kfd in trouble
    stuck_processes: tuple[str, ...] = ()  # "pid name" of processes that wait in the kernel for the driver (state D)
    evidence: tuple[Evidence, ...] = ()
