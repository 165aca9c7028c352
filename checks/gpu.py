"""The GPU itself: is there one that ROCm can use, does every card compute, and does it answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from fa_doctor.checks.common import in_use, log_evidence, log_meanings, read_log
from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import (
    Evidence,
    Fix,
    Need,
    Status,
    Verdict,
    failed,
    passed,
    skipped,
    unknown,
    warned,
)
from fa_doctor.diagnosis.remedies import container_devices
from fa_doctor.facts.gpus import Gpu, OtherGpu
from fa_doctor.facts.machine import Machine
from fa_doctor.knowledge.gpus import Architecture, architecture
from fa_doctor.knowledge.stacks import targets_of_wheels

_GIB = 1 << 30
_CPU_INSTEAD = "torch on the CPU works; for the GPU another card is needed."


@check(
    "GPU001",
    "gpu.present",
    rests_on=("DRV001", "DRV002"),
    causes=(
        "gpu-arch-unsupported",
        "driver-missing",
        "driver-version-mismatch",
        "wsl-specific",
        "container-devices-missing",
    ),
)
def present(machine: Machine) -> Verdicts:
    """The machine has an AMD GPU that ROCm can compute on.

    Why it matters: everything else rests on it. A card that shows a picture need not compute: ROCm uses what the
    kernel's compute driver (KFD) lists, or under WSL what the Windows driver passes on.
    How to fix: it depends on what is there in its place; the finding says what it is.
    Sources: Linux drivers/gpu/drm/amd/amdkfd; https://rocm.docs.amd.com/projects/install-on-linux/en/latest/reference/system-requirements.html
    """
    gpus = machine.gpus
    if gpus.devices is None:
        return unknown("nothing that could be read tells which GPUs there are")
    if gpus.devices:
        return passed(_inventory(gpus.devices, gpus.cards), *gpus.evidence, *_first_evidence(gpus.devices))
    hung = [tool for tool in gpus.tools if tool.state == "hung"]
    if hung:
        return unknown(f"{hung[0].name} did not return, and no file tells which GPUs there are", *gpus.evidence)
    if gpus.withheld:
        return _withheld(machine)
    if machine.container.inside and machine.driver.loaded and not (machine.driver.kfd and machine.driver.kfd.exists):
        return skipped("the container has no /dev/kfd: CON001 tells")
    if machine.container.docker_desktop and machine.torch is not None and machine.torch.build == "rocm":
        return skipped("Docker Desktop's virtual machine has no AMD GPU: CON001 tells")
    if machine.system.wsl:
        return _none_under_wsl(machine)
    amd = [other for other in gpus.others if other.vendor == "AMD"]
    if amd:
        return [_unusable(machine, other) for other in amd]
    evidence = [item for other in gpus.others for item in other.evidence] or list(gpus.evidence)
    virtual = [other for other in gpus.others if "virtual machine" in other.why]
    if virtual and len(virtual) == len(gpus.others):
        return failed(
            f"no AMD GPU: this is a virtual machine with the display of {virtual[0].vendor} only",
            *evidence,
            cause="driver-missing",
            detail="No GPU has been passed through to this virtual machine, so that there is nothing to drive. "
            "Installing ROCm again does not help.",
            fixes=(Fix("Pass a GPU through to this virtual machine (PCI passthrough), or run on its host"),),
        )
    others = [other for other in gpus.others if other not in virtual]
    # The display of a management controller is told of only where there is nothing else.
    others = [other for other in others if "computes nothing" not in other.why] or others
    title = "no AMD GPU in this machine"
    if others:
        counts = Counter(_named(other) for other in others)
        title += ": there is only " + " and ".join(f"{n} x {name}" if n > 1 else name for name, n in counts.items())
    detail = " ".join(f"It is {why}." for why in dict.fromkeys(other.why for other in others))
    if any(other.vendor == "NVIDIA" for other in others):
        detail += " For it, flash-attn and torch as they come from the default index are the right ones."
    elif any(other.vendor == "Intel" for other in others):
        detail += " torch has builds for Intel GPUs (xpu); the attention kernels here are not made for them."
    elif not others:
        detail = (
            "No GPU at all is to be seen here, so nothing of ROCm, torch or Triton is judged further. Kernels can be "
            "compiled (`fa-doctor kernels compile`) and stacks installed (`fa-doctor install --arch`) for a GPU that "
            "is elsewhere."
        )
    return Verdict(Status.FAIL, title, detail, None, tuple(evidence))


def _inventory(devices: tuple[Gpu, ...], cards: int | None) -> str:
    """ "8 x Instinct MI300X (gfx942, 192 GiB)", with the devices of partitioned cards counted apart."""
    parts = []
    for (name, gfx, size), count in Counter((gpu.name, gpu.gfx, _size(gpu)) for gpu in devices).items():
        target = ", ".join(part for part in (gfx or "gfx target not known", size) if part)
        parts.append(f"{f'{count} x ' if count > 1 else ''}{name or 'AMD GPU'} ({target})")
    text = "; ".join(parts)
    return f"{text} on {cards} cards" if cards is not None and 0 < cards < len(devices) else text


def _size(gpu: Gpu) -> str:
    """The memory in words; an APU's carve-out is told apart from the system memory that it can use besides."""
    if not gpu.vram_bytes:
        return ""
    size = f"{gpu.vram_bytes / _GIB:.0f} GiB" if gpu.vram_bytes >= _GIB else f"{gpu.vram_bytes >> 20} MiB"
    shared = gpu.gtt_bytes or (gpu.pool_bytes if gpu.pool_bytes != gpu.vram_bytes else None)
    if gpu.integrated and shared:
        return f"{size} of its own and up to {shared / _GIB:.0f} GiB of the system's memory"
    return f"{size} of the system's memory" if gpu.integrated and gpu.pool_bytes == gpu.vram_bytes else size


def _first_evidence(devices: Iterable[Gpu]) -> list[Evidence]:
    return [gpu.evidence[0] for gpu in devices if gpu.evidence][:8]


def _named(other: OtherGpu) -> str:
    name = other.name or f"{other.vendor} GPU"
    if other.vendor.split()[0].lower() not in name.lower():
        name = f"{other.vendor} {name}"
    return f"{name} [{other.pci_id}]" if other.pci_id and not other.name else name


def _withheld(machine: Machine) -> Verdict:
    count = len(machine.gpus.withheld)
    evidence = Evidence(
        f"/sys/class/kfd/kfd/topology/nodes/{machine.gpus.withheld[0]}/properties", "may not be read (EPERM)"
    )
    if machine.container.inside:
        return skipped(f"{count} GPUs are there, and none was given to this container: CON001 tells", evidence)
    return failed(
        f"{count} GPUs are there, but none is given to this process",
        evidence,
        *machine.gpus.evidence,
        cause="container-devices-missing",
        detail="The kernel withholds a GPU from processes whose device cgroup does not hold its render node: a "
        "container or a batch job that was not given one.",
        fixes=(container_devices(machine, proof="GPU001"),),
    )


def _none_under_wsl(machine: Machine) -> Verdict:
    said = [Evidence(tool.name, tool.said) for tool in machine.gpus.tools if tool.said]
    return failed(
        "WSL passes no AMD GPU on to ROCm",
        *said,
        cause="wsl-specific",
        detail="Under WSL the GPU is reached through /dev/dxg and the Windows driver. That no adapter is found means "
        "that this driver is too old for the installed ROCm, or that AMD does not support this GPU under WSL.",
        fixes=(
            Fix(
                "On Windows: install the newest AMD Software (Adrenalin) that names WSL support, then restart WSL",
                ("wsl.exe --shutdown",),
                needs=Need.RESTART,
                proof="GPU001",
            ),
            Fix(
                "Compare GPU, Windows driver and ROCm with AMD's table for WSL",
                (
                    "# https://rocm.docs.amd.com/projects/radeon-ryzen/en/latest/docs/compatibility/compatibilityrad/wsl/wsl_compatibility.html",
                ),
            ),
        ),
    )


def _unusable(machine: Machine, other: OtherGpu) -> Verdict:
    """An AMD GPU that is no compute device, on a machine that has none besides."""
    where = f" at {other.pci}" if other.pci else ""
    title = f"{_named(other)}{where} cannot be used: {other.why}"
    if "too old" in other.why:
        return failed(
            title,
            *other.evidence,
            cause="gpu-arch-unsupported",
            detail="No release of ROCm that torch is built for has code for this chip, and no setting changes that. "
            + _CPU_INSTEAD,
        )
    log = log_evidence(machine, ("start", "hang"))
    if other.driver == "amdgpu":
        return failed(
            title,
            *other.evidence,
            *log,
            cause="driver-version-mismatch",
            detail=log_meanings(machine, ("start", "hang")),
            fixes=_newer_kernel(machine),
        )
    fixes = (
        [
            Fix(
                "Give the GPU back to this system: remove it from the vfio-pci configuration, then restart",
                needs=Need.REBOOT,
            )
        ]
        if other.driver == "vfio-pci"
        else [read_log(machine)]
    )
    return failed(
        title, *other.evidence, *log, cause="driver-missing", detail=log_meanings(machine, ("start",)), fixes=fixes
    )


def _newer_kernel(machine: Machine) -> tuple[Fix, ...]:
    return (
        read_log(machine),
        Fix(
            "Use a newer kernel with its firmware, or AMD's driver package (amdgpu-dkms) for this kernel: the driver that "
            "runs does not know this GPU well enough to compute on it",
            needs=Need.REBOOT,
            proof="GPU001",
        ),
    )


@check("GPU002", "gpu.every-card-computes", rests_on=("GPU001",), causes=("driver-version-mismatch",))
def every_card_computes(machine: Machine) -> Verdicts:
    """Every AMD card in the machine is a compute device.

    Why it matters: a card that failed to start, or fell off the bus, is silently missing: a job for eight GPUs then
    finds seven, or a desktop computes on the wrong one.
    How to fix: read the kernel log; often a reset of the machine, a newer kernel or firmware, or PCIe atomics are needed.
    Sources: Linux drivers/gpu/drm/amd/amdkfd/kfd_device.c
    """
    if not machine.gpus.known:
        return skipped("no compute device is known")
    missing = [other for other in machine.gpus.others if other.vendor == "AMD"]
    if not missing:
        unreadable = machine.gpus.unreadable
        if unreadable:
            source = f"/sys/class/kfd/kfd/topology/nodes/{unreadable[0]}/properties"
            return warned(
                f"{len(unreadable)} node(s) of the GPU topology cannot be read",
                Evidence(source, "an error, or empty"),
                detail="A GPU that is in a reset, or gone from the bus, looks like this.",
                fixes=(read_log(machine),),
            )
        return passed("every AMD card is a compute device")
    if machine.gpus.withheld or machine.container.inside:
        return skipped("a container sees the cards of its host that it was not given")
    return [
        warned(
            f"{_named(other)} at {other.pci or 'an unknown address'} is no compute device",
            *other.evidence,
            *log_evidence(machine, ("start", "hang")),
            cause="driver-version-mismatch" if other.driver == "amdgpu" and "too old" not in other.why else None,
            detail=f"It is {other.why}. {log_meanings(machine, ('start', 'hang'))}".strip(),
            fixes=() if "too old" in other.why else (read_log(machine),),
        )
        for other in missing
    ]


@check("GPU003", "gpu.architecture", rests_on=("GPU001",), causes=("gpu-arch-unsupported",))
def supported(machine: Machine) -> Verdicts:
    """The GPU is of an architecture that current ROCm releases have code for.

    Why it matters: AMD drops old chips from ROCm. They still show up, and kernels for them no longer exist, or come out
    so slow that attention gains nothing.
    How to fix: none in software for chips that are out; those that were never in AMD's tables but have code in a torch
    wheel (RX 6600, RX 7600 and the like) are no failure here: whether the installed torch has it is TOR102's matter.
    Sources: knowledge/gpus.toml, with the tables of each ROCm release.
    """
    verdicts: list[Verdict] = []
    for gfx in dict.fromkeys(gpu.gfx for gpu in in_use(machine)):
        known = architecture(gfx) if gfx else None
        names = ", ".join(dict.fromkeys(gpu.name or "AMD GPU" for gpu in in_use(machine) if gpu.gfx == gfx))
        evidence = [gpu.evidence[0] for gpu in in_use(machine) if gpu.gfx == gfx and gpu.evidence][:2]
        if gfx is None:
            verdicts.append(unknown(f"the gfx target of {names} is not known", *evidence))
        elif known is None:
            verdicts.append(unknown(f"{gfx} ({names}) is not in the table of GPUs", *evidence))
        elif known.rocm_status == "unsupported":
            verdicts.append(
                failed(
                    f"{gfx} ({names}) is too old for any current ROCm",
                    *evidence,
                    cause="gpu-arch-unsupported",
                    detail=f"{_sentence(known.rocm_note)} {_sentence(known.flash_attn_triton_note)} {_instead(known)}",
                )
            )
        elif known.rocm_status == "deprecated":
            verdicts.append(
                warned(
                    f"{gfx} ({names}) is on its way out of ROCm",
                    *evidence,
                    cause="gpu-arch-unsupported",
                    detail=f"{_sentence(known.rocm_note)} {_sentence(known.flash_attn_triton_note)}".strip(),
                )
            )
        elif known.rocm_status in ("never", "unlisted"):
            verdicts.append(_never_listed(known, names, evidence))
        else:
            verdicts.append(
                passed(f"{gfx} ({names}), {known.family}: {_status(known.rocm_status, known.rocm_since)}", *evidence)
            )
    return verdicts or skipped("no device in use is known")


def _instead(known: Architecture) -> str:
    """What is left to someone with a chip that is out."""
    if known.gfx in targets_of_wheels():
        return (
            "torch wheels still have code for it, so that PyTorch without attention kernels may run; nobody tests it."
        )
    return _CPU_INSTEAD


def _never_listed(known: Architecture, names: str, evidence: list[Evidence]) -> Verdict:
    """A chip that AMD never supported: what counts is whether a torch wheel has code for it, or for a sibling."""
    built = targets_of_wheels()
    title = f"{known.gfx} ({names}), {known.family}: in none of AMD's tables"
    if known.gfx in built:
        return passed(f"{title}, but torch wheels have code for it", *evidence)
    if known.override and known.override.runs_as in built:
        return passed(
            f"{title}; torch wheels have code for {known.override.runs_as}, which it can run",
            *evidence,
            detail=f"HSA_OVERRIDE_GFX_VERSION={known.override.value}: {known.override.caveat}.",
        )
    return warned(
        f"{title}, and no torch wheel has code for it", *evidence, cause="gpu-arch-unsupported", detail=_CPU_INSTEAD
    )


def _sentence(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _status(status: str, since: str | None) -> str:
    if status == "supported":
        return f"supported by ROCm {since} and later" if since and since[0].isdigit() else "supported by ROCm"
    return {
        "therock": "built by TheRock",
        "preview": "a preview",
    }.get(status, status)
