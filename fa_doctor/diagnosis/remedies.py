"""Turns what a check wants done into commands for this very machine.

The same remedy reads differently on different machines: apt-get or dnf, with sudo or as root, in a virtual environment
or on a system Python that refuses to be touched, on a host or as a line of a Dockerfile. Checks say what; this module
knows how. It never proposes to open device nodes to everybody, privileged containers, links in place of a library's
name, or an override to another family of GPUs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fa_doctor.diagnosis.actions import MakeFolder, ReplacePackages, SetVariable
from fa_doctor.diagnosis.model import Fix, Need, Safety
from fa_doctor.knowledge.stacks import stacks

if TYPE_CHECKING:
    from fa_doctor.facts.driver import DeviceNode
    from fa_doctor.facts.machine import Machine

__all__ = [
    "as_root",
    "container_devices",
    "container_flags",
    "install_kernels",
    "install_line",
    "install_system_packages",
    "is_image_build",
    "join_groups",
    "leave_python_path",
    "make_folder",
    "new_environment",
    "replace_packages",
    "run_as_root",
    "set_variable",
    "target_python",
    "uninstall_line",
    "unset_variable",
]

_IMAGE_RUNTIMES = ("docker", "podman", "kubernetes")
NEW_ENVIRONMENT = "~/fa-doctor-env"


def is_image_build(machine: Machine) -> bool:
    """Whether the system here comes from a container image: what is installed by hand is lost with the container."""
    return bool(machine.container.inside) and machine.container.runtime in _IMAGE_RUNTIMES


def as_root(machine: Machine, command: str) -> str:
    """The command as this user must type it: root needs no sudo (and an image often has none)."""
    return command if machine.user is not None and machine.user.uid == 0 else f"sudo {command}"


def run_as_root(
    machine: Machine,
    title: str,
    commands: Iterable[str],
    *,
    undo: Iterable[str] | None = None,
    needs: Need = Need.ROOT,
    proof: str | None = None,
) -> Fix:
    """Commands that an administrator types on the host; never applied by fa-doctor."""
    back = None if undo is None else tuple(as_root(machine, line) for line in undo)
    return Fix(title, tuple(as_root(machine, line) for line in commands), back, needs, proof=proof)


def install_system_packages(machine: Machine, title: str, names: Mapping[str, str], *, proof: str | None = None) -> Fix:
    """Installs packages of the distribution. `names` maps a package manager ("apt-get", "dnf", "zypper", "pacman",
    "apk") to what the packages are called there, blank-separated. In an image the line is one for its Dockerfile.
    Where the package manager is unknown, or has no name for it, the fix says so in words."""
    manager = machine.system.package_manager
    wanted = names.get(manager or "")
    if not wanted:
        return Fix(f"{title} (with the package manager of this system)", proof=proof)
    line = {
        "apt-get": f"apt-get install -y {wanted}",
        "dnf": f"dnf install -y {wanted}",
        "zypper": f"zypper install -y {wanted}",
        "pacman": f"pacman -S --needed {wanted}",
        "apk": f"apk add {wanted}",
    }[manager or ""]
    if is_image_build(machine):
        update = "apt-get update && " if manager == "apt-get" else ""
        return Fix(f"{title} (in the Dockerfile of this image)", (f"RUN {update}{line}",), needs=Need.ROOT, proof=proof)
    before = [as_root(machine, "apt-get update")] if manager == "apt-get" else []
    return Fix(title, (*before, as_root(machine, line)), needs=Need.ROOT, proof=proof)


def target_python(machine: Machine) -> str:
    """The target interpreter as a word of a shell command."""
    return shlex.quote(machine.python.executable or "python3")


def install_line(machine: Machine, requirements: Iterable[str], index: str | None = None, *options: str) -> str:
    """One line that installs into the target Python: `uv pip` where uv is on PATH, else `python -m pip`."""
    where = ("--index-url", index) if index else ()
    words = ("install", *options, *where, *requirements)
    return _pip(machine, words)


def uninstall_line(machine: Machine, names: Iterable[str]) -> str:
    """One line that removes distributions from the target Python."""
    names = tuple(names)
    return _pip(machine, ("uninstall", *names) if machine.python.uv else ("uninstall", "-y", *names))


def replace_packages(
    machine: Machine,
    title: str,
    *,
    remove: Iterable[str] = (),
    install: Iterable[str] = (),
    index: str | None = None,
    options: tuple[str, ...] = (),
    safety: Safety = Safety.SAFE,
    proof: str | None = None,
) -> Fix:
    """Removes distributions from the target Python and installs requirements from one index.

    Where the target is a system Python that its distribution manages (PEP 668), or one that this user cannot write,
    the commands make a virtual environment first, and nothing is applied automatically.
    """
    remove, install = tuple(remove), tuple(install)
    python = machine.python
    if python.externally_managed or (python.writable is False and python.environment in ("system", "other")):
        if not install:
            return Fix(title, (uninstall_line(machine, remove),), safety=Safety.UNSAFE, proof=proof)
        where = f"--index-url {shlex.quote(index)} " if index else ""
        wanted = " ".join(shlex.quote(word) for word in (*options, *install))
        lines = (
            f"{target_python(machine)} -m venv {NEW_ENVIRONMENT}",
            f". {NEW_ENVIRONMENT}/bin/activate",
            f"pip install {where}{wanted}",
        )
        return Fix(f"{title} (in a virtual environment: this Python is not to be changed)", lines, proof=proof)
    commands = []
    if not python.uv and python.distributions is not None and not python.find("pip"):
        commands.append(f"{target_python(machine)} -m ensurepip")
    if remove:
        commands.append(uninstall_line(machine, remove))
    if install:
        commands.append(install_line(machine, install, index, *options))
    undo = _undo(machine, remove, install)
    # A Python that is no environment of its own (that of an image, of pyenv) is shared by more than this project.
    own = python.executable and python.environment in ("venv", "conda")
    action = ReplacePackages(remove, install, index) if own and not options else None
    if python.writable is False:  # an environment that belongs to root, as /opt/venv in an image
        commands = [as_root(machine, line) for line in commands]
        undo = tuple(as_root(machine, line) for line in undo) if undo else None
        action = None
    if is_image_build(machine):
        commands = [f"RUN {line}" for line in commands]
        title += " (in the Dockerfile of this image; without RUN it holds until this container ends)"
    return Fix(title, tuple(commands), undo, safety=safety, action=action, proof=proof)


def install_kernels(machine: Machine, title: str, *, replace: bool = True, proof: str | None = None) -> Fix:
    """Installs the attention kernels of fa-doctor as flash_attn beside the torch and Triton that are there."""
    line = f"fa-doctor install --python {target_python(machine)} --stack installed --attention bundled"
    return Fix(title, (f"{line} --replace" if replace else line,), ("fa-doctor install --rollback",), proof=proof)


def leave_python_path(machine: Machine, module: str | None, proof: str) -> tuple[Fix, ...]:
    """Where a module's folder is imported only because PYTHONPATH names the folder above it: the line without that.
    Removing packages would take away the installed one, which is not the one that is imported."""
    place = (module or "").rpartition("/")[0]
    if place not in machine.python.python_path:
        return ()
    rest = ":".join(folder for folder in machine.python.python_path if folder != place)
    line = f"export PYTHONPATH={shlex.quote(rest)}" if rest else "unset PYTHONPATH"
    return (Fix(f"Take {place} out of PYTHONPATH", (line,), proof=proof),)


def new_environment(machine: Machine, version: str, *, proof: str | None = None) -> Fix:
    """Makes a virtual environment with another version of Python; uv, where it is there, brings the interpreter too."""
    folder = f"{NEW_ENVIRONMENT}-{version}"
    make = f"uv venv --seed --python {version} {folder}" if machine.python.uv else f"python{version} -m venv {folder}"
    lines = (make, f". {folder}/bin/activate", "fa-doctor check")
    return Fix(f"Make an environment with Python {version} and go on in it", lines, proof=proof)


def set_variable(
    machine: Machine, name: str, value: str, title: str, *, safety: Safety = Safety.SAFE, proof: str | None = None
) -> Fix:
    """Sets a variable for the processes to come: an export line, and ENV or -e for a container."""
    assignment = f"{name}={shlex.quote(value)}"
    commands = [f"export {assignment}"]
    if is_image_build(machine):
        commands.append(f"ENV {assignment}")
    before = machine.variable(name)
    undo = (f"unset {name}",) if before is None else (f"export {name}={shlex.quote(before)}",)
    return Fix(title, tuple(commands), undo, safety=safety, action=SetVariable(name, value), proof=proof)


def unset_variable(
    machine: Machine, name: str, title: str, *, safety: Safety = Safety.SAFE, proof: str | None = None
) -> Fix:
    """Takes a variable away from the processes to come. Where it is set for good (a shell's start-up file, a job
    script, an ENV line) nobody but the user can know."""
    before = machine.variable(name)
    undo = (f"export {name}={shlex.quote(before)}",) if before is not None else None
    return Fix(title, (f"unset {name}",), undo, safety=safety, action=SetVariable(name, None), proof=proof)


def make_folder(machine: Machine, path: str, variable: str, title: str, *, proof: str | None = None) -> Fix:
    """Makes a folder that this user can write and points a variable at it."""
    lines = (f"mkdir -p {shlex.quote(path)}", f"export {variable}={shlex.quote(path)}")
    undo = (f"unset {variable}",)
    return Fix(title, lines, undo, safety=Safety.SAFE, action=MakeFolder(path, variable), proof=proof)


def join_groups(machine: Machine, nodes: Iterable[DeviceNode], *, proof: str | None = None) -> Fix:
    """Puts this user into the groups that really own device nodes, by the names they have on this system.

    A group id without a name here gets one first (as in an image whose /etc/group does not know the host's render
    group). Only nodes whose group may read and write are considered; root's own group is never joined.
    """
    user = machine.user
    name = shlex.quote(user.name) if user and user.name else '"$USER"'
    joined = set(user.groups) if user else set()
    wanted: dict[int, str | None] = {}
    for node in nodes:
        if node.gid and node.gid not in joined and (node.mode is None or node.mode & 0o060 == 0o060):
            wanted.setdefault(node.gid, node.group)
    commands = []
    groups = []
    for gid, group in sorted(wanted.items()):
        if group is None:
            group = f"gpu{gid}"
            commands.append(f"groupadd --gid {gid} {group}")
        groups.append(shlex.quote(group))
    if not groups:
        return Fix(
            "Give this user access to the device nodes (their owner or mode must change on the host)", proof=proof
        )
    commands.append(f"usermod -aG {','.join(groups)} {name}")
    title = f"Join the group{'s' if len(groups) > 1 else ''} that own{'' if len(groups) > 1 else 's'} the device nodes, then log in again"
    return Fix(title, tuple(as_root(machine, line) for line in commands), needs=Need.RESTART, proof=proof)


def container_devices(machine: Machine, *, proof: str | None = None) -> Fix:
    """How to start this container again with the GPU: the flags of its own engine, with the group ids of the host."""
    runtime = machine.container.runtime
    needs = Need.RESTART
    if runtime == "kubernetes":
        groups = ", ".join(map(str, _group_ids(machine)))
        pod = (f"securityContext: {{supplementalGroups: [{groups}]}}   # of the pod",) if groups else ()
        limit = "resources: {limits: {amd.com/gpu: 1}}   # of the container; needs AMD's device plugin on the cluster"
        return Fix("Ask for a GPU in the pod's specification", (limit, *pod), needs=needs, proof=proof)
    if runtime == "apptainer":
        return Fix(
            "Start it with the ROCm devices of the host",
            ("apptainer exec --rocm IMAGE COMMAND",),
            needs=needs,
            proof=proof,
        )
    if runtime == "lxc":
        lines = (
            "lxc config device add CONTAINER gpu gpu gid=$(getent group render | cut -d: -f3)",
            "lxc config device add CONTAINER kfd unix-char source=/dev/kfd path=/dev/kfd mode=0660",
        )
        return Fix("Add the devices to the container, on its host", lines, needs=needs, proof=proof)
    if runtime == "systemd-nspawn":
        line = "systemd-nspawn --bind=/dev/kfd --bind=/dev/dri --property='DeviceAllow=char-kfd rw' --property='DeviceAllow=char-drm rw' ..."
        return Fix("Start it with the devices of the host", (line,), needs=needs, proof=proof)
    return container_flags(
        machine,
        "On the host, start the container again with the GPU's devices",
        ("--device=/dev/kfd", "--device=/dev/dri", *_group_flags(machine)),
        proof=proof,
    )


def container_flags(machine: Machine, title: str, flags: Iterable[str], *, proof: str | None = None) -> Fix:
    """`docker run` (or podman's) with flags that were missing; what else was given stays as it was."""
    engine = "podman" if machine.container.runtime == "podman" else "docker"
    return Fix(title, (f"{engine} run {' '.join(flags)} ... IMAGE",), needs=Need.RESTART, proof=proof)


def _group_ids(machine: Machine) -> list[int]:
    nodes = [node for node in (machine.driver.kfd, *machine.driver.render_nodes) if node is not None]
    # 65534 is how an id that the user namespace does not map shows: it is no group of the host.
    return sorted({node.gid for node in nodes if node.gid and node.gid != 65534})


def _group_flags(machine: Machine) -> tuple[str, ...]:
    """The groups to add. Ids, since an image's /etc/group need not know the host's names; where the nodes cannot be
    seen from here, the host's shell looks the ids up."""
    if machine.user is not None and machine.user.uid == 0 and not machine.container.rootless:
        return ()  # root opens the nodes whatever their group
    if machine.container.runtime == "podman" and machine.container.rootless:
        return ("--group-add", "keep-groups")
    groups = _group_ids(machine)
    if groups:
        return tuple(word for gid in groups for word in ("--group-add", str(gid)))
    return ("--group-add $(stat -c %g /dev/kfd)", "--group-add $(stat -c %g /dev/dri/renderD128)")


def _pip(machine: Machine, words: Iterable[str]) -> str:
    if machine.python.uv:
        verb, *rest = words
        parts = ["uv", "pip", verb, "--python", machine.python.executable or "python3", *rest]
    else:
        parts = [machine.python.executable or "python3", "-m", "pip", *words]
    return " ".join(shlex.quote(part) for part in parts)


def _undo(machine: Machine, remove: tuple[str, ...], install: tuple[str, ...]) -> tuple[str, ...] | None:
    """The way back, as far as versions tell: what was there is installed again, what was new is removed."""
    before = {found.name: found.version for found in machine.python.distributions or ()}
    touched = {*remove, *(re.split(r"[\[=<>!~ ]", word, maxsplit=1)[0].lower() for word in install)}
    fresh = [name for name in sorted(touched) if name not in before]
    lines = [uninstall_line(machine, fresh)] if fresh else []
    by_index: dict[str | None, list[str]] = {}
    for name in sorted(touched):
        version = before.get(name)
        if not version:
            continue
        label = version.partition("+")[2]
        index = next((stack.url for stack in stacks().values() if label and stack.local == label), None)
        if label and index is None:
            return None  # a build of unknown origin cannot be had again by its version alone
        by_index.setdefault(index, []).append(f"{name}=={version}")
    lines += [install_line(machine, wanted, index) for index, wanted in by_index.items()]
    return tuple(lines) or None
