"""torch in the target Python: is it there, is it a ROCm build, does it have code for this GPU, do its companions fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Safety, Status, Verdict, failed, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import leave_python_path, new_environment, replace_packages, set_variable
from fa_doctor.diagnosis.torch_choice import choose_torch, install_torch, pythons_for
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.packages import Companion, Torch
from fa_doctor.knowledge.gpus import architecture
from fa_doctor.knowledge.packages import package
from fa_doctor.knowledge.stacks import gaps_of, stack_of_torch

OVERRIDE = "HSA_OVERRIDE_GFX_VERSION"
_CHOOSE = "Name another interpreter with --python, or activate the environment that you mean."


@check("TOR001", "torch.target-python")
def target_python(machine: Machine) -> Verdicts:
    """The Python that is examined starts and answers.

    Why it matters: everything below is about one Python environment, the target: --python, else the active virtual or
    conda environment, else python3 on PATH. One that crashes or hangs at its start can run nothing.
    How to fix: make a new environment, or name another one with --python.
    Sources: PEP 405; the site module's documentation.
    """
    python = machine.python
    if python.executable is None:
        # Of a machine that somebody recorded without its environment nobody can name another.
        choose = "" if machine.host_kind == "recorded" and machine.variables is None else _CHOOSE
        return unknown(python.problem or "no target Python is known", detail=choose)
    if python.problem and python.hurried:
        return unknown(
            f"the target Python {python.executable} did not answer in the time that this level leaves it",
            *python.evidence,
            detail=f"{python.problem}. What follows was read from its files. A later level waits longer.",
        )
    if python.problem:
        return Verdict(
            Status.FAIL,
            f"the target Python {python.executable} does not start",
            f"{python.problem}. {_CHOOSE}",
            evidence=python.evidence,
        )
    if python.distributions is None:
        return unknown(f"the packages of {python.executable} cannot be read", *python.evidence)
    return passed(f"Python {python.version} at {python.executable}", *python.evidence)


@check("TOR002", "torch.python-version", rests_on=("TOR001",), causes=("python-version-unsupported",))
def python_version(machine: Machine) -> Verdicts:
    """There are torch wheels with ROCm for this version of Python.

    Why it matters: wheels are built for a few Python versions each. On one that is too new or too old pip says "no
    matching distribution found", or takes a CUDA build from elsewhere.
    How to fix: make an environment with a Python for which the wheels exist.
    Sources: the wheels on the pytorch.org ROCm indexes (`fa-doctor stacks`).
    """
    python = machine.python
    if python.executable is None:
        return skipped("no target Python is known: TOR001 tells")
    if python.minor is None:
        return unknown("the version of the target Python is not known")
    evidence = Evidence(python.executable or "python", f"Python {python.version}")
    if machine.torch and machine.torch.build == "rocm":
        return passed(f"a ROCm torch is installed for Python {python.minor}", evidence)
    targets = machine.gpus.gfx_targets
    if not targets:
        return skipped("no AMD GPU is known, so no torch wheel is looked for")
    known = pythons_for(targets)
    if not known:
        return skipped(f"no torch wheel is known for {' and '.join(targets)}")
    if choose_torch(machine).stack is not None:
        return passed(f"torch wheels for {' and '.join(targets)} exist for Python {python.minor}", evidence)
    good = next((version for version in ("3.12", "3.11", "3.10") if version in known), known[-1])
    return failed(
        f"no torch wheel with ROCm exists for Python {python.minor}",
        evidence,
        cause="python-version-unsupported",
        detail=f"Wheels that run on {' and '.join(targets)} exist for Python {known[0]} to {known[-1]}.",
        fixes=(new_environment(machine, good, proof="TOR002"),),
    )


@check("TOR003", "torch.installed", rests_on=("TOR002",), causes=("torch-not-rocm",))
def installed(machine: Machine) -> Verdicts:
    """torch is installed in the target Python.

    Why it matters: every attention kernel for AMD GPUs is called through torch.
    How to fix: install the build for ROCm from its own index, the local version pinned; a plain `pip install torch`
    brings the CUDA build.
    Sources: https://pytorch.org/get-started/locally/
    """
    torch = machine.torch
    if torch is not None:
        return passed(f"torch {torch.version}", *torch.evidence[:1])
    if machine.python.executable is None:
        return skipped("no target Python is known: TOR001 tells")
    if machine.python.distributions is None:
        return unknown("the packages of the target Python are not known")
    if not machine.gpus.known:
        return skipped("no AMD GPU is known here")
    choice = choose_torch(machine)
    return failed(
        "torch is not installed in the target Python",
        Evidence(", ".join(machine.python.search_path) or "the target Python", "no torch there"),
        cause="torch-not-rocm",
        detail=" ".join(filter(None, (f"{machine.python.executable} was examined. {_CHOOSE}", choice.problem))),
        fixes=install_torch(machine, choice, "TOR003"),
    )


@check("TOR101", "torch.build", rests_on=("TOR003",), causes=("torch-not-rocm",))
def build(machine: Machine) -> Verdicts:
    """The installed torch is built for ROCm.

    Why it matters: the torch of the default index is the CUDA build. It imports without a word on an AMD machine, and
    says at the first use that no GPU is available; every package that requires torch can bring it in.
    How to fix: replace it by the ROCm build of the same release, its local version (+rocmX.Y) pinned, from the index of
    that ROCm release only.
    Sources: https://pytorch.org/get-started/locally/; torch/version.py, where `hip` is None in other builds.
    """
    torch = machine.torch
    if torch is None:
        return skipped("torch is not installed")
    if torch.build is None:
        return unknown(f"which build torch {torch.version} is cannot be told from its files", *torch.evidence)
    if torch.build == "rocm":
        return passed(f"torch {torch.version} is built for ROCm {torch.rocm or ''}".rstrip(), *torch.evidence)
    amd = bool(machine.gpus.known) or any(gpu.vendor == "AMD" for gpu in machine.gpus.others)
    if not amd:
        return skipped("no AMD GPU is known here")
    nvidia = next((gpu for gpu in machine.gpus.others if gpu.vendor == "NVIDIA"), None)
    if nvidia and torch.build == "cuda":
        if all(gpu.integrated for gpu in machine.gpus.known):
            return skipped(f"torch is built for CUDA, and {nvidia.name or 'an NVIDIA GPU'} is the GPU that it uses")
        return warned(
            f"torch {torch.version} uses the NVIDIA GPU; the AMD GPU stays idle",
            *torch.evidence,
            cause="torch-not-rocm",
            detail="One torch serves one maker's GPUs: the AMD GPU needs an environment of its own, with a ROCm torch.",
        )
    choice = choose_torch(machine)
    return failed(
        f"torch {torch.version} is a {'CUDA' if torch.build == 'cuda' else 'CPU'} build; it cannot use the AMD GPU",
        *torch.evidence,
        cause="torch-not-rocm",
        detail=" ".join(filter(None, (choice.problem, _hidden_torch(machine)))),
        fixes=leave_python_path(machine, torch.folder, "TOR101") or install_torch(machine, choice, "TOR101"),
    )


def _hidden_torch(machine: Machine) -> str:
    """Another torch further on the search path, which the imported one hides."""
    first, *rest = machine.python.find("torch") or (None,)
    hidden = [found for found in rest if first is not None and found is not None and found.location != first.location]
    return " ".join(f"It hides torch {found.version} in {found.location}." for found in hidden)


@check("TOR102", "torch.architecture", rests_on=("TOR101", "GPU004", "GPU005"), causes=("gpu-arch-unsupported",))
def architecture_in_wheel(machine: Machine) -> Verdicts:
    """The installed torch has code for each GPU that it will use.

    Why it matters: GPU code is compiled for named targets. Without that of this GPU the first kernel ends with "invalid
    device function" or "no kernel image is available", or rocBLAS does not find its Tensile file.
    How to fix: install a wheel whose list of targets names the GPU. Where none does, a GPU can run as another member of
    its own family (HSA_OVERRIDE_GFX_VERSION); across families that gives wrong results and hangs.
    Sources: the arch lists of the wheels (`fa-doctor stacks`); torch.cuda.get_arch_list().
    """
    torch = machine.torch
    if torch is None or torch.build != "rocm":
        return skipped("no ROCm torch is installed")
    used = [gpu for gpu in machine.gpus.known if gpu.visible is not False]
    devices = [gpu for gpu in used if not gpu.integrated] or used
    if not devices:
        return skipped("no AMD GPU is known here")
    if machine.loaded is not None and machine.loaded.arch_list:  # what torch itself says goes before what files tell
        torch = replace(torch, arch_list=machine.loaded.arch_list, arch_source="torch.cuda.get_arch_list()")
    if torch.arch_list is None:
        return unknown(f"for which GPUs torch {torch.version} was built cannot be told from its files")
    return list(_architectures(machine, torch, {(gpu.gfx, gpu.gfx_in_force or gpu.gfx) for gpu in devices}))


def _architectures(machine: Machine, torch: Torch, targets: set[tuple[str | None, str | None]]) -> Iterator[Verdict]:
    archs = torch.arch_list or ()
    evidence = Evidence(torch.arch_source or torch.folder, ", ".join(archs))
    for silicon, in_force in sorted(targets, key=str):
        if silicon is None or in_force is None:
            yield unknown("the gfx target of a GPU is not known")
            continue
        stack = stack_of_torch(torch.version)
        gaps = gaps_of(in_force, stack) if stack and silicon == in_force else ()
        if in_force in archs and not gaps:
            yield passed(f"torch {torch.version} has code for {in_force}", evidence)
            continue
        row = architecture(silicon)
        choice = choose_torch(machine)
        fixes = () if choice.stack is None else install_torch(machine, choice, "TOR102")
        if gaps:
            yield failed(
                f"torch {torch.version} is known not to work on {in_force}",
                evidence,
                *(Evidence(source, gap.fact) for gap in gaps for source in gap.sources[:1]),
                cause="gpu-arch-unsupported",
                detail=" ".join(gap.fact for gap in gaps),
                fixes=fixes,
            )
            continue
        advice = []
        if choice.problem:
            advice.append(choice.problem + ".")
        override = row.override if row else None
        if override and override.runs_as in archs and not (stack and gaps_of(override.runs_as, stack)):
            advice.append(
                f"Inside its own family it can run as {override.runs_as}: "
                f"HSA_OVERRIDE_GFX_VERSION={override.value} ({override.caveat})."
            )
            if len(targets) == 1:  # the variable changes every GPU of the process
                title = f"Run it as {override.runs_as}, another member of its family"
                way = set_variable(machine, OVERRIDE, override.value, title, safety=Safety.UNSAFE, proof="TOR102")
                fixes = (way, *fixes)
        yield failed(
            f"torch {torch.version} has no code for {in_force}"
            + ("" if in_force == silicon else f" (a {silicon} that an override reports as it)"),
            evidence,
            cause="gpu-arch-unsupported",
            detail=" ".join(advice),
            fixes=fixes,
        )


@check(
    "TOR103",
    "torch.companions",
    rests_on=("TOR101",),
    causes=("companion-package-cuda-built", "rocm-torch-mismatch"),
)
def companions(machine: Machine) -> Verdicts:
    """torchvision, torchaudio and the other packages built against torch fit the installed ROCm torch.

    Why it matters: their compiled files link against torch's. A CUDA build asks for libc10_cuda.so or libtorch_cuda.so,
    which a ROCm torch does not have; one built for another torch release lacks operators or crashes.
    How to fix: install the build of the same ROCm index, in the version that goes with the torch release.
    Sources: the package metadata of torchvision (its pin on torch); https://pytorch.org/get-started/locally/
    """
    torch = machine.torch
    if torch is None or torch.build != "rocm":
        return skipped("no ROCm torch is installed")
    checked = [found for found in machine.companions if not _cuda_only(found)]
    if not checked:
        return skipped("no package built against torch is installed")
    return [_companion(machine, torch, found) for found in checked]


def _companion(machine: Machine, torch: Torch, found: Companion) -> Verdict:
    row = package(found.name)
    if found.build in ("cuda", "cpu"):
        instead = f" Use {row.instead}." if row and row.instead else ""
        return failed(
            f"{found.name} {found.version} is a {'CUDA' if found.build == 'cuda' else 'CPU'} build beside a ROCm torch",
            *found.evidence,
            cause="companion-package-cuda-built",
            detail=f"It does not load with torch {torch.version}.{instead}",
            fixes=_companion_fixes(machine, torch, found),
        )
    pin = next(
        (wanted for wanted in (found.distribution.requires if found.distribution else ()) if _names_torch(wanted)), ""
    )
    release = torch.version.partition("+")[0]
    exact = re.search(r"==\s*([0-9][0-9a-z.]*)", pin)
    if exact and exact[1] != release:
        return failed(
            f"{found.name} {found.version} was built for torch {exact[1]}, not for {torch.version}",
            *found.evidence,
            Evidence(found.distribution.metadata_path if found.distribution else found.name, f"Requires-Dist: {pin}"),
            cause="rocm-torch-mismatch",
            detail="What is compiled against another torch release lacks symbols or operators at import.",
            fixes=_companion_fixes(machine, torch, found),
        )
    own = re.search(r"\+rocm(\d+\.\d+)", found.version)
    theirs = ".".join((torch.rocm or "").split(".")[:2])
    if own and theirs and own[1] != theirs:
        return failed(
            f"{found.name} {found.version} is built for ROCm {own[1]}, torch for ROCm {torch.rocm}",
            *found.evidence,
            cause="rocm-torch-mismatch",
            detail="The two ask for HIP libraries of different releases.",
            fixes=_companion_fixes(machine, torch, found),
        )
    return passed(f"{found.name} {found.version} fits torch {torch.version}", *found.evidence)


def _companion_fixes(machine: Machine, torch: Torch, found: Companion) -> tuple[Fix, ...]:
    row, stack = package(found.name), stack_of_torch(torch.version)
    version = getattr(stack, found.name, None) if stack else None
    if row is None or not row.rocm_index or stack is None:
        return ()
    wanted = f"{found.name}=={version}" if version and str(version).replace(".", "").isdigit() else found.name
    return (
        replace_packages(
            machine,
            f"Install the {found.name} that goes with torch {torch.version}",
            remove=(found.name,),
            install=(wanted,),
            index=stack.url,
            proof="TOR103",
        ),
    )


@check("TOR104", "torch.cuda-only-packages", rests_on=("TOR101",), causes=("cuda-only-package",))
def cuda_only_packages(machine: Machine) -> Verdicts:
    """No package is installed whose kernels exist for NVIDIA only.

    Why it matters: such a package fails at import or at its first call, and installing CUDA does not help: another
    package does its work on AMD GPUs.
    How to fix: remove it and use what its entry names.
    Sources: knowledge/packages.toml, with the projects' own documentation for each.
    """
    torch = machine.torch
    if torch is None or torch.build != "rocm":
        return skipped("no ROCm torch is installed")
    wrong = [found for found in machine.companions if _cuda_only(found)]
    if not wrong:
        return passed("no package for NVIDIA GPUs only is installed")
    verdicts = []
    for found in wrong:
        row = package(found.name)
        verdicts.append(
            failed(
                f"{found.name} {found.version} has kernels for NVIDIA GPUs only",
                *found.evidence,
                *(Evidence("source", source) for source in (row.sources if row else ())),
                cause="cuda-only-package",
                detail=f"On AMD use {row.instead}." if row and row.instead else "",
                fixes=(replace_packages(machine, f"Remove {found.name}", remove=(found.name,), proof="TOR104"),),
            )
        )
    return verdicts


def _cuda_only(found: Companion) -> bool:
    row = package(found.name)
    if row is None or found.build == "rocm":
        return False
    return row.is_cuda_only(found.version) or (row.cuda_only_default_index and found.build == "cuda")


def _names_torch(requirement: str) -> bool:
    return re.match(r"torch(?![\w.-])", requirement) is not None
