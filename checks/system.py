"""The operating system: WSL and what it needs, and whether the C and C++ libraries are new enough."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Safety, Verdict, failed, passed, skipped, unknown
from fa_doctor.diagnosis.remedies import run_as_root, set_variable
from fa_doctor.facts.machine import Machine
from fa_doctor.knowledge.gpus import version_key

_DXG = "HSA_ENABLE_DXG_DETECTION"
_WITH_BRIDGE = (7, 1)  # the ROCm release from which the HSA runtime of every wheel can load librocdxg


@check("DRV301", "system.wsl", rests_on=("GPU001", "TOR101"), causes=("wsl-specific",))
def wsl(machine: Machine) -> Verdicts:
    """Under WSL torch's HSA runtime can reach the GPU.

    Why it matters: WSL has no /dev/kfd; the GPU is behind /dev/dxg. With ROCm 6 only an HSA runtime of its own below
    /opt/rocm knows the way, and the one that torch's wheels carry in torch/lib comes first: rocminfo shows the GPU,
    torch does not. From ROCm 7.1 on every runtime can go through librocdxg, but looks only where
    HSA_ENABLE_DXG_DETECTION=1 says so; rocminfo shows the GPU without it.
    How to fix: AMD's steps for WSL. ROCm 6: install it with --usecase=wsl,rocm --no-dkms, then take libhsa-runtime64
    out of torch/lib. ROCm 7.1 and later: install librocdxg and set the variable.
    Sources: https://rocm.docs.amd.com/projects/radeon/en/latest/docs/install/wsl/install-pytorch.html; ROCm/librocdxg
    """
    system, torch = machine.system, machine.torch
    if system.wsl is None:
        return unknown("whether this is WSL is not known")
    if not system.wsl:
        return skipped("this is not WSL")
    if torch is None or torch.build != "rocm":
        return skipped("no ROCm torch is installed")
    own = [name for name in torch.bundled if name.startswith("libhsa-runtime64.so")]
    if not own:
        return passed(
            "torch carries no HSA runtime of its own", Evidence(f"{torch.folder}/lib", "no libhsa-runtime64.so")
        )
    bridge = next((install.dxg_bridge for install in machine.rocm or () if install.dxg_bridge), None)
    if bridge and version_key(torch.rocm or "0") >= _WITH_BRIDGE:
        return _through_bridge(machine, bridge)
    where = shlex.quote(f"{torch.folder}/lib")
    aside = shlex.quote(f"{torch.folder}/lib/aside-for-wsl")
    commands = [f"mkdir -p {aside}", f"mv {where}/libhsa-runtime64.so* {aside}/"]
    fixes = [
        Fix(
            "Take torch's own HSA runtime out of the way, so that the one of WSL is loaded",
            tuple(commands),
            (f"mv {aside}/libhsa-runtime64.so* {where}/",),
            safety=Safety.UNSAFE,
            proof="DRV301",
        )
    ]
    if not machine.rocm or all(install.origin == "torch" for install in machine.rocm):
        fixes.insert(
            0,
            run_as_root(
                machine,
                "Install ROCm for WSL first",
                ("amdgpu-install -y --usecase=wsl,rocm --no-dkms",),
                proof="DRV301",
            ),
        )
    return failed(
        "torch carries an HSA runtime that cannot see the GPU of WSL",
        *(Evidence(f"{torch.folder}/lib/{name}", "present") for name in own[:2]),
        Evidence("kernel", system.kernel or "?"),
        cause="wsl-specific",
        fixes=tuple(fixes),
    )


def _through_bridge(machine: Machine, bridge: str) -> Verdict:
    """Whether torch's own runtime is told to look for the GPU behind librocdxg."""
    there = Evidence(bridge, "present")
    if machine.variables is None:
        return unknown(f"whether {_DXG} is set is not known", there)
    value = machine.variable(_DXG)
    if value == "1":
        return passed("torch's HSA runtime reaches the GPU of WSL through librocdxg", there, Evidence(_DXG, "1"))
    return failed(
        f"{_DXG} is not set to 1: torch's HSA runtime does not look for the GPU of WSL",
        there,
        Evidence(_DXG, "not set" if value is None else value),
        cause="wsl-specific",
        detail="rocminfo shows the GPU without it, torch does not.",
        fixes=(set_variable(machine, _DXG, "1", "Have the runtime look for it", proof="DRV301"),),
    )


@check("LIB301", "system.c-libraries", causes=("glibc-or-libstdcxx-too-old",))
def c_libraries(machine: Machine) -> Verdicts:
    """glibc and libstdc++ are as new as the installed packages want them.

    Why it matters: what was compiled on a newer system stops at import with "version GLIBC_2.38 not found" or
    "GLIBCXX_3.4.32 not found".
    How to fix: a newer system or image; a build on this one; for libstdc++ a conda environment can bring a newer one.
    Never copy a single library from another system.
    Sources: PEP 600 (the glibc in a wheel's tag); the version references in the compiled files (.gnu.version_r).
    """
    system = machine.system
    wants = list(_wants(machine))
    if not wants:
        return skipped("nothing compiled that could be looked at is installed")
    if system.glibc is None and system.libstdcxx_newest is None:
        return unknown("the versions of glibc and libstdc++ are not known")
    have = {"GLIBC": system.glibc, "GLIBCXX": system.libstdcxx_newest}
    missing = [
        (kind, version, evidence)
        for kind, version, evidence in wants
        if have[kind] is not None and version_key(version) > version_key(have[kind] or "")
    ]
    if machine.python.environment == "conda":  # its own libstdc++ is found first, and is not the system's
        missing = [entry for entry in missing if entry[0] == "GLIBC"]
    if not missing:
        return passed(
            f"glibc {system.glibc or '?'} and GLIBCXX_{system.libstdcxx_newest or '?'} are new enough",
            *system.evidence[-2:],
        )
    kind, version, _ = max(missing, key=lambda entry: version_key(entry[1]))
    library = "glibc" if kind == "GLIBC" else "libstdc++"
    return failed(
        f"{library} is too old: {kind}_{version} is wanted, {kind}_{have[kind]} is here",
        *(evidence for _, _, evidence in missing[:4]),
        *system.evidence[-2:],
        cause="glibc-or-libstdcxx-too-old",
        detail=f"{system.pretty_name or 'This system'} cannot bring a newer one without being upgraded itself.",
        fixes=(
            Fix(
                "Use an image of a newer system, or build the package on this one",
                ("docker pull rocm/pytorch:latest",) if machine.container.inside else (),
                proof="LIB301",
            ),
        ),
    )


def _wants(machine: Machine) -> Iterator[tuple[str, str, Evidence]]:
    """What the installed packages ask for: (GLIBC or GLIBCXX, version, where that is said)."""
    distributions = [found.distribution for found in (machine.torch, machine.flash_attention) if found]
    distributions += [found.distribution for found in machine.companions]
    if machine.triton:
        distributions += machine.triton.owners
    for distribution in distributions:
        for tag in distribution.tags if distribution else ():
            match = re.search(r"manylinux_(\d+)_(\d+)_", tag)
            if match and distribution:
                yield "GLIBC", f"{match[1]}.{match[2]}", Evidence(f"{distribution.metadata_path}/WHEEL", f"Tag: {tag}")
    extensions = [extension for companion in machine.companions for extension in companion.extensions]
    if machine.flash_attention and machine.flash_attention.extension:
        extensions.append(machine.flash_attention.extension)
    for extension in extensions:
        for library, versions in (extension.versions_needed or {}).items():
            for version in versions:
                match = re.fullmatch(r"(GLIBC|GLIBCXX)_(\d+(?:\.\d+)+)", version)
                if match:
                    yield match[1], match[2], Evidence(extension.path, f"needs {version} of {library}")


@check("RES301", "system.facts")
def facts(machine: Machine) -> Verdicts:
    """fa-doctor could read everything that it reads.

    Why it matters: where a reader of ours breaks, its facts are unknown, and checks that need them decide nothing.
    How to fix: report it, with a snapshot of the machine (`fa-doctor snapshot DIR`).
    Sources: fa_doctor/diagnosis/gather.py.
    """
    snapshot = Fix("Record this machine for the report", ("fa-doctor snapshot fa-doctor-machine",))
    return [
        unknown(
            fault.text,
            fault,
            detail="This is a fault of fa-doctor, not of this machine; please report it.",
            fixes=(snapshot,),
        )
        for fault in machine.faults
    ] or passed("all facts were read")
