"""The attention kernels on the GPUs at hand: they run, and they are right."""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Iterator

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Verdict, failed, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import install_kernels, make_folder
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.probes import Probe, Step, StepState
from fa_doctor.level import Level
from fa_doctor.probe.gather import SDPA_STEP

# Steps that ask nothing of the GPU: that one takes too long may be a slow disk or a busy machine.
_WITHOUT_GPU = ("import torch", "import Triton", "import flash_attn", "compile the attention kernels")
_HUNG = "gpu-hang-or-reset"
_WRONG = "numerics-wrong"
_HAPPENED = {
    StepState.FAILED: "failed",
    StepState.DIED: "killed the process",
    StepState.HUNG: "did not come back",
}


@check(
    "KER001",
    "kernels.smoke",
    rests_on=("TOR101",),
    causes=(
        "compiler-crash",
        "disk-full",
        "driver-missing",
        "gpu-hang-or-reset",
        "gpu-memory-fault",
        "numerics-wrong",
        "rocm-library-missing",
        "triton-cache-unwritable",
        "triton-missing",
        "vram-out-of-memory",
    ),
    level=Level.STANDARD,
)
def smoke(machine: Machine) -> Verdicts:
    """The attention kernels run on every GPU and agree with float64 on the CPU.

    Why it matters: that torch sees a GPU proves nothing. A kernel must have been compiled and run, and its numbers must
    be right: a GPU whose architecture is not what the runtime believes, a library of another release or a damaged card
    shows here and nowhere else.
    What is done: a child process of the target Python, one for each GPU, imports torch, finds the device, copies and
    multiplies, imports Triton, runs a one-line kernel, then the bundled attention forward, backward, with a KV cache,
    and with dropout, causal mask and softcap together. Results are held against the definition of attention in
    float64 on the CPU; an element may be off by twice what plain PyTorch loses in the same dtype.
    How to fix: the step that failed names the layer at fault; the child's own words are in the evidence, and
    `fa-doctor explain` reads them too.
    Sources: the accuracy criterion is that of flash-attn's own tests (Dao-AILab/flash-attention tests/test_flash_attn.py).
    """
    probes = [probe for probe in machine.probes if probe.mode == "smoke"]
    if not probes:
        return skipped(_why_not_run(machine))
    return [_verdict(machine, probe, probes) for probe in probes]


def _why_not_run(machine: Machine) -> str:
    """What the machine itself tells comes first, so that a snapshot says the same as the machine it was made on."""
    if machine.torch is None:
        return "there is no torch to run the kernels with"
    if not machine.gpus.known:
        return "there is no GPU to run the kernels on (`fa-doctor probe --device cpu` interprets them)"
    if machine.host_kind != "live":
        return "the kernels were not run: on a recorded machine, or another root, nothing can be"
    return f"the kernels were not run: torch {machine.torch.version} cannot use this GPU"


def _verdict(machine: Machine, probe: Probe, probes: list[Probe]) -> Verdict:
    where = _where(machine, probe)
    if not probe.steps:
        return unknown(f"the kernels could not be run: {probe.ending}")
    worst = probe.failed
    if worst is None or worst.name == SDPA_STEP:  # PyTorch's own attention is KER102's
        if worst is None and not probe.complete:
            return unknown(f"the smoke test on {where} broke off: {probe.ending}", *_evidence(probe))
        if not probe.on_gpu:
            return skipped(
                "no GPU: the kernels were run in Triton's interpreter on the CPU, where they are right; that proves "
                "nothing about a GPU",
                *_numbers(probe),
            )
        return passed(f"the attention kernels run and are right on {where}", *_numbers(probe))
    if worst.state == StepState.HUNG and worst.name in _WITHOUT_GPU:
        return unknown(
            f"'{worst.name}' had not ended after {probe.duration_s:.0f} s on {where}",
            *_evidence(probe),
            detail="It asks nothing of the GPU: the disk may be slow or the machine busy, or it hangs where its stack in the "
            "child's output shows. --timeout gives it more time.",
        )
    after = f" after '{probe.last_good.name}' went well" if probe.last_good else ""
    right = sum(1 for other in probes if other.on_gpu and _attention_is_right(other))
    happened = _HAPPENED[worst.state]
    cause, fixes, why = _explained(machine, probe, worst)
    detail = f"The step '{worst.name}' {happened}{after}. {_closing(probe, worst)}{why}"
    if right and probe.on_gpu:
        detail += f"With the same software {right} of {len(probes)} GPUs are right: look at this card, its slot and its power. "
    title = f"'{worst.name}' {happened} on {where}"
    told = list(_evidence(probe))
    if cause == "vram-out-of-memory" and machine.health.users:
        users = ", ".join(f"{user.pid} ({user.name or '?'})" for user in machine.health.users)
        told.append(Evidence("processes that had GPUs open before (/sys/class/kfd/kfd/proc)", users))
    if not probe.on_gpu:
        return warned(title, *told, cause=cause, detail=detail, fixes=fixes)
    return failed(title, *told, cause=cause, detail=detail, fixes=fixes)


def _attention_is_right(probe: Probe) -> bool:
    return probe.complete or (probe.failed is not None and probe.failed.name == SDPA_STEP)


def _closing(probe: Probe, step: Step) -> str:
    if step.error:
        return f"{step.error.splitlines()[0]}. "
    if step.state == StepState.HUNG and not probe.ending.unkillable:
        return f"After {probe.duration_s:.0f} s it was killed; where it was then stands at the end of its output. "
    words = str(probe.ending)
    return f"{words[0].upper()}{words[1:]}. "


def _where(machine: Machine, probe: Probe) -> str:
    if probe.device is None:
        return "the CPU (interpreter)"
    found = probe.details("find the device")
    visible = [gpu for gpu in machine.gpus.known if gpu.visible is not False]
    if probe.device < len(visible):
        gpu = visible[probe.device]
        return f"GPU {gpu.index} ({gpu.name or found.get('name') or gpu.gfx}{f', {gpu.pci}' if gpu.pci else ''})"
    return f"GPU {probe.device} ({found.get('name', 'name unknown')})"


def _explained(machine: Machine, probe: Probe, step: Step) -> tuple[str | None, tuple[Fix, ...], str]:
    """Cause, fixes and explanation: what `explain` makes of the child's words, else what the step itself says.

    A process that died without a word has no cause that could be known.
    """
    if step.state == StepState.FAILED and step.error.startswith("AssertionError"):
        return _WRONG, (), "The numbers are wrong, without any error being raised. "
    from fa_doctor.diagnosis.explain import explain
    from fa_doctor.diagnosis.logtext import blocks_of_text

    found = explain(blocks_of_text(f"{probe.output}\n{step.trace}\n{step.error}")).confident
    if found is not None:
        return found.cause, _remedies(machine, found.cause), f"{found.failure.title}: {found.failure.explanation} "
    known = _from_exception(step)
    if known is not None:
        return known, _remedies(machine, known), ""
    if probe.ending.returncode == -signal.SIGKILL and step.state == StepState.DIED:
        look = Fix(
            "See whether the kernel ended it for want of memory", ("dmesg | grep -iE 'killed process|oom' | tail",)
        )
        return (
            None,
            (look,),
            "Somebody else sent that: the kernel where memory runs out, a container's limit, or a person. ",
        )
    fixes = (Fix("Read what the kernel says of the GPU", ("dmesg | grep -iE 'amdgpu|kfd' | tail -n 40",)),)
    return _HUNG if step.state == StepState.HUNG else None, fixes, ""


def _from_exception(step: Step) -> str | None:
    """What an exception means that the child itself raised, where it came from being known."""
    if "out of memory" in step.error:
        return "vram-out-of-memory"
    number = re.search(r"\[Errno (\d+)\]", step.error)
    if number is None:
        return None
    code = int(number[1])
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "disk-full"
    in_cache = "triton/runtime/cache.py" in step.trace
    return "triton-cache-unwritable" if in_cache and code in (errno.EROFS, errno.EACCES, errno.EPERM) else None


def _remedies(machine: Machine, cause: str) -> tuple[Fix, ...]:
    """The fixes of a cause that can be had from the facts of this machine alone."""
    if cause == "vram-out-of-memory":
        return (Fix("See who holds the GPU's memory", ("rocm-smi --showpids --showmeminfo vram",)),)
    if cause in ("triton-cache-unwritable", "disk-full"):
        title = "Keep Triton's cache where there is room and this user may write"
        return (make_folder(machine, f"/tmp/triton-cache-{machine.user or 'of-mine'}", "TRITON_CACHE_DIR", title),)
    return ()


def _evidence(probe: Probe) -> Iterator[Evidence]:
    worst = probe.failed
    if worst is not None and worst.trace:
        yield Evidence(f"the child's traceback, step '{worst.name}'", worst.trace[-2000:])
    if probe.output:
        yield Evidence("the child's output", probe.output[-2000:])
    yield Evidence("the child", str(probe.ending))
    if probe.garbage:
        yield Evidence("the child's report", f"{probe.garbage} lines that could not be read")


def _numbers(probe: Probe) -> Iterator[Evidence]:
    for step in probe.steps:
        found = step.details.get("errors", step.details.get("error"))
        if found is not None:
            yield Evidence(f"largest error, {step.name}", _figures(found))
    seconds = ", ".join(f"{step.name} {step.seconds:.1f} s" for step in probe.steps if step.seconds is not None)
    yield Evidence("the steps", seconds)


def _figures(found: object) -> str:
    """Errors by name, and by name within names, as words: {"a": {"dq": 0.00123}} is "a: dq 0.0012"."""
    if isinstance(found, dict):
        nested = any(isinstance(value, dict) for value in found.values())
        between, colon = ("; ", ": ") if nested else (", ", " ")
        return between.join(f"{name}{colon}{_figures(value)}" for name, value in found.items())
    return f"{found:.2g}" if isinstance(found, float) else str(found)


@check(
    "KER101",
    "kernels.installed_features",
    rests_on=("KER001", "FAT001"),
    causes=("unsupported-feature", "numerics-wrong", "flash-attn-abi-mismatch"),
    level=Level.STANDARD,
)
def installed_features(machine: Machine) -> Verdicts:
    """The installed flash_attn computes what it is asked for, feature by feature.

    Why it matters: flash-attn 2.7 and 2.8 on AMD's Triton backend accept softcap, window_size and block_table and
    compute as if they had not been given; the CK backend ignores softcap. The model trains or answers, and is wrong.
    What is done: causal, window, softcap, ALiBi, dropout, grouped queries, varlen, a paged cache and the backward pass
    are each run on the GPU and held against float64. A result that agrees with the definition without the feature is
    one that ignores it.
    How to fix: `fa-doctor install --attention bundled --replace` installs kernels in which every argument has its
    effect or raises.
    Sources: flash_attn/flash_attn_triton_amd/interface_fa.py of flash-attn v2.7.4 and v2.8.3.
    """
    probes = [probe for probe in machine.probes if probe.mode == "features"]
    if not probes:
        found = machine.flash_attention
        if found is None or found.kind == "bundled":
            return skipped(
                "no flash_attn is installed" if found is None else "the installed flash_attn is fa-doctor's own"
            )
        return skipped(f"flash_attn {found.version} was not tried: {_why_not_tried(machine)}")
    return list(_feature_verdicts(machine, probes[0]))


@check(
    "KER102",
    "kernels.sdpa",
    rests_on=("KER001",),
    causes=("numerics-wrong", "slow-fallback"),
    level=Level.STANDARD,
)
def sdpa(machine: Machine) -> Verdicts:
    """PyTorch's scaled_dot_product_attention is right on every GPU, and does not fall back to plain arithmetic.

    Why it matters: most models call it, whatever else is installed. On a GPU that its fused kernels were not built for it
    computes as if unfused, in N x N memory, without a word; a fused kernel of another architecture computes wrongly.
    What is done: what PyTorch chooses by itself, its flash kernel and its memory-efficient kernel are each run with
    causal mask, a mask given, grouped queries, dropout and backward, and held against float64 on the CPU.
    How to fix: call the bundled kernels (flash_attn_func), or a torch built for this GPU; a wrong kernel can be left out
    with torch.nn.attention.sdpa_kernel.
    Sources: torch/nn/attention/__init__.py; aten/src/ATen/native/transformers/hip (AOTriton) of PyTorch.
    """
    probes = [probe for probe in machine.probes if probe.mode == "smoke" and probe.on_gpu]
    reached = [probe for probe in probes if any(s.name == SDPA_STEP and s.state != "not reached" for s in probe.steps)]
    if not reached:
        return skipped("scaled_dot_product_attention was not run on a GPU")
    return [_sdpa_verdict(machine, probe) for probe in reached]


def _sdpa_verdict(machine: Machine, probe: Probe) -> Verdict:
    where = _where(machine, probe)
    worst = probe.failed
    if worst is not None and worst.name == SDPA_STEP:
        cause, fixes, why = _explained(machine, probe, worst)
        title = f"scaled_dot_product_attention {_HAPPENED[worst.state]} on {where}"
        return failed(title, *_evidence(probe), cause=cause, detail=f"{_closing(probe, worst)}{why}", fixes=fixes)
    backends: dict[str, dict[str, dict[str, str]]] = probe.details(SDPA_STEP).get("backends", {})
    told = [
        Evidence(f"scaled_dot_product_attention, {backend}, {name}", f"{found.get('state')}: {found.get('text', '')}")
        for backend, features in backends.items()
        for name, found in features.items()
    ]
    wrong = [
        f"{name} ({backend})"
        for backend, features in backends.items()
        for name, found in features.items()
        if found.get("state") == "wrong"
    ]
    if wrong:
        return failed(
            f"scaled_dot_product_attention computes {', '.join(wrong)} wrongly on {where}",
            *(evidence for evidence in told if evidence.text.startswith("wrong")),
            cause="numerics-wrong",
            detail="Models that use PyTorch's attention give wrong results on this GPU, without an error.",
            fixes=[install_kernels(machine, "Use the bundled kernels in its place: they were proven on this GPU")],
        )
    fused = [backend for backend, features in backends.items() if backend != "chosen" and _runs(features)]
    if backends and not fused:
        return warned(
            f"scaled_dot_product_attention has no fused kernel on {where}",
            *told,
            cause="slow-fallback",
            detail="It computes as unfused attention does: several times slower, and in memory that grows with the square "
            "of the length. The bundled kernels do run.",
        )
    return passed(f"scaled_dot_product_attention is right on {where} (fused: {', '.join(fused)})", *told)


def _runs(features: dict[str, dict[str, str]]) -> bool:
    return features.get("plain", {}).get("state") == "right"


def _why_not_tried(machine: Machine) -> str:
    if any(probe.on_gpu for probe in machine.probes):
        return "the kernels did not pass their test on any GPU"
    if machine.probes:
        return "there is no GPU"
    return _why_not_run(machine)


def _feature_verdicts(machine: Machine, probe: Probe) -> Iterator[Verdict]:
    version = machine.flash_attention.version if machine.flash_attention else "?"
    title = "Install the attention kernels of fa-doctor in its place: every argument has its effect or raises"
    fix = install_kernels(machine, title, proof="KER101")
    worst = probe.failed
    if worst is not None:
        cause, fixes, why = _explained(machine, probe, worst)
        detail = f"{_closing(probe, worst)}{why}"
        title = f"flash_attn {version}: '{worst.name}' failed"
        yield failed(title, *_evidence(probe), cause=cause, detail=detail, fixes=(*fixes, fix))
        return
    results: dict[str, dict[str, str]] = probe.details("try the features").get("features", {})
    states = {name: result.get("state", "") for name, result in results.items()}
    quiet = [name for name, state in states.items() if state == "ignored"]
    wrong = [name for name, state in states.items() if state == "wrong"]
    raises = [name for name, state in states.items() if state == "raises"]
    evidence = [
        Evidence(f"flash_attn {version}, {name}", f"{states[name]}: {results[name].get('text', '')}") for name in states
    ]
    if quiet:
        yield failed(
            f"flash_attn {version} silently ignores {', '.join(quiet)}",
            *(one for one in evidence if ": " in one.text and one.text.startswith("ignored")),
            cause="unsupported-feature",
            detail="It accepts the argument and computes as if it had not been given: results are wrong without an error.",
            fixes=[fix],
        )
    if wrong:
        yield failed(
            f"flash_attn {version} computes {', '.join(wrong)} wrongly",
            *(one for one in evidence if one.text.startswith("wrong")),
            cause="numerics-wrong",
            fixes=[fix],
        )
    if raises:
        yield warned(
            f"flash_attn {version} refuses {', '.join(raises)}",
            *(one for one in evidence if one.text.startswith("raises")),
            cause="unsupported-feature",
            detail="It says so with an error, so that a program can turn to another path.",
            fixes=[fix],
        )
    if not quiet and not wrong:
        yield passed(f"flash_attn {version} computes what it accepts rightly", *evidence)
