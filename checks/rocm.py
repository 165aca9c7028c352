"""ROCm's user space: there where something needs it, of the release that torch wants, whole."""

from __future__ import annotations

import re

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Need, Safety, failed, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import as_root, install_system_packages, is_image_build, replace_packages
from fa_doctor.diagnosis.torch_choice import choose_torch, install_torch
from fa_doctor.facts.libraries import same_release, stem_of
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.packages import Torch
from fa_doctor.facts.rocm import RocmInstall
from fa_doctor.knowledge.gpus import version_key
from fa_doctor.knowledge.stacks import stack_of_torch
from fa_doctor.knowledge.system_packages import package_names

_INSTALL_PAGE = "https://rocm.docs.amd.com/projects/install-on-linux/en/latest/"


@check("ROC001", "rocm.runtime", rests_on=("TOR101",), causes=("rocm-not-installed",))
def runtime(machine: Machine) -> Verdicts:
    """There is a ROCm runtime for torch: inside its wheel, in the rocm packages beside it, or on the system.

    Why it matters: torch's wheels of pytorch.org carry ROCm's libraries in torch/lib, and need the kernel driver only.
    Wheels for ROCm 7.14 and later take them from the rocm packages of the same environment. AMD's "lw" wheels and
    builds of one's own take them from the ROCm of the system: without it, `import torch` fails with
    "libamdhip64.so: cannot open shared object file".
    How to fix: install a torch that carries its libraries, or the ROCm release that this one was built for.
    Sources: pytorch/pytorch .ci/manywheel/build_rocm.sh and issue 191688; https://rocm.docs.amd.com/projects/install-on-linux/
    """
    torch = machine.torch
    if torch is None or torch.build != "rocm":
        return skipped("no ROCm torch is installed")
    if torch.bundles_rocm:
        return passed(
            f"torch carries its own ROCm {torch.rocm or ''} libraries".replace("  ", " "),
            Evidence(f"{torch.folder}/lib", ", ".join(torch.bundled[:6])),
        )
    if machine.rocm is None or torch.bundles_rocm is None:
        return unknown("where torch takes ROCm's libraries from is not recorded")
    providers = _runtimes(machine)
    if providers:
        names = ", ".join(f"ROCm {install.version or '?'} at {install.path}" for install in providers)
        return passed(f"torch takes its libraries from {names}", *(item for i in providers for item in i.evidence[:1]))
    partial = [install for install in machine.rocm if install.origin != "torch"]
    evidence = [Evidence(f"{torch.folder}/lib", "no ROCm library is bundled there"), *_built_for(torch)]
    evidence += [Evidence(install.path, "no libamdhip64 in it") for install in partial] or [
        Evidence("/opt, /usr, the target Python", "no ROCm runtime")
    ]
    kind = "only partly installed" if partial else "not installed"
    return failed(
        f"torch {torch.version} needs the ROCm of the system, which is {kind}",
        *evidence,
        cause="rocm-not-installed",
        fixes=(*_bundling_torch(machine, "ROC001"), *_install_rocm(machine, torch, "ROC001")),
    )


@check("ROC002", "rocm.torch-release", rests_on=("ROC001",), causes=("rocm-torch-mismatch",))
def torch_release(machine: Machine) -> Verdicts:
    """The ROCm on the system is of a release that torch can use, where torch takes its libraries from there.

    Why it matters: the number behind a library's name changes with each incompatible release (libamdhip64.so.6 is of
    ROCm 6, libamdhip64.so.7 of ROCm 7). A torch built for another one asks for a name that is not there. A link from
    one name to the other makes it start, and crash or compute nonsense later. That the versions of a wheel that carries
    its libraries and of the system differ is no fault.
    How to fix: install the torch built for this ROCm, or the ROCm that torch was built for.
    Sources: shisa-ai/hipEngine issue 1; oobabooga/textgen issue 5556.
    """
    torch, linked = machine.torch, machine.libraries.torch
    if torch is None or torch.build != "rocm" or linked is None:
        return skipped("no ROCm torch whose libraries could be followed")
    providers = _runtimes(machine)
    if torch.bundles_rocm or not providers:
        return skipped("torch does not take its libraries from the system")
    wanted = [missed for missed in linked.missing if stem_of(missed.name) == "libamdhip64" and not missed.elsewhere]
    if wanted and not linked.unknown:
        there = sorted({name for install in providers for name in install.hip_libraries})
        return failed(
            f"torch asks for {wanted[0].name}, and the ROCm here has {', '.join(there)}",
            Evidence(wanted[0].by or torch.folder, f"needs {wanted[0].name}"),
            *_built_for(torch),
            *(Evidence(install.path, f"ROCm {install.version or '?'}") for install in providers),
            cause="rocm-torch-mismatch",
            detail="Do not link one name to the other: the two are not compatible.",
            fixes=(*_bundling_torch(machine, "ROC002"), *_install_rocm(machine, torch, "ROC002")),
        )
    names = ", ".join(f"{install.version or '?'} at {install.path}" for install in providers)
    return passed(f"torch (for ROCm {torch.rocm or '?'}) and ROCm {names} fit each other", *_built_for(torch))


@check("ROC003", "rocm.python-packages", rests_on=("TOR101",), causes=("rocm-library-conflict",))
def python_packages(machine: Machine) -> Verdicts:
    """The rocm packages in the target Python are all of one version.

    Why it matters: from ROCm 7.14 on torch's wheels share the libraries of the packages rocm-sdk-core and
    rocm-sdk-libraries. Parts of two releases meet in one process when only one of them was upgraded.
    How to fix: install all of them in the version that torch requires.
    Sources: pytorch/pytorch issue 191688; ROCm/TheRock docs/packaging/python_packaging.md.
    """
    found = [
        distribution
        for distribution in machine.python.distributions or ()
        if distribution.name == "rocm" or distribution.name.startswith("rocm-sdk-")
    ]
    if not found:
        return skipped("no rocm packages are installed in the target Python")
    versions = sorted({distribution.version for distribution in found})
    evidence = [Evidence(item.metadata_path, f"{item.name} {item.version}") for item in found]
    if len(versions) == 1:
        return passed(f"the rocm packages are all of version {versions[0]}", *evidence)
    torch = machine.torch
    requires = torch.distribution.requires if torch and torch.distribution else ()
    wanted = next((line.partition(";")[0].replace(" ", "") for line in requires if re.match(r"rocm\b", line)), None)
    stack = stack_of_torch(torch.version) if torch else None
    fixes: tuple[Fix, ...] = ()
    if wanted and stack and stack.url:
        title = f"Install the rocm packages that torch requires ({wanted}), all of one version"
        remove = tuple(item.name for item in found)
        fixes = (
            replace_packages(
                machine,
                title,
                remove=remove,
                install=(wanted,),
                index=stack.url,
                safety=Safety.UNSAFE,
                proof="ROC003",
            ),
        )
    return failed(
        f"the rocm packages are of {len(versions)} versions: {', '.join(versions)}",
        *evidence,
        cause="rocm-library-conflict",
        fixes=fixes,
    )


@check("ROC004", "rocm.compiler", rests_on=("ROC001",), causes=("rocm-not-installed", "rocm-torch-mismatch"))
def compiler(machine: Machine) -> Verdicts:
    """hipcc is there, of torch's release, where a package compiles HIP code on this machine.

    Why it matters: aiter compiles many of its operators at their first use, with the hipcc of the ROCm that torch finds
    (ROCM_HOME, the rocm packages, hipcc on PATH, /opt/rocm). Without one these operators fail; with one of another
    major release they do not compile, or load a second HIP runtime.
    How to fix: install the compiler of the release that torch was built for, or keep to aiter's Triton operators
    (AITER_TRITON_ONLY=1), or to the kernels of fa-doctor, which need none.
    Sources: torch/utils/cpp_extension.py; Dao-AILab/flash-attention issues 1307 and 659.
    """
    torch, tools = machine.torch, machine.toolchain
    if torch is None or torch.build != "rocm":
        return skipped("no ROCm torch is installed")
    if machine.aiter is None or machine.variable("AITER_TRITON_ONLY") == "1":
        return skipped("nothing that is installed compiles HIP code on this machine")
    known, targets = machine.aiter.known_gfx, machine.gpus.gfx_targets
    if known and targets and not set(known) & set(targets):
        return skipped(f"aiter {machine.aiter.version} does not know this GPU, so it compiles nothing for it")
    if machine.rocm is None or machine.variables is None:
        return unknown("whether there is a hipcc is not recorded")
    home = next((i for i in machine.rocm if tools.rocm_home in (i.path, *i.aliases)), None)
    hipcc = (home.hipcc if home else None) or tools.hipcc
    aiter = Evidence(machine.aiter.folder, f"aiter {machine.aiter.version}")
    if hipcc is None:
        elsewhere = next((install for install in machine.rocm if install.hipcc), None)
        if elsewhere is not None:
            return warned(
                f"aiter finds no hipcc, though there is one at {elsewhere.hipcc}",
                aiter,
                Evidence(tools.rocm_home_because, tools.rocm_home or "no ROCm found"),
                cause="rocm-not-installed",
                fixes=(Fix("Name that ROCm", (f"export ROCM_HOME={elsewhere.path}",), proof="ROC004"),),
            )
        return warned(
            "aiter compiles operators at their first use, and there is no hipcc",
            aiter,
            Evidence(tools.rocm_home_because or "PATH", "no hipcc"),
            cause="rocm-not-installed",
            detail="Its Triton operators work all the same; so do the attention kernels of fa-doctor.",
            fixes=(
                Fix("Keep to the Triton operators", ("export AITER_TRITON_ONLY=1",), proof="ROC004"),
                install_system_packages(
                    machine, "Install hipcc from AMD's repository", package_names("hipcc"), proof="ROC004"
                ),
            ),
        )
    release = home.version if home else None
    if release and torch.rocm and not same_release(release.split(".")[0], torch.rocm.split(".")[0]):
        return warned(
            f"hipcc is of ROCm {release}, torch was built for ROCm {torch.rocm}",
            aiter,
            Evidence(hipcc, f"ROCm {release}"),
            *_built_for(torch),
            cause="rocm-torch-mismatch",
            detail="What aiter compiles with it asks for libraries of the other release.",
            fixes=(
                Fix("Keep to the Triton operators", ("export AITER_TRITON_ONLY=1",), proof="ROC004"),
                *_install_rocm(machine, torch, "ROC004"),
            ),
        )
    return passed(f"hipcc at {hipcc}" + (f", of ROCm {release}" if release else ""), aiter)


def _runtimes(machine: Machine) -> list[RocmInstall]:
    """Installations that torch could take libraries from, its own left out."""
    return [install for install in machine.rocm or () if install.has_runtime and install.origin != "torch"]


def _built_for(torch: Torch) -> tuple[Evidence, ...]:
    return tuple(item for item in torch.evidence if item.text.startswith(("hip =", "rocm ="))) or (
        (Evidence(torch.folder, f"torch {torch.version}"),)
    )


def _bundling_torch(machine: Machine, proof: str) -> tuple[Fix, ...]:
    """A torch that needs no ROCm on the system. Under WSL that is no way out: only AMD's ROCm reaches the GPU."""
    if machine.system.wsl:
        return ()
    choice = choose_torch(machine)
    return install_torch(machine, choice, proof) if choice.stack and choice.stack.rocm_bundled else ()


def _install_rocm(machine: Machine, torch: Torch, proof: str) -> tuple[Fix, ...]:
    """AMD's installer, which knows every distribution that it serves. In an image: one that has ROCm."""
    release = torch.rocm or "of the release that torch was built for"
    if is_image_build(machine):
        # The images of AMD for Ubuntu 24.04 begin with ROCm 6.2.
        tagged = torch.rocm is not None and version_key(torch.rocm) >= (6, 2)
        line = f"FROM rocm/dev-ubuntu-24.04:{torch.rocm}-complete" if tagged else "FROM rocm/pytorch"
        return (Fix(f"Or start from an image with ROCm {release}", (line,), proof=proof),)
    usecase = "wsl,rocm" if machine.system.wsl else "rocm"
    title = f"Or install ROCm {release}: AMD's installer package from {_INSTALL_PAGE}, then"
    line = as_root(machine, f"amdgpu-install -y --usecase={usecase} --no-dkms")
    return (Fix(title, (line,), needs=Need.ROOT, proof=proof),)
