"""The kernel driver and the device nodes: loaded, with a compute interface, open to this user, and of a fitting version."""

from __future__ import annotations

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Need, Verdict, failed, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import as_root, container_devices, install_system_packages, join_groups, run_as_root
from fa_doctor.facts.driver import DeviceNode
from fa_doctor.facts.machine import Machine
from fa_doctor.knowledge.drivers import driver_release, regressions, releases_beyond

_SUPERFLUOUS = ("too old", "radeon", "vfio-pci")


@check("DRV001", "driver.loaded", causes=("driver-missing", "wsl-specific"))
def loaded(machine: Machine) -> Verdicts:
    """The kernel driver of the GPU is loaded: amdgpu, or under WSL the one behind /dev/dxg.

    Why it matters: without it there is no GPU for any program, whatever is installed above it. Every current kernel
    brings amdgpu; AMD's package amdgpu-dkms replaces it with a newer one, which must be built for each kernel anew.
    How to fix: load it; take away what blocks it (a blacklist, nomodeset); install the kernel's extra modules where a
    cloud image left them out; build amdgpu-dkms for the running kernel, or boot one that it supports.
    Sources: https://rocm.docs.amd.com/projects/install-on-linux/en/latest/; ROCm/legacy-rocm-build issues 1850 and 1626
    """
    driver = machine.driver
    if machine.system.wsl:
        return _wsl(machine)
    if driver.loaded:
        version = f" {driver.version}" if driver.version else ""
        origin = {"dkms": "AMD's package (DKMS)", "in-tree": "the kernel's own"}.get(driver.origin or "", "")
        return passed(f"amdgpu{version} is loaded{f': {origin}' if origin else ''}", *driver.evidence)
    if driver.loaded is None:
        if machine.gpus.devices == ():
            return skipped("no compute device, and whether amdgpu is loaded is not known")
        return unknown("whether amdgpu is loaded is not known")
    cards = [
        other
        for other in machine.gpus.others
        if other.vendor == "AMD" and not any(word in other.why for word in _SUPERFLUOUS)
    ]
    if not cards and not machine.gpus.known:
        return skipped("there is no AMD GPU that amdgpu could drive", *driver.evidence)
    evidence = (*driver.evidence, *(item for card in cards for item in card.evidence), *driver.blocked_by)
    if machine.container.inside:
        return failed(
            "the kernel of the container's host has not loaded amdgpu",
            *evidence,
            cause="driver-missing",
            detail="A container has no kernel of its own: this must be done on the host.",
            fixes=(Fix("On the host: load the driver", ("sudo modprobe amdgpu",), needs=Need.ROOT, proof="DRV001"),),
        )
    reason, fixes = _why_not_loaded(machine)
    return failed(
        f"amdgpu is not loaded: {reason}" if reason else "amdgpu is not loaded",
        *evidence,
        cause="driver-missing",
        detail=f"The kernel is {machine.system.kernel}." if machine.system.kernel else "",
        fixes=fixes,
    )


def _wsl(machine: Machine) -> Verdict:
    dxg = machine.driver.dxg
    if dxg is None or dxg.exists is None:
        return unknown("whether /dev/dxg is there is not known")
    if dxg.exists:
        return passed("WSL hands the GPU on through /dev/dxg", Evidence("/dev/dxg", "present"))
    if machine.container.inside:
        return skipped("the container was not given /dev/dxg: CON001 tells")
    return failed(
        "WSL hands no GPU on: /dev/dxg is missing",
        Evidence("/dev/dxg", "absent"),
        cause="wsl-specific",
        detail="This is WSL 1, or an old WSL 2, or a Windows driver without support for it. /dev/kfd never exists under WSL.",
        fixes=(
            Fix(
                "On Windows: bring WSL and the driver up to date, and use version 2",
                ("wsl.exe --update", "wsl.exe --set-version <distribution> 2", "wsl.exe --shutdown"),
                needs=Need.RESTART,
                proof="DRV001",
            ),
        ),
    )


def _why_not_loaded(machine: Machine) -> tuple[str, tuple[Fix, ...]]:
    """What keeps amdgpu away, and what to do about that."""
    driver, kernel = machine.driver, machine.system.kernel
    load = run_as_root(
        machine, "Load it now", ("modprobe amdgpu", "dmesg | grep -iE 'amdgpu|kfd' | tail -n 30"), proof="DRV001"
    )
    if driver.blocked_by:
        fixes = []
        for item in driver.blocked_by:
            if item.source == "/proc/cmdline":
                fixes.append(
                    Fix(
                        f"Take {item.text} out of the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub), then restart",
                        (as_root(machine, "update-grub  # or: grub2-mkconfig -o /boot/grub2/grub.cfg"),),
                        needs=Need.REBOOT,
                        proof="DRV001",
                    )
                )
            else:
                first = item.text.split()[0]
                line = f"sed -i.before-fa-doctor -E 's/^[[:space:]]*{first}[[:space:]]+amdgpu/# &/' {item.source}"
                undo = f"mv {item.source}.before-fa-doctor {item.source}"
                fixes.append(
                    run_as_root(
                        machine,
                        f"Take the block in {item.source} away, then load it",
                        (line, "modprobe amdgpu"),
                        undo=(undo,),
                        proof="DRV001",
                    )
                )
        return f"{driver.blocked_by[0].text!r} in {driver.blocked_by[0].source} blocks it", tuple(fixes)
    unbuilt = [build for build in driver.dkms if kernel and kernel not in build.kernels]
    if unbuilt and len(unbuilt) == len(driver.dkms):
        return f"amdgpu-dkms {unbuilt[-1].version} was not built for kernel {kernel}", _build(machine)
    if driver.on_disk is False:
        # Slim images leave these out: Ubuntu's cloud kernels, Fedora's and Red Hat's kernel-core, SUSE's kernel-default-base.
        names = {
            "apt-get": f"linux-modules-extra-{kernel}",
            "dnf": f"kernel-modules-{kernel}",
            "zypper": "kernel-default",
        }
        extra = install_system_packages(machine, "Install the rest of the kernel's modules", names, proof="DRV001")
        return f"kernel {kernel} has no such module installed", (extra, load)
    return "", (load,)


def _build(machine: Machine) -> tuple[Fix, ...]:
    kernel = machine.system.kernel or "$(uname -r)"
    headers = {"apt-get": f"linux-headers-{kernel}", "dnf": f"kernel-devel-{kernel}", "zypper": "kernel-default-devel"}
    return (
        install_system_packages(machine, "Install the headers of the running kernel", headers, proof="DRV001"),
        run_as_root(
            machine,
            "Build the module for it; where that fails, boot a kernel that the package supports",
            (f"dkms autoinstall -k {kernel}", "modprobe amdgpu"),
            needs=Need.REBOOT,
            proof="DRV001",
        ),
    )


@check("DRV002", "driver.compute-interface", rests_on=("DRV001",), causes=("driver-missing",))
def compute_interface(machine: Machine) -> Verdicts:
    """/dev/kfd, the driver's compute interface, is there.

    Why it matters: ROCm opens /dev/kfd before anything else. A kernel without CONFIG_HSA_AMD drives screens only. In a
    container it is missing when nobody passed it in.
    How to fix: a kernel with CONFIG_HSA_AMD=y; for a container its --device flags.
    Sources: Linux drivers/gpu/drm/amd/amdkfd/Kconfig; https://rocm.docs.amd.com/projects/install-on-linux/en/latest/how-to/docker.html
    """
    kfd = machine.driver.kfd
    if machine.system.wsl:
        return skipped("WSL has no /dev/kfd, and needs none")
    if machine.container.inside:
        return skipped("this is a container: CON001 tells")
    if kfd is None or kfd.exists is None:
        if any(tool.name == "rocminfo" and tool.state == "ok" for tool in machine.gpus.tools):
            return passed("rocminfo reached the driver through it", Evidence("rocminfo", "lists agents"))
        return unknown("whether /dev/kfd is there is not known")
    if kfd.exists:
        return passed("/dev/kfd is there", Evidence("/dev/kfd", _as_ls(kfd)))
    if not machine.driver.loaded:
        return skipped("amdgpu is not loaded: that comes first")
    evidence = (Evidence("/dev/kfd", "absent"), *machine.driver.evidence)
    if machine.container.inside is None:
        return failed(
            "amdgpu is loaded, but /dev/kfd is missing: most likely a container that was not given it",
            *evidence,
            cause="container-devices-missing",
            detail="A container sees the modules of its host's kernel, but only the device nodes that it was given.",
            fixes=(container_devices(machine, proof="DRV002"),),
        )
    return failed(
        "amdgpu is loaded, but there is no /dev/kfd",
        *evidence,
        cause="driver-missing",
        detail="The running kernel was built without its compute driver (CONFIG_HSA_AMD), or udev did not make the node.",
        fixes=(
            Fix("See whether the kernel has the compute driver", ("grep HSA_AMD /boot/config-$(uname -r)",)),
            Fix("Boot a kernel of the distribution, which has it", needs=Need.REBOOT, proof="DRV002"),
        ),
    )


@check("DRV003", "driver.device-access", rests_on=("DRV001", "DRV002"), causes=("device-permission",))
def device_access(machine: Machine) -> Verdicts:
    """This user may open /dev/kfd and the render nodes.

    Why it matters: without it every program finds no GPU, often without a word of permissions; rocm-smi still shows one.
    How to fix: join the groups that own the nodes (mostly render and video) and log in again. Never open the nodes to
    everybody.
    Sources: https://rocm.docs.amd.com/projects/install-on-linux/en/latest/install/prerequisites.html; ROCm/hip issue 3465
    """
    driver, user = machine.driver, machine.user
    if machine.container.inside:
        return skipped("this is a container: CON002 tells")
    wanted = [driver.dxg] if machine.system.wsl else [driver.kfd, *driver.render_nodes]
    nodes = [node for node in wanted if node is not None and node.exists]
    if not nodes:
        return skipped("no device node is known")
    answers = {node.path: _may_open(machine, node) for node in nodes}
    evidence = [Evidence(node.path, _as_ls(node)) for node in nodes]
    closed = [node for node in nodes if answers[node.path] is False]
    if not closed:
        if None in answers.values():
            return unknown("whether this user may open the device nodes is not known", *evidence[:3])
        return passed("the device nodes can be opened", *evidence[:3])
    if user:
        evidence.append(Evidence("user", f"uid {user.uid}, groups {', '.join(map(str, user.groups))}"))
    shut = [item for item in evidence if answers.get(item.source, False) is False]
    who = f"user {user.name or user.uid}" if user else "this user"
    title = f"{who} may not open {closed[0].path}" + (f" and {len(closed) - 1} more" if len(closed) > 1 else "")
    opened = [node for node in nodes if answers[node.path] and "renderD" in node.path]
    if opened and all("renderD" in node.path for node in closed):
        return warned(
            title, *shut[:6], cause="device-permission", detail=f"{len(opened)} render node(s) can be opened."
        )
    detail, fixes = _let_in(machine, closed)
    return failed(title, *shut[:6], cause="device-permission", detail=detail, fixes=fixes)


def _may_open(machine: Machine, node: DeviceNode) -> bool | None:
    """Whether this user can open a node: what a try said, else what owner, group and mode say."""
    if node.openable is not None:
        return node.openable
    user, mode = machine.user, node.mode
    if mode is not None and mode & 0o006 == 0o006:
        return True
    if user is None or mode is None:
        return None
    if user.uid == 0:
        return True
    if node.uid == user.uid:
        return mode & 0o600 == 0o600
    if node.gid is None:
        return None
    return node.gid in user.groups and mode & 0o060 == 0o060


def _let_in(machine: Machine, closed: list[DeviceNode]) -> tuple[str, tuple[Fix, ...]]:
    user = machine.user
    groups = sorted({node.group for node in closed if node.group})
    if user and user.uid == 0:
        return (
            "Not even root may: a device cgroup, a security module or a user namespace forbids it.",
            (Fix("Look at what started this session: a batch system, a sandbox or a container gives the devices"),),
        )
    in_group = [
        node for node in closed if user and user.name and user.name in node.members and node.gid not in user.groups
    ]
    if in_group and len(in_group) == len(closed):
        names = " and ".join(groups)
        return (
            f"/etc/group lists {user.name if user else 'the user'} in {names} already, but this session began before that.",
            (
                Fix(
                    "Log out and in again (a running tmux, screen or VS Code server too)",
                    (f"exec newgrp {groups[0]}",),
                    needs=Need.RESTART,
                    proof="DRV003",
                ),
            ),
        )
    ownerless = [node for node in closed if not node.gid or (node.mode is not None and node.mode & 0o060 != 0o060)]
    if ownerless:
        rules = (
            'printf \'%s\\n\' \'SUBSYSTEM=="kfd", KERNEL=="kfd", GROUP="render", MODE="0660"\' '
            '\'SUBSYSTEM=="drm", KERNEL=="renderD*", GROUP="render", MODE="0660"\' > /etc/udev/rules.d/70-kfd-render.rules'
        )
        script = f"sh -c {_quoted(rules)}"
        rule = run_as_root(
            machine,
            "Let the render group own the nodes (a udev rule), then join it",
            (script, "udevadm control --reload-rules && udevadm trigger", f"usermod -aG render {_user(machine)}"),
            undo=("rm /etc/udev/rules.d/70-kfd-render.rules",),
            needs=Need.RESTART,
            proof="DRV003",
        )
        return f"{ownerless[0].path} belongs to no group that may use it.", (rule,)
    return "", (join_groups(machine, closed, proof="DRV003"),)


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _user(machine: Machine) -> str:
    return _quoted(machine.user.name) if machine.user and machine.user.name else '"$USER"'


def _as_ls(node: DeviceNode) -> str:
    if node.mode is None:
        return "present"
    group = node.group or node.gid
    tried = {True: ", can be opened", False: ", cannot be opened", None: ""}[node.openable]
    return f"mode {node.mode:04o}, owner {node.uid}, group {group} ({node.gid}){tried}"


@check("DRV004", "driver.version", rests_on=("DRV001",), causes=("driver-version-mismatch",))
def version(machine: Machine) -> Verdicts:
    """The kernel driver and the ROCm that runs on it were tested together.

    Why it matters: each driver package of AMD is tested with a few releases of the user space before and after it; from
    ROCm 6.4 on AMD keeps both compatible for a year each way. Far apart, initialisation fails, or calls between GPUs do.
    What counts is the ROCm that the program loads: for torch the one its wheel was built for.
    How to fix: bring the driver package up to date, or take a torch that was built for an older ROCm.
    Sources: https://rocm.docs.amd.com/projects/install-on-linux/en/latest/reference/user-kernel-space-compat-matrix.html;
    ROCm/amdgpu-docs PR 97; ROCm/legacy-rocm-build issue 1583
    """
    driver = machine.driver
    if not driver.loaded:
        return skipped("amdgpu is not loaded, or not known to be")
    verdicts: list[Verdict] = [*_known_regressions(machine)]
    kernel = machine.system.kernel
    unbuilt = [build for build in driver.dkms if kernel and kernel not in build.kernels]
    if driver.origin == "in-tree" and unbuilt and len(unbuilt) == len(driver.dkms):
        verdicts.append(
            warned(
                f"amdgpu-dkms {unbuilt[-1].version} is installed but not built for kernel {kernel}: the kernel's own driver runs",
                Evidence("/var/lib/dkms/amdgpu", f"built for: {', '.join(unbuilt[-1].kernels) or 'no kernel'}"),
                *driver.evidence,
                cause="driver-version-mismatch",
                fixes=_build(machine),
            )
        )
    release = driver_release(driver.version) if driver.origin == "dkms" and driver.version else None
    rocm = _user_space(machine)
    if release is None or not release.tested or rocm is None:
        if verdicts:
            return verdicts
        if driver.origin == "in-tree":
            return passed(
                f"the kernel's own driver ({driver.version}), for which AMD publishes no table", *driver.evidence
            )
        return skipped("no table names what this driver was tested with", *driver.evidence)
    found, source = rocm
    evidence = (Evidence("/sys/module/amdgpu/version", f"{driver.version} ({release.package})"), source)
    beyond = releases_beyond(release.tested, found)
    if not beyond:
        return verdicts or passed(
            f"driver {driver.version} ({release.package}) was tested with ROCm {found}", *evidence
        )
    newer = beyond > 0
    title = f"driver {driver.version} ({release.package}) is {'older' if newer else 'newer'} than ROCm {found} was tested with"
    detail = f"AMD's table names ROCm {release.tested[0]} to {release.tested[-1]} for it."
    update = Fix(
        "Bring AMD's driver package up to date (its repository is versioned: choose a newer one), then restart"
        if newer
        else "Use a newer ROCm, or a torch that was built for one",
        (as_root(machine, "amdgpu-install --usecase=dkms"),) if newer else (),
        needs=Need.REBOOT if newer else None,
        proof="DRV004",
    )
    # One or two releases apart mostly works, and AMD's own table grows with time; three are another generation.
    if abs(beyond) >= 3:
        verdicts.append(failed(title, *evidence, cause="driver-version-mismatch", detail=detail, fixes=(update,)))
    else:
        verdicts.append(warned(title, *evidence, cause="driver-version-mismatch", detail=detail, fixes=(update,)))
    return verdicts


def _user_space(machine: Machine) -> tuple[str, Evidence] | None:
    """The ROCm that would run: torch's own, else the only installed one."""
    torch = machine.torch
    if torch is not None and torch.rocm:
        return torch.rocm, Evidence("torch", f"{torch.version}, built for ROCm {torch.rocm}")
    versions = {
        install.version: install for install in machine.rocm or () if install.version and install.origin != "torch"
    }
    if len(versions) == 1:
        found, install = next(iter(versions.items()))
        return str(found), Evidence(install.path, f"ROCm {found}")
    return None


def _known_regressions(machine: Machine) -> list[Verdict]:
    torch, driver, kernel = machine.torch, machine.driver, machine.system.kernel or ""
    local = torch.version.partition("+")[2] if torch else ""
    found = []
    for row in regressions():
        fits = any(gfx in row.gfx for gfx in machine.gpus.gfx_targets) and driver.origin == row.origin
        if fits and row.kernel.match(kernel) and row.torch_local.match(local):
            evidence = (Evidence("torch", torch.version if torch else ""), Evidence("kernel", kernel))
            found.append(
                warned(
                    f"kernel {kernel} with torch {torch.version if torch else ''} is {row.confidence} not to work on {row.gfx[0]}",
                    *evidence,
                    cause="driver-version-mismatch",
                    detail=f"{row.fact[0].upper()}{row.fact[1:]}. Sources: {'; '.join(row.sources)}",
                )
            )
    return found
