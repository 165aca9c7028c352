"""Triton in the target Python: which one is imported, who put it there, and whether it is the one that torch wants."""

from __future__ import annotations

import re

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Safety, Status, Verdict, failed, passed, skipped, unknown
from fa_doctor.diagnosis.remedies import install_system_packages, leave_python_path, replace_packages
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.packages import Torch, Triton
from fa_doctor.knowledge.stacks import stack_of_torch
from fa_doctor.knowledge.system_packages import package_names
from fa_doctor.knowledge.triton import DISTRIBUTIONS, needs

__all__ = ["wanted_triton"]


@check("TRI001", "triton.installed", rests_on=("TOR101",), causes=("triton-missing",))
def installed(machine: Machine) -> Verdicts:
    """Triton is installed beside a ROCm torch.

    Why it matters: the attention kernels for AMD GPUs, those of fa-doctor, of flash-attn's Triton backend and of
    torch.compile, are written in Triton and compiled on this machine.
    How to fix: install the Triton that the installed torch requires, from torch's own index. torch's ROCm wheels bring
    it; installing torch with --no-deps, or removing what seemed a duplicate, loses it.
    Sources: Requires-Dist of torch's ROCm wheels.
    """
    torch = machine.torch
    if torch is None or torch.build != "rocm":
        return skipped("no ROCm torch is installed")
    triton = machine.triton
    if triton is not None and (triton.version is not None or triton.owners):
        return passed(f"Triton {triton.version or triton.owners[0].version} is installed", *triton.evidence)
    evidence = triton.evidence if triton else ()
    detail = "The folder triton/ that is there is what a removed package left behind." if triton else ""
    return failed(
        "Triton is not installed",
        *evidence,
        *_wants(torch),
        cause="triton-missing",
        detail=detail,
        fixes=_install_wanted(machine, torch, "TRI001"),
    )


@check("TRI002", "triton.one-owner", rests_on=("TRI001",), causes=("triton-dual-install",))
def one_owner(machine: Machine) -> Verdicts:
    """One distribution, and only one, owns the folder triton/.

    Why it matters: triton, pytorch-triton-rocm, triton-rocm, pytorch-triton and amd-triton all write the same folder,
    and pip does not see that they clash. What is imported is a mixture of the files of several builds, and removing one
    takes files away from the other.
    How to fix: remove all of them, then install the one that the installed torch requires.
    Sources: RECORD of each distribution; state-spaces/mamba issue 595; ROCm/TheRock RELEASES.md.
    """
    triton = machine.triton
    if triton is None:
        return skipped("Triton is not installed")
    here = [owner for owner in triton.owners if triton.folder is None or triton.folder.startswith(owner.location + "/")]
    if len(here) > 1:
        names = " and ".join(f"{owner.name} {owner.version}" for owner in here)
        return failed(
            f"{len(here)} distributions own one folder triton/: {names}",
            *triton.evidence,
            cause="triton-dual-install",
            detail="Each wrote its files over those of the other, and pip does not see it. What is imported now is a "
            f"mixture that says it is {triton.version or 'of no version'}; removing one takes files of the other away.",
            fixes=_reinstall(machine, triton, "TRI002"),
        )
    if here and triton.version and _release(here[0].version) != _release(triton.version) and not here[0].editable:
        return failed(
            f"triton/ holds files of another build than {here[0].name} {here[0].version}",
            *triton.evidence,
            cause="triton-dual-install",
            detail=f"The folder says {triton.version}: another distribution was installed over it and then removed, or "
            "its files were copied by hand.",
            fixes=_reinstall(machine, triton, "TRI002"),
        )
    if not here:
        return unknown("no metadata says which distribution the folder triton/ belongs to", *triton.evidence)
    return passed(f"{here[0].name} {here[0].version} owns triton/ alone", *triton.evidence)


@check("TRI003", "triton.version", rests_on=("TRI002",), causes=("triton-version-mismatch",))
def version(machine: Machine) -> Verdicts:
    """The Triton that is imported is the one that the installed torch requires.

    Why it matters: torch and the kernels written for it use names inside Triton that change with each release. An
    unfitting one fails at import ("cannot import name AttrsDescriptor"), in the compiler ("PassManager::run failed"),
    or at the first launch.
    How to fix: pin it. torch 2.6, the classic stack of flash-attn 2.8, wants 3.2.0 (triton==3.2.0); a newer torch says
    in its metadata which one it wants.
    Sources: Requires-Dist of torch's wheels; README of flash-attn 2.8.3 (triton==3.2.0).
    """
    torch, triton = machine.torch, machine.triton
    if torch is None or torch.build != "rocm" or triton is None:
        return skipped("no ROCm torch with Triton is installed")
    wanted = wanted_triton(torch)
    if wanted is None:
        return unknown(f"which Triton torch {torch.version} requires is not in its metadata", *torch.evidence)
    name, specifier = wanted
    imported = triton.version or (triton.owners[0].version if triton.owners else None)
    if imported is None:
        return unknown("the version of the imported Triton is not known", *triton.evidence)
    if _accepts(specifier, imported):
        return passed(f"Triton {imported} is what torch {torch.version} requires ({name}{specifier})", *triton.evidence)
    shadowed = [
        owner for owner in triton.owners if triton.folder and not triton.folder.startswith(owner.location + "/")
    ]
    detail = "; ".join(
        f"{owner.name} {owner.version} in {owner.location} is not the one imported" for owner in shadowed
    )
    return failed(
        f"Triton {imported} is imported, but torch {torch.version} requires {name}{specifier}",
        *triton.evidence,
        *_wants(torch),
        cause="triton-version-mismatch",
        detail=detail,
        fixes=leave_python_path(machine, triton.folder, "TRI003") or _reinstall(machine, triton, "TRI003"),
    )


@check("TRI004", "triton.amd-backend", rests_on=("TRI002",), causes=("triton-version-mismatch",))
def amd_backend(machine: Machine) -> Verdicts:
    """The installed Triton can compile for AMD GPUs.

    Why it matters: without triton/backends/amd every kernel ends with "0 active drivers".
    How to fix: install the Triton that torch requires; its wheels hold the AMD backend since 3.0.
    Sources: contents of the wheels of Triton 3.2.0 to 3.9.0.
    """
    torch, triton = machine.torch, machine.triton
    if torch is None or torch.build != "rocm" or triton is None or triton.folder is None:
        return skipped("no ROCm torch with Triton is installed")
    if triton.has_amd_backend is None:
        return unknown("whether Triton has its AMD backend is not known")
    if triton.has_amd_backend:
        return passed("Triton has its AMD backend", Evidence(f"{triton.folder}/backends/amd", "present"))
    return failed(
        f"the installed Triton {triton.version or ''} has no AMD backend".replace("  ", " "),
        Evidence(f"{triton.folder}/backends/amd", "absent"),
        cause="triton-version-mismatch",
        fixes=_reinstall(machine, triton, "TRI004"),
    )


@check("TRI005", "triton.python-headers", rests_on=("TOR101",), causes=("python-headers-missing",))
def python_headers(machine: Machine) -> Verdicts:
    """Python.h is there for the target Python.

    Why it matters: Triton compiles a small C module when the first kernel is launched, and includes Python.h. Without
    it every attention kernel of Triton ends with "fatal error: Python.h: No such file or directory".
    How to fix: install the development package of this very Python version.
    Sources: triton/runtime/build.py in the wheels of Triton 3.2.0 to 3.9.0.
    """
    python, triton = machine.python, machine.triton
    if machine.torch is None or machine.torch.build != "rocm":
        return skipped("no ROCm torch is installed")
    if python.include_folder is None or python.has_headers is None:
        return unknown("where the headers of the target Python should be is not known")
    evidence = Evidence(f"{python.include_folder}/Python.h", "present" if python.has_headers else "absent")
    if python.has_headers:
        return passed("Python.h is there", evidence)
    return failed(
        f"Python.h of Python {python.version} is not installed",
        evidence,
        cause="python-headers-missing",
        detail="; ".join(needs(triton.version)) if triton and triton.version else "",
        fixes=_headers(machine),
    )


@check("TRI006", "triton.setuptools", rests_on=("TRI003",))
def setuptools(machine: Machine) -> Verdicts:
    """setuptools is there for a Triton that imports it without requiring it.

    Why it matters: Triton 3.2 imports setuptools when it compiles its first kernel, and its metadata does not say so.
    Virtual environments of Python 3.12 and later come without it: "No module named 'setuptools'".
    How to fix: install setuptools into the target Python.
    Sources: triton/runtime/build.py of the wheel of Triton 3.2.0.
    """
    triton = machine.triton
    if triton is None or triton.version is None:
        return skipped("Triton is not installed")
    wanted = [need for need in needs(triton.version) if "setuptools" in need]
    if not wanted:
        return skipped(f"Triton {triton.version} does not import setuptools")
    found = machine.python.find("setuptools")
    if found:
        return passed(f"setuptools {found[0].version} is installed", Evidence(found[0].metadata_path, "present"))
    return Verdict(
        Status.FAIL,
        f"Triton {triton.version} needs setuptools, which is not installed",
        "; ".join(wanted),
        evidence=(Evidence(", ".join(machine.python.search_path), "no setuptools there"),),
        fixes=(replace_packages(machine, "Install setuptools", install=("setuptools>=40.8",), proof="TRI006"),),
    )


def wanted_triton(torch: Torch) -> tuple[str, str] | None:
    """Name and version specifier of the Triton that this torch requires: from its metadata, else from the stack."""
    if torch.triton_wanted:
        match = re.match(r"([A-Za-z0-9._-]+?)\s*([=<>!~].*)?$", torch.triton_wanted)
        if match:
            return match[1], (match[2] or "").strip()
    stack = stack_of_torch(torch.version)
    return (stack.triton, f"=={stack.triton_version}") if stack else None


def _accepts(specifier: str, version: str) -> bool:
    """Whether a release satisfies a specifier; local versions ("3.2.0+rocm6.4.2.git...") do not count on either side."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        wanted = SpecifierSet(re.sub(r"\+[^,]*", "", specifier))
        return wanted.contains(Version(Version(version).public), prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return _release(version) in specifier


def _release(version: str) -> str:
    return re.split(r"[+]|\.dev|\.post|a|b|rc", version, maxsplit=1)[0]


def _wants(torch: Torch) -> tuple[Evidence, ...]:
    if torch.triton_wanted is None:
        return ()
    source = torch.distribution.metadata_path if torch.distribution else torch.folder
    return (Evidence(source, f"Requires-Dist: {torch.triton_wanted}"),)


def _install_wanted(machine: Machine, torch: Torch, proof: str, remove: tuple[str, ...] = ()) -> tuple[Fix, ...]:
    """Installs the Triton that torch wants. From torch's own index where that is known; on the default index only the
    name `triton` exists, and its wheel of the same release has the AMD backend too."""
    wanted = wanted_triton(torch)
    if wanted is None:
        return ()
    name, specifier = wanted
    stack = stack_of_torch(torch.version)
    index = stack.url if stack else None
    if index is None and "+" in specifier:
        return (
            Fix(
                f"Install {name}{specifier} from where torch {torch.version} came from",
                proof=proof,
            ),
        )
    if index is None:
        name = "triton"
    return (
        replace_packages(
            machine,
            f"Install {name}{specifier}, which torch {torch.version} requires",
            remove=remove,
            install=(f"{name}{specifier}",),
            index=index,
            safety=Safety.SAFE,
            proof=proof,
        ),
    )


def _reinstall(machine: Machine, triton: Triton, proof: str) -> tuple[Fix, ...]:
    if machine.torch is None:
        return ()
    present = {owner.name for owner in triton.owners}
    remove = tuple(name for name in DISTRIBUTIONS if name in present)
    return _install_wanted(machine, machine.torch, proof, remove)


def _headers(machine: Machine) -> tuple[Fix, ...]:
    python = machine.python
    minor = ".".join((python.version or "3").split(".")[:2])
    title = f"Install the headers of Python {minor}"
    if python.environment == "conda":
        return (Fix(title, (f"conda install -p {python.prefix} python={minor}",), proof="TRI005"),)
    if python.base_prefix in ("/usr", None):
        names = {
            manager: name.format(minor=minor, digits=minor.replace(".", ""))
            for manager, name in package_names("python-headers").items()
        }
        return (install_system_packages(machine, title, names, proof="TRI005"),)
    return (
        Fix(
            f"{title}: {python.base_prefix} was installed without them; a Python from uv or pyenv has them",
            (f"uv venv --seed --python {minor} ~/fa-doctor-env",),
            proof="TRI005",
        ),
    )
