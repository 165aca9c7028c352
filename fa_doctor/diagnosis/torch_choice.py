"""Which torch belongs on this machine: the stack that has code for its GPUs and a wheel for its Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fa_doctor.diagnosis.model import Fix, Safety
from fa_doctor.diagnosis.remedies import replace_packages, target_python
from fa_doctor.knowledge.gpus import architecture, version_key
from fa_doctor.knowledge.stacks import Stack, find_stack, gaps_of, recommendation_for, stacks
from fa_doctor.knowledge.triton import DISTRIBUTIONS as TRITON_DISTRIBUTIONS

if TYPE_CHECKING:
    from fa_doctor.facts.machine import Machine

__all__ = ["TorchChoice", "choose_torch", "covers", "install_torch", "pythons_for"]


@dataclass(frozen=True, slots=True)
class TorchChoice:
    """The stack, or why there is none. `same_torch`: it is the torch release that is installed, built for ROCm."""

    stack: Stack | None
    same_torch: bool = False
    problem: str | None = None


def choose_torch(machine: Machine) -> TorchChoice:
    """The least change that works: the installed torch release in its ROCm build if that fits these GPUs and this
    Python, else what is recommended for the GPU, else the newest stack that fits."""
    targets = machine.gpus.gfx_targets
    if not targets:
        return TorchChoice(None, problem="the gfx target of the GPU is not known")
    able = [stack for stack in stacks().values() if not stack.cpu and all(covers(stack, gfx) for gfx in targets)]
    if not able:
        return TorchChoice(None, problem=f"no known torch wheel has code for {' and '.join(targets)}")
    python = machine.python.minor
    fitting = [stack for stack in able if python is None or python in stack.python]
    if not fitting:
        known = pythons_for(targets)
        return TorchChoice(
            None,
            problem=f"torch wheels for {' and '.join(targets)} exist for Python {known[0]} to {known[-1]}, not for {python}",
        )
    installed = machine.torch.version.partition("+")[0] if machine.torch else None
    same = [stack for stack in fitting if stack.torch == installed and stack.index == "pytorch"]
    if same:
        return TorchChoice(max(same, key=_age), same_torch=True)
    recommendation = recommendation_for(targets[0])
    wanted = (recommendation.stack, *recommendation.alternatives) if recommendation else ()
    for name in wanted:
        found = find_stack(name)
        if found and found[0] in fitting:
            return TorchChoice(found[0])
    return TorchChoice(max(fitting, key=_age))


def covers(stack: Stack, gfx: str) -> bool:
    """Whether the wheel runs on a GPU: it has code for it, or for the target of its own family that it commonly runs
    as, and nothing is known to be wrong with that."""
    row = architecture(gfx)
    runs_as = gfx if gfx in stack.archs or row is None or row.override is None else row.override.runs_as
    return runs_as in stack.archs and not gaps_of(gfx, stack) and not gaps_of(runs_as, stack)


def pythons_for(targets: tuple[str, ...]) -> tuple[str, ...]:
    """The Python versions for which any wheel for these GPUs exists, oldest first (free-threaded builds left out)."""
    found = {
        python
        for stack in stacks().values()
        if not stack.cpu and all(covers(stack, gfx) for gfx in targets)
        for python in stack.python
        if not python.endswith("t")
    }
    return tuple(sorted(found, key=version_key))


def install_torch(machine: Machine, choice: TorchChoice, proof: str) -> tuple[Fix, ...]:
    """How to get that torch into the target Python, its local version pinned, from its own index only; or, where none
    fits, nothing."""
    stack = choice.stack
    if stack is None:
        return ()
    installed = {found.name for found in machine.python.distributions or ()}
    extras = f"[device-{machine.gpus.gfx_targets[0]}]" if stack.device_extra else ""
    wanted = [f"torch{extras}=={stack.torch_pin}"]
    for name, version in (("torchvision", stack.torchvision), ("torchaudio", stack.torchaudio)):
        if name in installed and version and version.replace(".", "").isdigit():
            wanted.append(f"{name}=={version}")
    remove = [name for name in ("torch", "torchvision", "torchaudio", *TRITON_DISTRIBUTIONS) if name in installed]
    return (
        replace_packages(
            machine,
            f"Install torch {stack.torch_pin}, which has code for {' and '.join(machine.gpus.gfx_targets)}",
            remove=remove,
            install=wanted,
            index=stack.url,
            # Another release of torch can break what was built against the one that is there.
            safety=Safety.SAFE if choice.same_torch or machine.torch is None else Safety.UNSAFE,
            proof=proof,
        ),
        Fix(
            "Or let fa-doctor set up the whole stack: torch, Triton and the attention kernels, verified, undone on failure",
            (f"fa-doctor install --python {target_python(machine)} --stack {stack.name}",),
            proof=proof,
        ),
    )


def _age(stack: Stack) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return version_key(stack.torch), version_key(stack.rocm or "0")
