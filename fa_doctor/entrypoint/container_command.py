"""The `docker run` or `podman run` line that gives a container the GPUs of this host."""

from __future__ import annotations

from fa_doctor.errors import UsageProblem
from fa_doctor.facts.machine import Machine

__all__ = ["container_command"]

# What AMD's pages on running ROCm containers ask for besides the devices
# (https://rocm.docs.amd.com/projects/install-on-linux/en/latest/how-to/docker.html): seccomp unconfined, since the
# default profile of older engines refuses the memory-policy system calls of ROCm; shared memory for DataLoader
# workers and RCCL, for which the engines' default of 64 MiB is too small.
_SHM = "16g"


def container_command(machine: Machine, engine: str) -> str:
    """One line for this host: devices, numeric ids of the groups that own them, shared memory, seccomp.

    Group ids, not names: an image's /etc/group need not know the host's names, or gives them other numbers. Raises
    UsageProblem where this host has no device to give.
    """
    driver = machine.driver
    if machine.system.wsl:
        if driver.dxg is None or not driver.dxg.exists:
            raise UsageProblem("this WSL has no /dev/dxg: there is no GPU that a container could be given")
        flags = ["--device=/dev/dxg", "-v /usr/lib/wsl/lib:/usr/lib/wsl/lib:ro"]
        return f"{engine} run --rm -it {' '.join(flags)} --shm-size {_SHM} IMAGE"
    nodes = [node for node in (driver.kfd, *driver.render_nodes) if node is not None and node.exists]
    if driver.kfd is None or not driver.kfd.exists:
        raise UsageProblem("this host has no /dev/kfd: there is no AMD GPU that a container could be given")
    gids = sorted({node.gid for node in nodes if node.gid})
    if engine == "podman" and machine.user is not None and machine.user.uid != 0:
        groups = ["--group-add keep-groups"]  # the only group option that a rootless podman has
    else:
        groups = [f"--group-add {gid}" for gid in gids]
    flags = [
        "--device=/dev/kfd",
        "--device=/dev/dri",
        *groups,
        f"--shm-size {_SHM}",
        "--security-opt seccomp=unconfined",
    ]
    return f"{engine} run --rm -it {' '.join(flags)} IMAGE"
