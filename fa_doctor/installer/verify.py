"""Whether an environment does what it was made for: its files and versions, and the probe's smoke test in its own Python.

The smoke test runs on the GPU where torch sees one of those that were installed for, with the flash_attn that was
installed. Without one, as in a container build, attention is computed on the CPU as programs there have it: that proves
the imports, the interface and its results, and of the kernels for the GPU only that they compile, by the step before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fa_doctor.facts.probes import Probe, Step, StepState
from fa_doctor.host import LiveHost
from fa_doctor.installer.children import clean_environment
from fa_doctor.installer.installed import missing_files, scan, triton_owners
from fa_doctor.installer.plan import Plan
from fa_doctor.installer.target import inspect_python
from fa_doctor.knowledge.gpus import architecture
from fa_doctor.probe.gather import FEATURE_STEPS, NO_SEARCH, SDPA_STEP, SMOKE_STEPS
from fa_doctor.probe.launch import launch

__all__ = ["Verdict", "verify"]

DEADLINE_S = 600.0  # kernels that were not compiled ahead are compiled when the smoke test calls them
STEPS: dict[str, tuple[str, ...]] = {
    "bundled": SMOKE_STEPS,
    "upstream": FEATURE_STEPS,
    "none": SMOKE_STEPS[: SMOKE_STEPS.index("import Triton") + 1],
}
# Kernels where there is a GPU, PyTorch's own operators where there is none, whatever the user's shell says.
AS_PROGRAMS = {**NO_SEARCH, "TRITON_INTERPRET": "0", "FA_DOCTOR_KERNELS": ""}
NEEDED = ("plain", "causal", "backward")  # of flash-attn itself; that it ignores or lacks others is known, and told


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ok` with what was found to work (`passed`), or the first thing that was not right (`problem`)."""

    ok: bool
    passed: tuple[str, ...] = ()
    problem: str | None = None


def verify(plan: Plan, python: Path, environ: Mapping[str, str]) -> Verdict:
    """Compares files and versions with the plan, imports torch and Triton, and holds attention against float64."""
    problem = _packages(plan, python)
    if problem:
        return Verdict(False, problem=problem)
    passed = [f"{len(plan.packages) + len(plan.kept)} packages have their exact versions"]
    probe = _probe(plan, python, environ)
    problem = _failure(plan, probe) or _wrong_torch(plan, probe)
    good = (step for step in probe.steps if step.state == StepState.OK)
    passed += [text for step in good if (text := _words(step, _device(probe)))]
    return Verdict(problem is None, tuple(passed), problem)


def _packages(plan: Plan, python: Path) -> str | None:
    """What is wrong with the packages on disk, or None."""
    target = inspect_python(str(python))
    installed = scan(target.purelib, target.platlib, *target.search)
    for package in (*plan.packages, *plan.kept):
        entry = installed.get(package.name)
        if entry is None:
            return f"{package.name} {package.version} is not installed"
        if entry.version != package.version:
            return f"{package.name} is {entry.version}, wanted is {package.version}"
    for package in plan.packages:
        wrong = missing_files(installed[package.name])
        if wrong:
            return f"{len(wrong)} files of {package.name} are missing or cut short, such as {wrong[0]}"
    owners = triton_owners(installed)
    return f"{' and '.join(owner.name for owner in owners)} both own triton/" if len(owners) > 1 else None


def _probe(plan: Plan, python: Path, environ: Mapping[str, str]) -> Probe:
    variables = {name: variable.value for name, variable in plan.variables.items()}
    host = LiveHost(environ=clean_environment(environ, **variables))
    targets = [gfx for target in plan.targets for gfx in (target, _runs_as(target)) if gfx]
    request = {"device": "any", "targets": targets, "module": "flash_attn", "attention": plan.attention != "none"}
    mode = "features" if plan.attention == "upstream" else "smoke"
    steps = STEPS[plan.attention]
    return launch(host, str(python), mode, steps, [None], DEADLINE_S, request=request, env=AS_PROGRAMS)[0]


def _runs_as(gfx: str) -> str | None:
    """The target that a GPU reports under the override that its stack sets."""
    row = architecture(gfx)
    return row.override.runs_as if row and row.override else None


def _failure(plan: Plan, probe: Probe) -> str | None:
    failed = probe.failed
    if failed is not None and failed.name != SDPA_STEP:  # PyTorch's own attention is not what was installed for
        said = failed.error or f"{probe.ending}: {probe.output[-1500:] or 'no output'}"
        where = [line.strip() for line in failed.trace.splitlines() if line.strip().startswith("File ")][-1:]
        return f"{failed.name}: {said}" + (f" ({where[0]})" if where else "")
    features = probe.details("try the features").get("features", {})
    bad = next((name for name in NEEDED if features.get(name, {}).get("state") in ("wrong", "raises", "missing")), None)
    return (
        f"flash-attn {plan.upstream.version if plan.upstream else ''} ({bad}): {features[bad]['text']}" if bad else None
    )


def _wrong_torch(plan: Plan, probe: Probe) -> str | None:
    torch = probe.details("import torch")
    if torch.get("version") != plan.torch:
        return f"import torch gives {torch.get('version')}, wanted is {plan.torch}"
    if plan.hip and not torch.get("hip"):
        return f"torch {plan.torch} is no ROCm build: torch.version.hip is {torch.get('hip')!r}"
    if plan.stack == "cpu" and torch.get("cuda"):
        return f"torch {plan.torch} is a CUDA build: torch.version.cuda is {torch['cuda']!r}"
    return None


def _device(probe: Probe) -> str:
    found = probe.details("find the device")
    return str(found.get("name") or "the GPU") if found else "the CPU"


def _words(step: Step, device: str) -> str | None:
    """What a step that went well says to the user; None for steps that say nothing of their own."""
    if step.name in ("import torch", "import Triton", "import flash_attn"):
        return f"{step.name.removeprefix('import ').lower()} {step.details.get('version')} imports"
    if step.name == "try the features":
        ignored = [name for name, row in step.details.get("features", {}).items() if row["state"] == "ignored"]
        return f"it ignores {', '.join(ignored)}: leave that to the bundled kernels" if ignored else None
    if step.name == "attention forward":
        return f"attention agrees with float64 on {device}"
    if step.name == "attention backward":
        return "so do its gradients"
    if step.name == "dropout, causal and softcap together":
        return "dropout, causal and softcap hold in one call"
    return None
