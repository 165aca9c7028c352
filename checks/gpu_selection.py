"""Which GPU a process gets, and as what: the override, the *_VISIBLE_DEVICES variables, an integrated GPU beside a card."""

from __future__ import annotations

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Verdict, failed, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import set_variable, unset_variable
from fa_doctor.facts.gpus import Gpu
from fa_doctor.facts.gpus.override import VARIABLE, Override
from fa_doctor.facts.gpus.visibility import CUDA, HIP, ORDINAL, ROCR
from fa_doctor.facts.machine import Machine
from fa_doctor.knowledge.gpus import architecture

_GIB = 1 << 30
# Families whose code objects run on each other's silicon; RDNA3.5 executes RDNA3 code, more slowly than its own.
_COMPATIBLE = frozenset({frozenset({"RDNA3", "RDNA3.5"})})


@check("GPU004", "gpu.override", rests_on=("GPU001",), causes=("hsa-override-wrong",))
def override(machine: Machine) -> Verdicts:
    """HSA_OVERRIDE_GFX_VERSION is not set, or fits every GPU of the process.

    Why it matters: it makes the runtime load code of another GPU. On a sibling of the same family that works; across
    families it ends in memory faults, hangs and resets of the whole GPU. It holds for all GPUs of the process, and a
    value of another form makes the runtime fail at its start. Caches and tuned settings follow the false name.
    How to fix: unset it; where it is needed, use the value of the GPU's own family.
    Sources: ROCm/rocm-systems libhsakmt/src/topology.c; ROCm/legacy-rocm-build issue 5238; ace-step/ACE-Step-1.5 issue 658
    """
    gpus = machine.gpus
    malformed = [item for item in gpus.overrides if item.malformed]
    verdicts = [_malformed(machine, item) for item in malformed]
    if gpus.override is None and not gpus.overrides:
        known = machine.variables is not None or any(gpu.gfx_in_force for gpu in gpus.known)
        return passed("no override is in force") if known else unknown("the environment variables are not known")
    nodes = {gpu.kfd_node for gpu in gpus.known}
    if nodes and None not in nodes:
        strangers = (item for item in gpus.overrides if item.node is not None and item.node not in nodes)
        verdicts += [_nobody(machine, item, nodes) for item in strangers]
    if malformed:
        return verdicts
    seen: set[tuple[str | None, str | None]] = set()
    for gpu in gpus.known:
        pair = gpu.gfx, gpu.gfx_in_force
        if gpu.gfx is None or pair in seen or gpu.visible is False:
            continue
        seen.add(pair)
        verdicts.append(_judge(machine, gpu))
    return verdicts or skipped("no visible GPU is known to which the override could apply")


def _name_of(machine: Machine, gpu: Gpu) -> tuple[str, str]:
    """The variable that applies to a device, and its value."""
    for item in machine.gpus.overrides:
        if item.node is not None and item.node == gpu.kfd_node:
            return item.variable, item.value
    return VARIABLE, machine.gpus.override or ""


def _unset(machine: Machine, variable: str) -> Fix:
    return unset_variable(machine, variable, "Take the override away", proof="GPU004")


def _malformed(machine: Machine, item: Override) -> Verdict:
    fixes = [_unset(machine, item.variable)]
    values = {
        known.override.value
        for gpu in machine.gpus.known
        if gpu.gfx and (known := architecture(gpu.gfx)) and known.override
    }
    detail = "The runtime stops at its start with such a value: no GPU is found at all."
    if len(values) == 1:
        fixes.append(set_variable(machine, item.variable, values.pop(), "Or write it as it must be", proof="GPU004"))
    return failed(
        f"{item.variable}={item.value} is not of the form major.minor.stepping in decimal numbers",
        Evidence(item.variable, item.value),
        cause="hsa-override-wrong",
        detail=f"{detail} A gfx90a is 9.0.10, a gfx1030 is 10.3.0.",
        fixes=fixes,
    )


def _nobody(machine: Machine, item: Override, nodes: set[int | None]) -> Verdict:
    there = ", ".join(str(node) for node in sorted(node for node in nodes if node is not None))
    return warned(
        f"{item.variable} names a node that is no GPU",
        Evidence(item.variable, item.value),
        cause="hsa-override-wrong",
        detail=f"The number is that of the node in the kernel's topology, where processors count too; GPUs here: {there}.",
        fixes=(_unset(machine, item.variable),),
    )


def _judge(machine: Machine, gpu: Gpu) -> Verdict:
    native, forced = gpu.gfx or "", gpu.gfx_in_force
    variable, value = _name_of(machine, gpu)
    inferred = machine.variables is None
    told = "as the runtime's answer shows" if inferred else value
    evidence = (Evidence(variable, told), *gpu.evidence[:2])
    name = gpu.name or f"GPU {gpu.index}"
    if forced == native or (forced is None and not inferred):
        if forced == native:
            return passed(f"{name} is used as what it is ({native})", *evidence)
        return unknown(f"what {variable}={value} makes of {name} is not known", *evidence)
    known, target = architecture(native), architecture(forced or "")
    if known is None:
        return unknown(f"{native} ({name}) is not in the table of GPUs: whether {forced} fits is not known", *evidence)
    if target is None:
        return failed(
            f"{variable}={value} names {forced}, which is no known GPU",
            *evidence,
            cause="hsa-override-wrong",
            fixes=(_unset(machine, variable),),
        )
    listed = known.override is not None and known.override.runs_as == forced
    if not (listed or known.family == target.family or frozenset({known.family, target.family}) in _COMPATIBLE):
        return failed(
            f"{variable} makes a {native} ({known.family}) run code of {forced} ({target.family})",
            *evidence,
            cause="hsa-override-wrong",
            detail=f"{name} is a {native}. Code of another family ends in memory faults, hangs or resets of the GPU.",
            fixes=_instead(machine, gpu, variable),
        )
    torch = machine.torch
    if torch is not None and torch.arch_list and native in torch.arch_list:
        return warned(
            f"{variable} is left over: the installed torch has code for {native}, and runs that of {forced}",
            *evidence,
            cause="hsa-override-wrong",
            detail="Its own code is faster, and tuned settings go by the true name.",
            fixes=(_unset(machine, variable),),
        )
    caveat = f" {known.override.caveat}." if known.override and listed else ""
    return passed(
        f"{name} ({native}) runs code of {forced}, which is of its family",
        *evidence,
        detail=f"Not supported by AMD.{caveat}",
    )


def _instead(machine: Machine, gpu: Gpu, variable: str) -> tuple[Fix, ...]:
    """Away with it; and where the installed torch has no code for the GPU, the value that does fit."""
    fixes = [_unset(machine, variable)]
    known = architecture(gpu.gfx or "")
    archs = machine.torch.arch_list if machine.torch else None
    if known and known.override and archs and gpu.gfx not in archs and known.override.runs_as in archs:
        title = f"Or run the code of {known.override.runs_as}, which is of its family ({known.override.caveat})"
        fixes.append(set_variable(machine, variable, known.override.value, title, proof="GPU004"))
    return tuple(fixes)


@check("GPU005", "gpu.integrated", rests_on=("GPU001",), causes=("integrated-gpu-selected",))
def integrated(machine: Machine) -> Verdicts:
    """No integrated GPU stands beside a graphics card where a program could take it.

    Why it matters: programs take device 0, and libraries set up every device that they see. The GPU inside a processor
    has few compute units, memory that is the system's (its pool looks larger than the card's), and often a gfx target
    that nobody builds for: programs crash at their start, or crawl.
    How to fix: hide it with ROCR_VISIBLE_DEVICES, or turn it off in the firmware setup.
    Sources: https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html; invoke-ai/InvokeAI issue 4035
    """
    gpus = machine.gpus.known
    inner = [gpu for gpu in gpus if gpu.integrated]
    cards = [gpu for gpu in gpus if gpu.integrated is False]
    if not inner:
        return passed("no integrated GPU is among the compute devices") if gpus else skipped("no GPU is known")
    if not cards:
        return skipped("the integrated GPU is the only one", *inner[0].evidence[:1])
    shown = [gpu for gpu in inner if gpu.visible is not False]
    if not shown:
        return passed(
            f"{inner[0].name or 'the integrated GPU'} is hidden by {inner[0].hidden_by}",
            Evidence(str(inner[0].hidden_by), ""),
        )
    visible = [gpu for gpu in gpus if gpu.visible is not False]
    first = visible[0]
    usable = [gpu for gpu in cards if gpu.visible is not False]
    name = f"{shown[0].name or 'integrated GPU'} ({shown[0].gfx or 'gfx target not known'})"
    evidence = [item for gpu in (shown[0], *cards[:1]) for item in gpu.evidence[:1]]
    pool = shown[0].pool_bytes or shown[0].gtt_bytes
    detail = f"{name} is part of the processor."
    if pool:
        detail += f" Its {pool / _GIB:.0f} GiB are the system's memory."
    supported = architecture(shown[0].gfx or "")
    if supported is not None and supported.rocm_status in ("never", "unsupported"):
        detail += " ROCm does not support it: programs that touch it may crash."
    fixes = _hide(machine, cards)
    if not usable:
        return failed(
            f"only the integrated GPU is visible, {cards[0].name or 'the graphics card'} is hidden by {cards[0].hidden_by}",
            *evidence,
            cause="integrated-gpu-selected",
            detail=detail,
            fixes=fixes,
        )
    if first.integrated:
        return failed(
            f"device 0 is the integrated GPU, {name}, not {cards[0].name or 'the graphics card'}",
            *evidence,
            cause="integrated-gpu-selected",
            detail=detail,
            fixes=fixes,
        )
    return warned(
        f"{name} is visible beside {cards[0].name or 'the graphics card'}",
        *evidence,
        cause="integrated-gpu-selected",
        detail=detail,
        fixes=fixes,
    )


def _hide(machine: Machine, cards: list[Gpu]) -> tuple[Fix, ...]:
    value = ",".join(str(gpu.index) for gpu in cards)
    title = "Show only the graphics card" + ("s" if len(cards) > 1 else "")
    fixes = [set_variable(machine, ROCR, value, title, proof="GPU005")]
    fixes += [
        unset_variable(machine, name, f"{name} counts within that list: take it away", proof="GPU005")
        for name in (HIP, CUDA)
        if machine.variable(name)
    ]
    return tuple(fixes)


@check("GPU006", "gpu.visible-devices", rests_on=("GPU001",), causes=("visible-devices-misuse",))
def visible_devices(machine: Machine) -> Verdicts:
    """The *_VISIBLE_DEVICES variables leave the GPUs that they are meant to leave.

    Why it matters: ROCR_VISIBLE_DEVICES is applied first and renumbers; HIP_VISIBLE_DEVICES (or, where that is unset or
    empty, CUDA_VISIBLE_DEVICES) then counts within what is left. An entry that names no device silently ends its list:
    0,8,1 on an eight-GPU machine is 0. Setting both to "1" leaves nothing. torch refuses to start where HIP has more
    entries than ROCR.
    How to fix: set one of them only, with numbers that exist.
    Sources: https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html; ROCm/clr rocdevice.cpp; torch/cuda/__init__.py
    of 2.13; Parsl/parsl issue 3858
    """
    gpus = machine.gpus.known
    if machine.variables is None:
        return unknown("the environment variables are not known")
    if not gpus:
        return skipped("no GPU is known")
    values = {name: machine.variables[name] for name in (ROCR, HIP, CUDA, ORDINAL) if name in machine.variables}
    if not values:
        return passed("no variable restricts the devices")
    evidence = tuple(Evidence(name, value) for name, value in values.items())
    left = [gpu for gpu in gpus if gpu.visible is not False]
    rejected = "; ".join(f"{entry!r} in {name} names no device" for name, entry in machine.gpus.rejected)
    if not left:
        culprit = next((gpu.hidden_by for gpu in gpus if gpu.hidden_by != ROCR), None) or gpus[0].hidden_by or ROCR
        return failed(
            f"{culprit} hides every GPU",
            *evidence,
            cause="visible-devices-misuse",
            detail=_why_none(values, rejected, len(gpus)),
            fixes=_show(machine, culprit, values),
        )
    second = HIP if values.get(HIP) else CUDA
    if values.get(ROCR) and values.get(second) and len(values[second].split(",")) > len(values[ROCR].split(",")):
        return failed(
            f"{second} lists more devices than {ROCR}",
            *evidence,
            cause="visible-devices-misuse",
            detail="torch 2.13 stops with a RuntimeError then, since the second list counts within the first.",
            fixes=(unset_variable(machine, second, f"Keep {ROCR} alone", proof="GPU006"),),
        )
    if rejected:
        return warned(
            f"{len(left)} of {len(gpus)} GPUs are visible: {rejected}, which ends the list",
            *evidence,
            cause="visible-devices-misuse",
            fixes=_show(machine, machine.gpus.rejected[0][0], values),
        )
    if HIP in values and CUDA in values and values[HIP] != values[CUDA] and values[HIP]:
        return warned(
            f"{HIP} and {CUDA} differ; the first is what counts",
            *evidence,
            cause="visible-devices-misuse",
            fixes=(unset_variable(machine, CUDA, f"Keep {HIP} alone", proof="GPU006"),),
        )
    empty = next((name for name in (HIP, CUDA) if values.get(name) == "" and not values.get(HIP)), None)
    if empty is not None:
        return warned(
            f"{empty} is set to nothing: the HIP runtime takes that for unset, torch for no device",
            *evidence,
            cause="visible-devices-misuse",
            fixes=(unset_variable(machine, empty, "Show all devices", proof="GPU006"),),
        )
    shown = ", ".join(str(gpu.index) for gpu in left[:16])
    note = f"{ORDINAL} is read for OpenCL only." if ORDINAL in values else ""
    return passed(f"{len(left)} of {len(gpus)} GPUs are visible ({shown})", *evidence, detail=note)


def _why_none(values: dict[str, str], rejected: str, count: int) -> str:
    known = f"There {'is' if count == 1 else 'are'} {count} GPU{'s' if count > 1 else ''}, counted from 0."
    if values.get(ROCR) and (values.get(HIP) or values.get(CUDA)) and rejected:
        return f"{rejected}: it counts within what {ROCR} leaves, from 0 again. {known}"
    if values.get(ROCR) == "":
        return f"{ROCR} is set to nothing, which means no device. {known}"
    return f"{rejected}. {known}" if rejected else known


def _show(machine: Machine, culprit: str, values: dict[str, str]) -> tuple[Fix, ...]:
    title = f"Keep {ROCR} alone" if culprit != ROCR and values.get(ROCR) else "Show all devices"
    return (unset_variable(machine, culprit, title, proof="GPU006"),)
