"""The container that this runs in: whether it was given the GPU, and enough shared memory."""

from __future__ import annotations

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Need, failed, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import container_devices, container_flags
from fa_doctor.facts.machine import Machine

_MIB = 1 << 20


@check("CON001", "container.devices", causes=("container-devices-missing",))
def devices(machine: Machine) -> Verdicts:
    """The container was given /dev/kfd and a render node.

    Why it matters: sysfs shows the host's GPUs inside every container, but a process reaches a GPU only through device
    nodes, and an engine passes these on only if it is told to.
    How to fix: start it again with --device=/dev/kfd --device=/dev/dri (docker, podman), --rocm (apptainer), or a
    request for amd.com/gpu (Kubernetes with AMD's device plugin). Docker Desktop runs containers in a virtual machine
    that has no AMD GPU: use the ordinary Docker engine there.
    Sources: https://rocm.docs.amd.com/projects/install-on-linux/en/latest/how-to/docker.html; vllm-project/vllm issue 7207
    """
    container, driver = machine.container, machine.driver
    if container.inside is None:
        return unknown("whether this is a container is not known")
    if not container.inside:
        return skipped("this is not a container")
    if machine.system.wsl:
        return _wsl_device(machine)
    kfd = driver.kfd
    if kfd is None or kfd.exists is None:
        return unknown("whether /dev/kfd is there is not known")
    present = [node for node in driver.render_nodes if node.exists]
    evidence = (
        Evidence("/dev/kfd", "present" if kfd.exists else "absent"),
        Evidence(
            "/dev/dri",
            ", ".join(node.path.rsplit("/", 1)[-1] for node in present)
            or ("not recorded" if driver.dri is None else "no render node"),
        ),
        *container.evidence[:2],
    )
    withheld = bool(machine.gpus.withheld) and not machine.gpus.known
    if kfd.exists and present and not withheld:
        return passed("/dev/kfd and a render node were passed to the container", *evidence)
    meant_for_amd = machine.torch is not None and machine.torch.build == "rocm"
    if not (container.docker_desktop and meant_for_amd) and not driver.loaded and not machine.gpus.known:
        return skipped("the kernel of the host shows no amdgpu driver: that comes first")
    if kfd.exists and not present and not withheld and driver.dri is None:
        return unknown("whether a render node was passed to the container is not known", *evidence)
    rendered = bool(present) and not withheld
    rendered = rendered or (driver.dri is None and not withheld)  # not recorded is not absent
    missing = [name for name, there in (("/dev/kfd", kfd.exists), ("/dev/dri/renderD*", rendered)) if not there]
    if container.docker_desktop:
        return failed(
            "Docker Desktop runs this container in a virtual machine that has no AMD GPU",
            *evidence,
            cause="container-devices-missing",
            fixes=(
                Fix(
                    "Use the ordinary Docker engine of the host in place of Docker Desktop",
                    ("docker context use default",),
                    needs=Need.RESTART,
                    proof="CON001",
                ),
            ),
        )
    return failed(
        f"the container was not given {' and '.join(missing)}",
        *evidence,
        cause="container-devices-missing",
        detail="The kernel of the host has the driver and shows the GPU; only the device nodes are missing here.",
        fixes=(container_devices(machine, proof="CON001"),),
    )


def _wsl_device(machine: Machine) -> Verdicts:
    dxg = machine.driver.dxg
    if dxg is None or dxg.exists is None:
        return unknown("whether /dev/dxg is there is not known")
    evidence = Evidence("/dev/dxg", "present" if dxg.exists else "absent")
    if dxg.exists:
        return passed("/dev/dxg was passed to the container", evidence)
    return failed(
        "the container was not given /dev/dxg",
        evidence,
        cause="container-devices-missing",
        fixes=(
            container_flags(
                machine,
                "In the WSL distribution, start the container again with the GPU",
                (
                    "--device=/dev/dxg",
                    "-v /usr/lib/wsl/lib/libdxcore.so:/usr/lib/libdxcore.so",
                    "-v /opt/rocm/lib/libhsa-runtime64.so.1:/opt/rocm/lib/libhsa-runtime64.so.1",
                ),
                proof="CON001",
            ),
        ),
    )


@check("CON002", "container.groups", rests_on=("CON001",), causes=("device-permission",))
def groups(machine: Machine) -> Verdicts:
    """This user may open the device nodes that the container was given.

    Why it matters: a node keeps the owner and the group id that it has on the host. The image's own "render" group
    often has another number, so that a name in --group-add means another group than on the host.
    How to fix: add the numbers of the groups that own the nodes on the host. Rootless podman maps group ids:
    `--group-add keep-groups` keeps those of the user who starts it.
    Sources: https://rocm.docs.amd.com/projects/install-on-linux/en/latest/how-to/docker.html; podman-run(1)
    """
    if not machine.container.inside:
        return skipped("this is not a container")
    nodes = [node for node in (machine.driver.kfd, *machine.driver.render_nodes) if node is not None and node.exists]
    if not nodes:
        return skipped("no device node is known")
    evidence = [
        Evidence(
            node.path,
            f"owner {node.uid}, group {node.gid}, mode {node.mode or 0:o}, "
            + {True: "can be opened", False: "cannot be opened", None: "not tried"}[node.openable],
        )
        for node in nodes
    ]
    closed = [node for node in nodes if node.openable is False]
    renders = [node for node in nodes if node.path != "/dev/kfd"]
    if not closed or (renders and machine.driver.kfd not in closed and any(node.openable for node in renders)):
        return passed("the device nodes can be opened", *evidence[:3])
    user = machine.user
    who = f"user {user.uid} with the groups {', '.join(map(str, user.groups))}" if user else "this user"
    detail = ""
    if any(node.gid == 65534 for node in closed):
        detail = "The group shows as 65534: the user namespace of the container does not map the host's group."
    return failed(
        f"{who} may not open {' and '.join(node.path for node in closed[:3])}",
        *evidence[:4],
        cause="device-permission",
        detail=detail,
        fixes=(container_devices(machine, proof="CON002"),),
    )


@check("CON003", "container.shared-memory", causes=("rccl-multi-gpu",))
def shared_memory(machine: Machine) -> Verdicts:
    """The container has shared memory for more than one process.

    Why it matters: docker gives a container 64 MiB of /dev/shm. Data loaders with workers and RCCL between several GPUs
    put their buffers there and end with a bus error or "unable to write to file".
    How to fix: --ipc=host or --shm-size 16G; in Kubernetes an emptyDir of medium Memory at /dev/shm.
    Sources: https://rocm.docs.amd.com/projects/install-on-linux/en/docs-6.2.0/how-to/3rd-party/pytorch-install.html
    """
    container = machine.container
    if not container.inside:
        return skipped("this is not a container")
    if container.shm_bytes is None:
        return unknown("the size of /dev/shm is not known")
    evidence = Evidence("/dev/shm", f"{container.shm_bytes // _MIB} MiB")
    if container.shm_bytes > 64 * _MIB:
        return passed(f"/dev/shm has {container.shm_bytes // _MIB} MiB", evidence)
    several = len([gpu for gpu in machine.gpus.known if gpu.visible is not False]) > 1
    if container.runtime == "kubernetes":
        fix = Fix(
            "Mount memory at /dev/shm in the pod's specification",
            (
                "volumes: [{name: shm, emptyDir: {medium: Memory, sizeLimit: 16Gi}}]",
                "volumeMounts: [{name: shm, mountPath: /dev/shm}]   # of the container",
            ),
            needs=Need.RESTART,
            proof="CON003",
        )
    else:
        fix = container_flags(
            machine, "Start the container again with more shared memory", ("--shm-size 16G",), proof="CON003"
        )
    return warned(
        f"/dev/shm has {container.shm_bytes // _MIB} MiB only",
        evidence,
        cause="rccl-multi-gpu" if several else None,
        detail="One process on one GPU works with it; data loader workers and several GPUs need more.",
        fixes=(fix,),
    )
