"""The amdgpu kernel driver and the device nodes through which a process reaches it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from fa_doctor.evidence import Evidence
from fa_doctor.facts.gpus.model import Gpus
from fa_doctor.facts.gpus.pci_bus import parse_modalias, parse_uevent
from fa_doctor.facts.gpus.reading import AMD, hexadecimal
from fa_doctor.facts.kernel_trouble import LogTrouble, StuckProcess, read_kernel_log, stuck_processes
from fa_doctor.facts.system import System
from fa_doctor.host import Host, Problem

__all__ = ["DeviceNode", "DkmsBuild", "Driver", "blacklist_lines", "gather", "groups_by_id"]

MODULE = "/sys/module/amdgpu"
_MODPROBE_FOLDERS = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")
_FILE_LIMIT = 200  # files of one configuration folder that are read


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """/dev/kfd, /dev/dri/renderD*, /dev/dxg. `openable`: an open for reading and writing succeeded or did not."""

    path: str
    exists: bool | None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    group: str | None = None  # the group's name on this system, if it has one
    members: tuple[str, ...] = ()  # of that group, as /etc/group lists them; a session has it only since its login
    openable: bool | None = None


@dataclass(frozen=True, slots=True)
class DkmsBuild:
    """A version of amdgpu-dkms on disk, and the kernels that it was built for."""

    version: str
    kernels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Driver:
    """`origin` is "in-tree" or "dkms"; `version` the DKMS module's (the in-tree driver's version is the kernel's).

    `blocked_by` are lines of the configuration or of the kernel's command line that keep amdgpu from loading; they are
    looked for only where it is not loaded (`blacklisted` is None then). `render_nodes` are AMD's, or of unknown maker.
    `kernel_log` is None where no log may be read, or none was asked for.
    """

    loaded: bool | None
    origin: str | None = None
    version: str | None = None
    kfd: DeviceNode | None = None
    dxg: DeviceNode | None = None
    render_nodes: tuple[DeviceNode, ...] = ()
    unanswered: str | None = None  # the node whose open did not return
    dri: bool | None = None  # whether the folder /dev/dri is there
    blacklisted: bool | None = None
    blocked_by: tuple[Evidence, ...] = ()
    on_disk: bool | None = None  # whether a module for the running kernel is there; looked for where none is loaded
    dkms: tuple[DkmsBuild, ...] = ()
    kernel_log: tuple[LogTrouble, ...] | None = None
    stuck_processes: tuple[StuckProcess, ...] = ()
    evidence: tuple[Evidence, ...] = ()


def gather(host: Host, gpus: Gpus, system: System, *, deep: bool = False) -> Driver:
    """Looks at the module, the nodes and who may open them.

    The kernel log is read where a deeper look is wanted (`deep`), where something is stuck, or where a card that
    should compute has no compute device; opening device nodes is left out while something is stuck in the driver,
    since an open could wait there too.
    """
    evidence: list[Evidence] = []
    loaded = _is_loaded(host, gpus, system.wsl, evidence)
    origin, version = _origin(host, gpus, system, loaded, evidence)
    concerned = loaded is not False or gpus.cards != 0
    stuck = stuck_processes(host) if concerned else ()
    unexplained = any(other.vendor == "AMD" for other in gpus.others) or bool(gpus.unreadable)
    hung = any(tool.state == "hung" for tool in gpus.tools)
    look = host.kind == "recorded" or (concerned and (deep or stuck or hung or unexplained))
    log = read_kernel_log(host) if look else None
    groups = groups_by_id(host.read("/etc/group").text or "")
    nodes, unanswered = _with_openable(
        host, [_node(host, path, groups) for path in _node_paths(host)], try_open=not stuck
    )
    blocked: tuple[Evidence, ...] = ()
    if loaded is False:
        blocked = _blocked_by(host, system)
    return Driver(
        loaded=loaded,
        origin=origin,
        version=version,
        kfd=nodes[0],
        dxg=nodes[1],
        render_nodes=nodes[2:],
        unanswered=unanswered,
        dri=host.exists("/dev/dri"),
        blacklisted=bool(blocked) if loaded is False else None,
        blocked_by=blocked,
        on_disk=_on_disk(host, system) if loaded is False else None,
        dkms=_dkms(host),
        kernel_log=log,
        stuck_processes=stuck,
        evidence=tuple(evidence),
    )


def _is_loaded(host: Host, gpus: Gpus, wsl: bool | None, evidence: list[Evidence]) -> bool | None:
    stat = host.stat(MODULE)
    if stat.exists is not None:
        state = host.read_line(f"{MODULE}/initstate")
        evidence.append(Evidence(MODULE, "there" + (f", {state}" if state else "") if stat.exists else "not there"))
        return stat.exists
    if wsl:
        return None  # the Windows driver is in its place
    if any(gpu.kernel_driver == "amdgpu" or gpu.kfd_node is not None for gpu in gpus.known):
        evidence.append(Evidence("GPU devices", "the devices that the driver makes are there"))
        return True
    if gpus.versions.module_loaded is not None:
        evidence.append(Evidence("rocminfo", "loaded" if gpus.versions.module_loaded else "not loaded"))
        return gpus.versions.module_loaded
    if gpus.versions.driver:
        evidence.append(Evidence("amd-smi or rocm-smi", f"driver version {gpus.versions.driver}"))
        return True
    if gpus.versions.driver_missing:
        evidence.append(Evidence("amd-smi or rocm-smi", gpus.versions.driver_missing))
        return False
    return None


def _origin(
    host: Host, gpus: Gpus, system: System, loaded: bool | None, evidence: list[Evidence]
) -> tuple[str | None, str | None]:
    """Where the module comes from, and its version. Only AMD's package (DKMS) gives the module a version; it also taints
    the kernel as an out-of-tree module ("O")."""
    if not loaded:
        return None, None
    version = host.read(f"{MODULE}/version", limit=256)
    if version.text and version.text.strip():
        evidence.append(Evidence(version.path, version.text.strip()[:100]))
        return "dkms", version.text.strip()[:100]
    taint = host.read_line(f"{MODULE}/taint")
    if taint and "O" in taint:
        evidence.append(Evidence(f"{MODULE}/taint", taint))
        return "dkms", gpus.versions.driver
    said = gpus.versions.driver
    if said:
        evidence.append(Evidence("rocminfo, amd-smi or rocm-smi", f"driver version {said}"))
        # For the kernel's own driver the tools print the kernel's release: "6.9.0-rc5+", "6.8.0-60-generic".
        own = said == system.kernel or not re.fullmatch(r"[0-9]+(\.[0-9]+){1,3}", said)
        return ("in-tree" if own else "dkms"), said
    if version.problem is Problem.ABSENT:
        return "in-tree", system.kernel
    return None, None


def _blocked_by(host: Host, system: System) -> tuple[Evidence, ...]:
    found: list[Evidence] = []
    for folder in _MODPROBE_FOLDERS:
        for name in host.list(folder).names[:_FILE_LIMIT]:
            if name.endswith(".conf"):
                path = f"{folder}/{name}"
                found += [Evidence(path, line) for line in blacklist_lines(host.read(path, limit=1 << 16).text or "")]
    for word in (system.kernel_command_line or "").split():
        key, _, value = word.partition("=")
        blocks = key in ("modprobe.blacklist", "module_blacklist", "rd.driver.blacklist") and "amdgpu" in value.split(
            ","
        )
        if blocks or word == "nomodeset":
            found.append(Evidence("/proc/cmdline", word))
    return tuple(found)


def blacklist_lines(text: str) -> list[str]:
    """The lines of a modprobe configuration that keep amdgpu from being loaded by itself, or at all."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if words[:2] == ["blacklist", "amdgpu"] or (
            words[:2] == ["install", "amdgpu"] and words[2:3] and words[2].endswith(("/true", "/false"))
        ):
            found.append(" ".join(words))
    return found


def _on_disk(host: Host, system: System) -> bool | None:
    """Whether the running kernel has an amdgpu module: its own, or one of DKMS (which distributions put elsewhere)."""
    if not system.kernel:
        return None
    root = f"/lib/modules/{system.kernel}"
    answers = [host.exists(f"{root}/kernel/drivers/gpu/drm/amd/amdgpu")]
    for folder in ("updates/dkms", "updates", "extra"):
        names = host.list(f"{root}/{folder}").names
        answers.append(True if any(name.startswith("amdgpu.ko") for name in names) else None)
    if any(answers):
        return True
    return False if answers[0] is False and host.exists(root) else None


def _dkms(host: Host) -> tuple[DkmsBuild, ...]:
    """The versions of amdgpu-dkms under /var/lib/dkms and the kernels that each was built for."""
    root = "/var/lib/dkms/amdgpu"
    builds: list[DkmsBuild] = []
    for version in host.list(root).names[:_FILE_LIMIT]:
        if version in ("original_module",) or version.startswith("kernel-"):
            continue
        below = host.list(f"{root}/{version}").names
        builds.append(DkmsBuild(version, tuple(name for name in below if re.match(r"[0-9]+\.[0-9]+", name))))
    return tuple(builds)


def groups_by_id(text: str) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Name and members of groups by id, from /etc/group."""
    found: dict[int, tuple[str, tuple[str, ...]]] = {}
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) >= 3 and parts[2].isascii() and parts[2].isdigit() and len(parts[2]) < 11:
            members = tuple(name for name in parts[3].split(",") if name) if len(parts) > 3 else ()
            found.setdefault(int(parts[2]), (parts[0], members))
    return found


_Groups = dict[int, tuple[str, tuple[str, ...]]]


def _node_paths(host: Host) -> list[str]:
    """/dev/kfd, /dev/dxg, and the render nodes that are AMD's or of unknown maker."""
    names = [name for name in host.list("/dev/dri").names if re.fullmatch(r"renderD[0-9]{1,5}", name)]
    return ["/dev/kfd", "/dev/dxg", *(f"/dev/dri/{name}" for name in names if _maker(host, name) in (AMD, None))]


def _node(host: Host, path: str, groups: _Groups) -> DeviceNode:
    stat = host.stat(path)
    if not stat.exists:
        return DeviceNode(path, stat.exists)
    name, members = groups.get(stat.gid, (None, ())) if stat.gid is not None else (None, ())
    return DeviceNode(path, True, stat.mode, stat.uid, stat.gid, name, members)


def _with_openable(host: Host, nodes: list[DeviceNode], *, try_open: bool) -> tuple[tuple[DeviceNode, ...], str | None]:
    """The nodes with the answer of a real open, and the one whose open did not return, if there is such."""
    if not try_open:
        return tuple(nodes), None
    paths = [node.path for node in nodes if node.exists]
    answers = host.can_open_all(paths)
    unanswered = next((path for path in paths if path not in answers), None)
    return tuple(replace(node, openable=answers.get(node.path)) for node in nodes), unanswered


def _maker(host: Host, render_node: str) -> int | None:
    """The PCI vendor behind a render node; None for a partition of a card (a platform device), or if not known."""
    folder = f"/sys/class/drm/{render_node}/device"
    vendor = hexadecimal(host.read_line(f"{folder}/vendor"))
    if vendor is not None:
        return vendor
    events = parse_uevent(host.read(f"{folder}/uevent", limit=1 << 14).text or "")
    alias = parse_modalias(events.get("MODALIAS", ""))
    return alias[0] if alias else hexadecimal(events.get("PCI_ID", "").partition(":")[0])
