"""The container that this process runs in, if it does, and what it was given."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from fa_doctor.evidence import Evidence
from fa_doctor.facts.cgroups import limits
from fa_doctor.facts.driver import Driver
from fa_doctor.host import Host, Problem

__all__ = ["Container", "engine_of_containerenv", "gather", "inferred", "runtime_of_cgroup", "status_field"]

_SECCOMP = {"0": "disabled", "1": "strict", "2": "filter"}
_WHOLE_RANGE = re.compile(r"\s*0\s+0\s+4294967295\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Container:
    """`runtime`: "docker", "podman", "kubernetes", "apptainer", "lxc", "systemd-nspawn", "other", or None.

    Limits are in bytes (None: no limit, or not known) and hold for a plain host too, where a cgroup of a batch system
    sets them. `user_namespace` says whether user ids are mapped, as in rootless podman: the group ids of device nodes
    then show as 65534. `docker_desktop`: the engine runs in a virtual machine of its own, which has no AMD GPU.
    """

    inside: bool | None
    runtime: str | None = None
    rootless: bool | None = None
    user_namespace: bool | None = None
    docker_desktop: bool | None = None
    seccomp: str | None = None  # "disabled", "strict", "filter", from /proc/self/status
    capabilities: int | None = None  # the effective set, as a bit mask
    shm_bytes: int | None = None
    memory_limit_bytes: int | None = None
    cpu_limit: float | None = None  # in cores
    cgroup_version: int | None = None
    evidence: tuple[Evidence, ...] = ()


def gather(host: Host) -> Container:
    """Looks for the marks that container engines leave, and for the limits that are in force."""
    evidence: list[Evidence] = []
    runtime, rootless, sure = _runtime(host, evidence)
    status = host.read("/proc/self/status").text or ""
    seccomp = _SECCOMP.get(status_field(status, "Seccomp") or "")
    if seccomp:
        evidence.append(Evidence("/proc/self/status", f"Seccomp: {seccomp}"))
    mask = status_field(status, "CapEff")
    uid_map = host.read_line("/proc/self/uid_map")
    user_namespace = None if not uid_map else _WHOLE_RANGE.fullmatch(uid_map.splitlines()[0]) is None
    if user_namespace and uid_map:
        evidence.append(Evidence("/proc/self/uid_map", uid_map.splitlines()[0].strip()))
    shm = host.disk("/dev/shm")
    found = limits(host)
    evidence += found.evidence
    kernel = (host.read_line("/proc/sys/kernel/osrelease") or "").lower()
    desktop = "linuxkit" in kernel if kernel else None
    if desktop:
        evidence.append(Evidence("/proc/sys/kernel/osrelease", kernel))
    return Container(
        inside=True if runtime else (False if sure else None),
        runtime=runtime,
        rootless=rootless if rootless is not None else (user_namespace if runtime in ("docker", "podman") else None),
        user_namespace=user_namespace,
        docker_desktop=desktop,
        seccomp=seccomp,
        capabilities=int(mask, 16) if mask and re.fullmatch(r"[0-9a-f]{1,16}", mask) else None,
        shm_bytes=shm.total_bytes if shm else None,
        memory_limit_bytes=found.memory_bytes,
        cpu_limit=found.cpus,
        cgroup_version=found.version,
        evidence=tuple(evidence),
    )


def inferred(container: Container, driver: Driver, wsl: bool | None) -> Container:
    """The container as the driver's facts complete it, where no mark was recorded that tells.

    The amdgpu driver makes /dev/kfd when it is loaded. That the driver is loaded and the node is absent means that
    this process sees a /dev of its own.
    """
    absent = driver.kfd is not None and driver.kfd.exists is False
    if container.inside is None and driver.loaded and absent and not wsl:
        why = Evidence("/dev/kfd", "absent, though the amdgpu driver is loaded: this is not the host's /dev")
        return replace(container, inside=True, evidence=(*container.evidence, why))
    return container


def engine_of_containerenv(text: str) -> tuple[str, bool | None]:
    """The engine that /run/.containerenv names ("podman" if it names none) and whether it runs without root."""
    engine = re.search(r'^engine="?([a-z]+)', text, re.MULTILINE)
    rootless = re.search(r"^rootless=(\d)", text, re.MULTILINE)
    return (engine[1] if engine else "podman"), (rootless[1] == "1" if rootless else None)


def runtime_of_cgroup(text: str) -> str | None:
    """The container runtime whose name stands in the paths of /proc/PID/cgroup, or None."""
    for mark, runtime in (
        ("kubepods", "kubernetes"),
        ("libpod", "podman"),
        ("docker", "docker"),
        ("containerd", "docker"),
        ("lxc", "lxc"),
        ("machine.slice/systemd-nspawn", "systemd-nspawn"),
    ):
        # A daemon's own service (docker.service, containerd.service) is not a container.
        if any(mark in line and ".service" not in line.partition(mark)[2][:10] for line in text.splitlines()):
            return runtime
    return None


def status_field(text: str, name: str) -> str | None:
    """The value of one line of /proc/PID/status."""
    match = re.search(rf"^{re.escape(name)}:[ \t]*(\S+)", text, re.MULTILINE)
    return match[1] if match else None


def _runtime(host: Host, evidence: list[Evidence]) -> tuple[str | None, bool | None, bool]:
    """Which runtime, whether rootless, and whether a "no" is sure. An outer layer's mark stands before an inner one's:
    a pod is run by an engine that leaves its own marks too."""
    environ = host.environ
    found: list[tuple[str, Evidence]] = []
    rootless: bool | None = None
    if environ is not None and environ.get("KUBERNETES_SERVICE_HOST"):
        found.append(("kubernetes", Evidence("KUBERNETES_SERVICE_HOST", "set")))
    elif host.exists("/var/run/secrets/kubernetes.io"):
        found.append(("kubernetes", Evidence("/var/run/secrets/kubernetes.io", "present")))
    image = next((name for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER") if (environ or {}).get(name)), None)
    if image:
        found.append(("apptainer", Evidence(image, "set")))
    if host.exists("/.singularity.d"):
        found.append(("apptainer", Evidence("/.singularity.d", "present")))
    containerenv = host.read("/run/.containerenv")
    if containerenv.text is not None:
        engine, rootless = engine_of_containerenv(containerenv.text)
        found.append(("podman" if engine == "podman" else "other", Evidence("/run/.containerenv", f"engine {engine}")))
    dockerenv = host.exists("/.dockerenv")
    if dockerenv:
        found.append(("docker", Evidence("/.dockerenv", "present")))
    for source in ("/run/systemd/container", "container"):
        value = host.read_line(source) if source.startswith("/") else (environ or {}).get(source)
        if value:
            known = value if value in ("docker", "podman", "lxc", "systemd-nspawn") else "other"
            found.append((known, Evidence(source, value)))
    cgroup = host.read("/proc/1/cgroup")
    runtime = runtime_of_cgroup(cgroup.text or "")
    if runtime:
        found.append((runtime, Evidence("/proc/1/cgroup", (cgroup.text or "").strip().splitlines()[0][:160])))
    evidence += [mark for _, mark in found]
    sure = dockerenv is False and containerenv.problem is Problem.ABSENT
    return (found[0][0] if found else None), rootless, sure
