"""Which stack: by name, or by the facts of the machine. Says why, and what else was looked at and why it was rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fa_doctor.environment_file import Variable
from fa_doctor.errors import UsageProblem
from fa_doctor.installer.errors import NothingFits
from fa_doctor.installer.situation import Situation
from fa_doctor.knowledge.gpus import architectures, version_key
from fa_doctor.knowledge.stacks import (
    Recommendation,
    Stack,
    find_stack,
    gaps_of,
    recommendation_for,
    stacks,
)
from fa_doctor.knowledge.triton import driver_of

__all__ = ["Choice", "choose", "describe"]

EXPERIMENTAL = "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"


@dataclass(frozen=True, slots=True)
class Choice:
    """The stack, what it is to serve, and the reasons. `attention` is what suits the GPUs: "bundled" or "none".

    `rejected` holds (stack, why) in the order in which they were looked at; `notes` what the user should know.
    """

    stack: Stack
    recommendation: Recommendation | None
    targets: tuple[str, ...]
    attention: str
    variables: dict[str, Variable]
    reasons: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def choose(name: str, situation: Situation, pythons: Sequence[str] | None = None) -> Choice:
    """The stack of that name, or with "auto" the best that fits.

    `pythons` are the minor versions the environment can have ("3.12"); None: any. Raises UsageProblem for a name that
    is not known, NothingFits when the stack does not fit the GPUs or the Python.
    """
    if name == "auto":
        return _by_facts(situation, pythons)
    found = find_stack(name)
    if found is None:
        raise UsageProblem(f"no stack named {name!r} is known; `fa-doctor stacks` lists them all")
    stack, recommendation = found
    targets = situation.targets if not stack.cpu else ()
    for gfx in targets:
        problem = _misfit(stack, gfx, recommendation)
        if problem:
            raise NothingFits(f"{name} does not fit {gfx}: {problem}. `--stack auto` takes one that does.")
    problem = _python_problem(stack, pythons)
    if problem:
        raise NothingFits(f"{name} does not fit this Python: {problem}; name another with --python")
    if not targets and not stack.cpu:
        raise NothingFits(
            f"no GPU is known to install {name} for ({situation.absent_because}): name it with --arch, for example "
            f"--arch {(recommendation.gfx if recommendation else stack.archs)[0]}"
        )
    reasons = [f"{name} was asked for"]
    return describe(stack, recommendation, targets, situation, reasons, [])


def _by_facts(situation: Situation, pythons: Sequence[str] | None) -> Choice:
    targets = situation.targets
    if not targets:
        return _cpu(f"there is no AMD GPU to install for: {situation.absent_because}", situation)
    usable = tuple(gfx for gfx in targets if recommendation_for(gfx))
    if not usable:
        known = architectures()
        why = "; ".join(f"{gfx}: {known[gfx].rocm_note or 'no wheel has code for it'}" for gfx in targets)
        if situation.named_by_user:
            raise NothingFits(f"no stack fits {', '.join(targets)} ({why})")
        return _cpu(f"no stack fits {', '.join(targets)} ({why})", situation)
    rejected: list[tuple[str, str]] = []
    for stack, recommendation in _candidates(usable):
        problem = _problem(stack, recommendation, usable, situation, pythons)
        if problem is None:
            return describe(stack, recommendation, usable, situation, _reasons(recommendation, usable), rejected)
        rejected.append((stack.name, problem))
    if len(usable) > 1:
        # No stack serves them all: serve the first, which is the first that the runtime enumerates.
        for stack, recommendation in _candidates(usable[:1]):
            if _problem(stack, recommendation, usable[:1], situation, pythons) is None:
                notes = [f"no stack serves {' and '.join(usable)} together: {', '.join(usable[1:])} stay without"]
                reasons = _reasons(recommendation, usable[:1])
                return describe(stack, recommendation, usable[:1], situation, reasons, rejected, notes)
    listed = "; ".join(f"{stack}: {why}" for stack, why in rejected)
    raise NothingFits(f"no stack fits {', '.join(usable)} on this machine. {listed}")


def _candidates(targets: Sequence[str]) -> list[tuple[Stack, Recommendation | None]]:
    """The recommended stacks first, then their alternatives, then every other that has code, newest first."""
    chosen = [row for row in (recommendation_for(gfx) for gfx in targets) if row]
    names: list[tuple[str, Recommendation | None]] = [(row.stack, row) for row in chosen]
    names += [(alternative, row) for row in chosen for alternative in row.alternatives]
    others = [stack for stack in stacks().values() if not stack.cpu and set(targets) <= set(stack.archs)]
    others.sort(key=lambda stack: (version_key(stack.torch), version_key(stack.rocm or "0")), reverse=True)
    names += [(stack.name, None) for stack in others]
    seen: dict[str, tuple[Stack, Recommendation | None]] = {}
    for name, recommendation in names:
        found = find_stack(name)
        if found and found[0].name not in seen:
            seen[found[0].name] = (found[0], recommendation)
    return list(seen.values())


def _problem(
    stack: Stack,
    recommendation: Recommendation | None,
    targets: Sequence[str],
    situation: Situation,
    pythons: Sequence[str] | None,
) -> str | None:
    for gfx in targets:
        row = recommendation_for(gfx) if recommendation is None else recommendation
        problem = _misfit(stack, gfx, row)
        if problem:
            return problem
        limits = recommendation_for(gfx)
        if limits and limits.torch_at_most and version_key(stack.torch) > version_key(limits.torch_at_most):
            return f"{gfx} wants torch {limits.torch_at_most} at most"
        if limits and limits.torch_at_least and version_key(stack.torch) < version_key(limits.torch_at_least):
            return f"{gfx} wants torch {limits.torch_at_least} at least"
    return _python_problem(stack, pythons) or _driver_problem(stack, situation)


def _misfit(stack: Stack, gfx: str, recommendation: Recommendation | None) -> str | None:
    """Why a stack does not work on a GPU, or None."""
    if recommendation and gfx in recommendation.gfx_not:
        return recommendation.gfx_not[gfx]
    if gfx not in stack.archs and not _runs_as(stack, gfx, recommendation):
        return f"its torch has no code for {gfx}"
    gaps = gaps_of(gfx, stack)
    return gaps[0].fact if gaps else None


def _runs_as(stack: Stack, gfx: str, recommendation: Recommendation | None) -> str | None:
    """The target whose code a GPU runs through the override that the recommendation sets; None without one."""
    row = architectures().get(gfx)
    wanted = recommendation.environment.get("HSA_OVERRIDE_GFX_VERSION") if recommendation else None
    if row and row.override and row.override.value == wanted and row.override.runs_as in stack.archs:
        return row.override.runs_as
    return None


def _python_problem(stack: Stack, pythons: Sequence[str] | None) -> str | None:
    if pythons is None or any(minor in stack.python for minor in pythons):
        return None
    return f"its wheels are for Python {stack.python[0]} to {stack.python[-1]}, here is {', '.join(pythons)}"


def _driver_problem(stack: Stack, situation: Situation) -> str | None:
    driver = driver_of(situation.driver) if situation.driver else None
    if driver is None or not driver.serves_rocm or stack.rocm is None:
        return None
    release = ".".join(stack.rocm.split(".")[:2])
    if release in driver.serves_rocm:
        return None
    return f"the kernel driver (of ROCm {driver.rocm}) serves ROCm {driver.serves_rocm[0]} to {driver.serves_rocm[-1]}"


def _reasons(recommendation: Recommendation | None, targets: Sequence[str]) -> list[str]:
    if recommendation:
        return [f"it is the recommendation for {recommendation.purpose} ({', '.join(targets)})"]
    return [f"it is the newest that has code for {', '.join(targets)} and fits the rest"]


def _cpu(why: str, situation: Situation) -> Choice:
    found = find_stack("cpu")
    assert found is not None
    note = "if the GPU is not visible here (a container build), name it: --arch gfx942"
    notes = [note] if not situation.devices else []
    return describe(found[0], None, (), situation, [why, "the CPU stack works on any machine"], [], notes)


def describe(
    stack: Stack,
    recommendation: Recommendation | None,
    targets: tuple[str, ...],
    situation: Situation,
    reasons: list[str],
    rejected: list[tuple[str, str]],
    notes: Sequence[str] = (),
) -> Choice:
    """The choice of a stack for some targets, with the variables and notes that go with them."""
    variables: dict[str, Variable] = {}
    said = list(notes)
    # A stack may be taken for GPUs of several recommendations; what each asks for is asked for the machine.
    rows = list({row.name: row for row in (recommendation, *map(recommendation_for, targets)) if row}.values())
    if recommendation and recommendation.name == "classic":
        rows = [recommendation]
    for row in rows:
        for name, value in row.environment.items():
            if name != "HSA_OVERRIDE_GFX_VERSION" or all(_runs_as(stack, gfx, row) for gfx in targets):
                variables[name] = Variable(value, f"the stack {row.name} asks for it")
        if row.advice:
            said.append(row.advice)
    flagged = [
        gfx
        for gfx in targets
        if gfx in architectures() and architectures()[gfx].aotriton_state(stack.torch) == "experimental"
    ]
    if flagged:
        reason = f"without it SDPA of torch {stack.torch} falls to its slow math kernel on {', '.join(flagged)}"
        variables[EXPERIMENTAL] = Variable("1", reason)
    said += [
        f"{device} has no code in this torch: hide it with HIP_VISIBLE_DEVICES if programs pick it"
        for device in situation.left_out
        if stack.archs and device.gfx not in stack.archs
    ]
    if situation.wsl and not stack.cpu:
        said.append(
            "under WSL2 the libhsa-runtime64.so inside torch must give way to the one of the WSL ROCm package: "
            "`fa-doctor check` tells whether it does"
        )
    attention = "none" if rows and all(row.attention == "none" for row in rows) else "bundled"
    return Choice(
        stack,
        recommendation,
        targets,
        attention,
        variables,
        tuple(reasons),
        tuple(rejected),
        tuple(dict.fromkeys(said)),
    )
