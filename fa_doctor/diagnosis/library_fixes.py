"""Fixes for libraries that are missing or of the wrong release, as the model of the dynamic linker proves them."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fa_doctor.diagnosis.model import Fix, Need, Safety
from fa_doctor.diagnosis.remedies import (
    as_root,
    install_system_packages,
    is_image_build,
    replace_packages,
    set_variable,
    unset_variable,
)
from fa_doctor.facts.libraries import LinkedFile, RocmLibrary, is_rocm_library
from fa_doctor.knowledge.stacks import stack_of_torch
from fa_doctor.knowledge.system_packages import package_names

if TYPE_CHECKING:
    from fa_doctor.facts.machine import Machine

__all__ = ["LIBRARY_PATH", "make_found", "register_folder", "reinstall_torch", "unmix", "without_folders"]

LIBRARY_PATH = "LD_LIBRARY_PATH"


def make_found(machine: Machine, linked: LinkedFile, proof: str) -> tuple[Fix, ...]:
    """Makes the dynamic linker find what torch needs.

    LD_LIBRARY_PATH and ldconfig are proposed only with a folder with which, as the model shows, everything is found;
    ldconfig first for root, since it holds for every user and process.
    """
    fixes: list[Fix] = []
    for folder in dict.fromkeys(missed.cure for missed in linked.missing if missed.cure):
        before = machine.variable(LIBRARY_PATH)
        value = f"{folder}:{before}" if before else folder
        name = set_variable(machine, LIBRARY_PATH, value, f"Let the dynamic linker look in {folder}", proof=proof)
        register = register_folder(machine, folder, proof)
        is_root = machine.user is not None and machine.user.uid == 0
        fixes += [register, name] if is_root else [name, register]
    uncured = [missed for missed in linked.missing if not missed.cure]
    for missed in uncured:
        names = package_names(missed.name)
        if names:
            title = f"Install the package with {missed.name}"
            fixes.append(install_system_packages(machine, title, names, proof=proof))
    torch = machine.torch
    if torch is not None and any(
        (missed.error and f"{torch.folder}/" in missed.error) or (is_rocm_library(missed.name) and torch.bundles_rocm)
        for missed in uncured
    ):
        fixes += reinstall_torch(machine, proof)
    return tuple(fixes)


def register_folder(machine: Machine, folder: str, proof: str) -> Fix:
    """Enters a folder into the dynamic linker's table, for every user. Where its configuration names the folder
    already, running ldconfig is all that is missing."""
    known = folder in machine.libraries.unregistered
    line = shlex.quote(folder)
    if is_image_build(machine):
        command = "ldconfig" if known else f"echo {line} > /etc/ld.so.conf.d/rocm.conf && ldconfig"
        return Fix(
            f"Register {folder} (in the Dockerfile of this image)", (f"RUN {command}",), needs=Need.ROOT, proof=proof
        )
    run = as_root(machine, "ldconfig")
    if known:
        title = f"Run ldconfig: /etc/ld.so.conf names {folder}, and the table was not rebuilt since"
        return Fix(title, (run,), needs=Need.ROOT, proof=proof)
    tee = as_root(machine, "tee /etc/ld.so.conf.d/rocm.conf")
    undo = (as_root(machine, "rm /etc/ld.so.conf.d/rocm.conf"), run)
    title = f"Register {folder} with ldconfig, for every user"
    return Fix(title, (f"echo {line} | {tee}", run), undo, needs=Need.ROOT, proof=proof)


def reinstall_torch(machine: Machine, proof: str) -> tuple[Fix, ...]:
    """Puts the files of the installed torch back, from its own index; nothing where that is not known."""
    torch = machine.torch
    stack = stack_of_torch(torch.version) if torch else None
    if torch is None or stack is None or stack.url is None:
        return ()
    fix = replace_packages(
        machine,
        f"Put the files of torch {torch.version} back",
        install=(f"torch=={torch.version}",),
        index=stack.url,
        options=("--force-reinstall", "--no-deps"),
        safety=Safety.UNSAFE,
        proof=proof,
    )
    return (fix,)


def without_folders(machine: Machine, folders: Iterable[str], proof: str) -> tuple[Fix, ...]:
    """Takes folders out of LD_LIBRARY_PATH; the whole variable where nothing else is in it."""
    value = machine.variable(LIBRARY_PATH)
    if not value:
        return ()
    unwanted = {posixpath.normpath(folder) for folder in folders}
    elements = [element for element in value.replace(";", ":").split(":") if element]
    rest = [element for element in elements if posixpath.normpath(element) not in unwanted]
    if len(rest) == len(elements):
        return ()
    gone = " and ".join(element for element in elements if element not in rest)
    if rest:
        return (set_variable(machine, LIBRARY_PATH, ":".join(rest), f"Take {gone} out of {LIBRARY_PATH}", proof=proof),)
    return (unset_variable(machine, LIBRARY_PATH, f"Unset {LIBRARY_PATH}, which holds {gone} only", proof=proof),)


def unmix(machine: Machine, odd: Iterable[RocmLibrary | str], proof: str) -> tuple[Fix, ...]:
    """Keeps libraries (as the model describes them, or as paths that were mapped) out of torch's process."""
    places = [library if isinstance(library, str) else library.path for library in odd]
    preload = machine.variable("LD_PRELOAD") or ""
    if any(place in preload.replace(":", " ").split() for place in places):
        return (unset_variable(machine, "LD_PRELOAD", "Preload no library of another ROCm", proof=proof),)
    fixes = without_folders(machine, map(posixpath.dirname, places), proof)
    if fixes:
        return fixes
    torch = machine.torch
    asked = [library.by or "" for library in odd if not isinstance(library, str)]
    if torch is not None and any(by.startswith(f"{torch.folder}/") for by in asked):
        return reinstall_torch(machine, proof)
    return ()
