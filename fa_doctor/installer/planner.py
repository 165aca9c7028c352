"""Makes the plan: from a choice and what the indexes offer, or from a lock file."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from packaging.version import InvalidVersion, Version

from fa_doctor.environment_file import Variable
from fa_doctor.errors import UsageProblem
from fa_doctor.installer import as_installed
from fa_doctor.installer.choose import Choice
from fa_doctor.installer.destination import Destination
from fa_doctor.installer.download import sha256_of
from fa_doctor.installer.errors import NothingFits, Refused
from fa_doctor.installer.flash_attn_package import DISTRIBUTION, build_wheel
from fa_doctor.installer.index import IndexClient, IndexUnreachable
from fa_doctor.installer.installed import Installed, missing_files, orphans_of_cuda_torch, triton_owners
from fa_doctor.installer.lockfile import Locked
from fa_doctor.installer.package import Package, local_path
from fa_doctor.installer.plan import Plan
from fa_doctor.installer.resolve import STACK_PACKAGES, Resolution, resolve
from fa_doctor.installer.sources import Sources
from fa_doctor.installer.target import TargetPython
from fa_doctor.installer.upstream import BUILD_REQUIREMENTS, find_source
from fa_doctor.knowledge.stacks import Stack
from fa_doctor.knowledge.triton import DISTRIBUTIONS, conflict_rule, needs

__all__ = ["from_folder", "plan_from_choice", "plan_from_lock"]

OURS = "+fadoctor."


def plan_from_choice(
    choice: Choice,
    destination: Destination,
    *,
    attention: str | None,
    replace: bool,
    sources: Sources,
    stack_index: str | None,
    client: IndexClient,
    everything: bool = False,
    folders: tuple[str, ...] = (),
) -> Plan:
    """The plan for a stack. Asks the indexes which wheels there are; downloads nothing but metadata.

    `folders` of wheels may serve the stack's packages, too. `everything`: name a wheel for each package, also for those that are installed and stay (a lock file needs them).
    """
    stack = choice.stack
    attention = attention or choice.attention
    if attention == "upstream" and stack.cpu:
        raise UsageProblem("--attention upstream builds flash-attn for a GPU, and the stack cpu serves none")
    _refuse_foreign_flash_attn(destination, attention, replace)
    keep_all = stack.name == as_installed.NAME
    remove = () if keep_all else _clashes(stack, destination)
    gone = {entry.name for entry, _ in remove}
    usable = {name: entry for name, entry in destination.installed.items() if name not in gone and _sound(entry)}
    if keep_all:
        roots = list(BUILD_REQUIREMENTS) if attention == "upstream" else []
    else:
        roots = _roots(stack, choice, destination, attention)
    known = {} if everything else usable
    resolution = _resolve_stack(stack, roots, stack_index, sources, client, destination.python, known, folders)
    if everything:
        resolution = _keep_installed(resolution.packages, usable)
    if keep_all:
        stays = (destination.installed[name] for name in ("torch", stack.triton))
        kept = tuple(Package(entry.name, entry.version, None, None, entry.requires) for entry in stays)
        resolution = Resolution(resolution.packages, (*resolution.kept, *kept))
    resolution = Resolution(tuple(map(_hashed, resolution.packages)), resolution.kept)
    upstream = None
    if attention == "upstream":
        wanted = choice.recommendation.flash_attn if choice.recommendation else None
        upstream = find_source(wanted, sources, client)
    return _plan(
        destination,
        stack=stack.name,
        hip=stack.rocm,
        attention=attention,
        targets=choice.targets,
        resolution=resolution,
        remove=remove,
        upstream=upstream,
        variables={**choice.variables, **_attention_variables(attention, stack)},
        reasons=choice.reasons,
        rejected=choice.rejected,
        notes=(*choice.notes, *_unmet(destination, resolution, gone), *_compiler_note(stack, destination)),
    )


def plan_from_lock(locked: Locked, destination: Destination, *, replace: bool) -> Plan:
    """The plan that a lock file holds, for another environment. Nothing is resolved and nothing chosen."""
    minor = ".".join(destination.python.version.split(".")[:2])
    if minor != locked.python:
        raise UsageProblem(f"{locked.path} is for Python {locked.python}, the environment has {minor}")
    locked.check_kernels()
    _refuse_foreign_flash_attn(destination, locked.attention, replace)
    names = {package.name for package in locked.packages}
    remove = tuple(
        (owner, conflict_rule()[1]) for owner in triton_owners(dict(destination.installed)) if owner.name not in names
    )
    usable = {name: entry for name, entry in destination.installed.items() if _sound(entry)}
    resolution = _keep_installed(locked.packages, usable)
    return _plan(
        destination,
        stack=locked.stack,
        hip=locked.hip,
        attention=locked.attention,
        targets=locked.targets,
        resolution=Resolution(resolution.packages, (*resolution.kept, *locked.kept)),
        remove=remove,
        upstream=locked.upstream,
        variables=locked.variables,
        reasons=(f"{locked.path} names every wheel",),
    )


def from_folder(plan: Plan, folder: Path, *, only: bool) -> Plan:
    """The plan with its files taken from a folder where they are there; `only`: raises NothingFits where one is not."""

    def here(package: Package) -> Package:
        file = package.file
        if file is None:
            return package
        path = folder / file.filename
        if path.is_file():
            return dataclasses.replace(package, file=dataclasses.replace(file, url=path.as_uri()))
        if only:
            raise NothingFits(f"{folder} lacks {file.filename}")
        return package

    upstream = here(plan.upstream) if plan.upstream else None
    return dataclasses.replace(plan, packages=tuple(map(here, plan.packages)), upstream=upstream)


def _plan(
    destination: Destination,
    *,
    stack: str,
    hip: str | None,
    attention: str,
    targets: tuple[str, ...],
    resolution: Resolution,
    remove: tuple[tuple[Installed, str], ...],
    upstream: Package | None,
    variables: Mapping[str, Variable],
    reasons: tuple[str, ...],
    rejected: tuple[tuple[str, str], ...] = (),
    notes: tuple[str, ...] = (),
) -> Plan:
    torch = next((row for row in (*resolution.packages, *resolution.kept) if row.name == "torch"), None)
    if torch is None:
        raise UsageProblem(f"the stack {stack} names no torch")
    python = destination.python
    return Plan(
        environment=destination.environment,
        exists=destination.exists,
        base_python=python.executable if destination.exists else python.base_executable,
        python_version=python.version,
        stack=stack,
        torch=torch.version,
        hip=hip,
        attention=attention,
        targets=targets,
        packages=resolution.packages,
        kept=resolution.kept,
        remove=remove,
        kernels=build_wheel() if attention == "bundled" else None,
        upstream=upstream,
        variables=variables,
        reasons=reasons,
        rejected=rejected,
        notes=notes,
    )


def _keep_installed(packages: tuple[Package, ...], usable: Mapping[str, Installed]) -> Resolution:
    """Parts a complete list of wheels into those to install and those whose exact version is there already."""
    there = {package.name for package in packages if package.name in usable}
    kept = {name for name in there if any(_is_it(package, usable[name]) for package in packages)}
    return Resolution(
        tuple(package for package in packages if package.name not in kept),
        tuple(package for package in packages if package.name in kept),
    )


def _hashed(package: Package) -> Package:
    """A package from a folder with its hash, which nothing but the file itself can tell."""
    file = package.file
    if file is None or file.sha256 or not file.url.startswith("file:"):
        return package
    return dataclasses.replace(
        package, file=dataclasses.replace(file, sha256=sha256_of(local_path(file.url) or Path(file.url)))
    )


def _is_it(package: Package, entry: Installed) -> bool:
    return package.name == entry.name and _same_version(package.version, entry.version)


def _roots(stack: Stack, choice: Choice, destination: Destination, attention: str) -> list[str]:
    """What the resolution starts from: torch and its Triton, pinned to the local version, and companions there are."""
    extras = f"[{','.join(f'device-{gfx}' for gfx in choice.targets)}]" if stack.device_extra else ""
    roots = [f"torch{extras}=={stack.torch_pin}"]
    # torch of a ROCm index requires its Triton itself; the pin keeps a resolver from taking another.
    if stack.cpu or stack.index == "pytorch":
        roots.append(f"{stack.triton}=={stack.triton_version}")
    for name, version in (("torchvision", stack.torchvision), ("torchaudio", stack.torchaudio)):
        if name in destination.installed and version:
            local = f"+{stack.local}" if stack.local and "+" not in version else ""
            roots.append(f"{name}=={version}{local}")
    # torch does not require it, and warns whenever it is imported without.
    if not destination.exists or "numpy" in destination.installed:
        roots.append("numpy")
    if attention == "bundled":
        roots.append("einops")
    elif attention == "upstream":
        roots += BUILD_REQUIREMENTS
    return roots


def _resolve_stack(
    stack: Stack,
    roots: list[str],
    stack_index: str | None,
    sources: Sources,
    client: IndexClient,
    python: TargetPython,
    usable: Mapping[str, Installed],
    folders: tuple[str, ...],
) -> Resolution:
    def attempt(index: str | None) -> Resolution:
        return resolve(
            roots,
            client=client,
            python=python,
            stack_index=index,
            sources=sources,
            stack_from_configured=stack.cpu,
            stack_folders=folders,
            installed=usable,
        )

    if not stack.cpu:
        try:
            return attempt(stack_index)
        except NothingFits as error:
            raise NothingFits(f"{error}{_by_hand(stack, roots[0])}") from error
    try:
        return attempt(None)  # what is configured first: it may be all that can be reached
    except NothingFits as error:
        if client.offline:
            raise
        try:
            return attempt(stack_index)
        except IndexUnreachable as unreachable:
            raise NothingFits(f"{error}. The stack's own index: {unreachable}") from unreachable


def _by_hand(stack: Stack, torch: str) -> str:
    """What to type for a stack whose ROCm comes as packages of its own: one of them, the selector `rocm`, exists as
    source only, which pip builds and this installer does not."""
    if stack.rocm_bundled or stack.url is None:
        return ""
    return (
        f".\nIn an environment of your own: pip install --index-url {stack.url} '{torch}'; then "
        "`fa-doctor install --stack installed` adds the kernels"
    )


def _clashes(stack: Stack, destination: Destination) -> tuple[tuple[Installed, str], ...]:
    """What must go before anything is installed, with the reason."""
    installed = dict(destination.installed)
    found: dict[str, tuple[Installed, str]] = {}
    installed = {name: entry for name, entry in installed.items() if _is_own(entry, destination)}
    owners = triton_owners(installed)
    for owner in owners:
        if len(owners) > 1:
            others = " and ".join(other.name for other in owners if other != owner)
            found[owner.name] = (owner, f"{others} writes triton/ too")
        elif owner.name != stack.triton:
            found[owner.name] = (owner, f"torch {stack.torch_pin} wants {stack.triton}, which writes triton/ too")
    torch = installed.get("torch")
    if torch and not _same_version(torch.version, stack.torch_pin):
        found["torch"] = (torch, f"the stack has {stack.torch_pin}")
        gone = frozenset({"torch", "torchvision", "torchaudio", *found})
        for entry in orphans_of_cuda_torch(installed, gone):
            found[entry.name] = (entry, f"only torch {torch.version} needed it")
    return tuple(found[name] for name in sorted(found))


def _is_own(entry: Installed, destination: Destination) -> bool:
    """Whether a distribution lies in the environment itself: what a parent lends it can be shadowed, not removed."""
    return Path(entry.folder).is_relative_to(destination.environment)


def _refuse_foreign_flash_attn(destination: Destination, attention: str, replace: bool) -> None:
    entry = destination.installed.get(DISTRIBUTION)
    if entry and attention != "none" and OURS not in entry.version and not replace:
        raise Refused(
            f"flash-attn {entry.version} is installed in {destination.environment} and was not put there by fa-doctor. "
            "--replace takes its place, --attention none leaves it alone."
        )


def _attention_variables(attention: str, stack: Stack) -> dict[str, Variable]:
    if attention != "upstream" or stack.cpu:
        return {}
    name = "FLASH_ATTENTION_TRITON_AMD_ENABLE"
    return {name: Variable("TRUE", "flash-attn reads it when it is imported: without it it wants the CUDA extension")}


def _sound(entry: Installed) -> bool:
    """Whether an installed distribution may stay: stack packages only with all of their files."""
    return (entry.name not in STACK_PACKAGES and entry.name not in DISTRIBUTIONS) or not missing_files(entry)


def _same_version(first: str, second: str) -> bool:
    try:
        return Version(first) == Version(second)
    except InvalidVersion:
        return first == second


def _compiler_note(stack: Stack, destination: Destination) -> tuple[str, ...]:
    """What Triton will need when it first runs a kernel and does not find here."""
    compiler = any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "gcc", "clang"))
    missing = [] if compiler else ["no C compiler is on PATH"]
    if not destination.python.has_headers:
        missing.append(f"Python {destination.python.minor} has no headers (Python.h)")
    wanted = [text for text in needs(stack.triton_version) if "compiler" in text]
    if stack.cpu or not missing or not wanted:
        return ()
    return (f"Triton {stack.triton_version} needs {wanted[0]}; {' and '.join(missing)}",)


def _unmet(destination: Destination, resolution: Resolution, gone: set[str]) -> tuple[str, ...]:
    """Installed packages whose requirement on something of the stack will no longer hold."""
    from packaging.requirements import InvalidRequirement, Requirement

    new = {package.name: package.version for package in resolution.packages}
    notes = []
    for entry in destination.installed.values():
        if entry.name in gone or entry.name in new:
            continue
        for text in entry.requires:
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            version = new.get(requirement.name.lower().replace("_", "-"))
            marker = requirement.marker
            if version is None or (
                marker is not None and not marker.evaluate({**destination.python.markers(), "extra": ""})
            ):
                continue
            if not requirement.specifier.contains(version, prereleases=True):
                notes.append(f"{entry.name} {entry.version} asks for {requirement}, and will find {version}")
    return tuple(notes)
