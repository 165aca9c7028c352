"""What compiles at run time: the C compiler for Triton's helpers, ld.lld for its kernels, the HIP headers."""

from __future__ import annotations

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Safety, failed, passed, skipped, unknown
from fa_doctor.diagnosis.remedies import install_system_packages, replace_packages, set_variable, unset_variable
from fa_doctor.facts.machine import Machine
from fa_doctor.knowledge.stacks import stack_of_torch
from fa_doctor.knowledge.system_packages import newer_linker, package_names
from fa_doctor.knowledge.triton import oldest_llvm


@check("CCP001", "compiler.host", rests_on=("TRI001",), causes=("host-compiler-missing",))
def host_compiler(machine: Machine) -> Verdicts:
    """Triton finds a C compiler that can compile.

    Why it matters: on first use Triton compiles a small driver helper in C, up to 3.6 also a launcher for each kernel
    signature. It calls what CC names, else gcc, else clang. Slim images and many clusters' compute nodes have none:
    "Failed to find C compiler".
    How to fix: install one with the C library's headers, or load the compiler's module and set CC.
    Sources: triton/runtime/build.py of Triton 3.2 to 3.9.
    """
    if machine.triton is None:
        return skipped("Triton is not installed")
    compiler = machine.toolchain.compiler
    if compiler is None:
        return unknown("which C compiler Triton would call is not recorded")
    evidence = Evidence("PATH" if machine.variable("CC") is None else "CC", compiler.chosen_because)
    if compiler.path is None:
        if compiler.command is not None:
            what = f"CC={compiler.command}" if compiler.command else "CC is set, and empty"
            unset = unset_variable(machine, "CC", "Let Triton look for gcc or clang", proof="CCP001")
            detail = "Triton takes CC as the name of one program: options or a second word in it are not understood."
            return failed(
                f"{what}: there is no such compiler",
                evidence,
                cause="host-compiler-missing",
                detail=detail if " " in compiler.command.strip() else "",
                fixes=(unset, _install(machine, "Install a C compiler", "c-compiler")),
            )
        return failed(
            "there is no C compiler, which Triton needs",
            evidence,
            cause="host-compiler-missing",
            fixes=(_install(machine, "Install a C compiler", "c-compiler"),),
        )
    if compiler.has_c_headers is False:
        return failed(
            f"{compiler.path} has no headers of the C library",
            evidence,
            Evidence("/usr/include/stdlib.h", "not there"),
            cause="host-compiler-missing",
            fixes=(_install(machine, "Install the headers of the C library", "c-headers"),),
        )
    return passed(f"Triton would call {compiler.path}", evidence)


@check("CCP002", "compiler.linker", rests_on=("TRI003", "TRI004"), causes=("triton-linker-missing",))
def linker(machine: Machine) -> Verdicts:
    """Triton finds an ld.lld that can link its kernels.

    Why it matters: up to 3.4 Triton links each kernel with an external ld.lld. The builds for ROCm bring one; the wheel
    of the default index does not, and looks in TRITON_HIP_LLD_PATH, /opt/rocm/llvm/bin and /usr/bin only: "ROCm linker
    /opt/rocm/llvm/bin/ld.lld not found". An old one refuses what Triton 3.3 and 3.4 write: "unknown abi version".
    From 3.5 on Triton links in its own process and needs none.
    How to fix: install the Triton that torch requires from torch's own index, or name an ld.lld in
    TRITON_HIP_LLD_PATH.
    Sources: triton/backends/amd/compiler.py of Triton 3.2 to 3.5.
    """
    triton, search = machine.triton, machine.toolchain.triton_linker
    if triton is None or search is None or triton.version is None:
        return skipped("Triton is not installed")
    if machine.torch is None or machine.torch.build != "rocm":
        return skipped("no ROCm torch is installed")
    if search.state == "in process":
        return passed(f"Triton {triton.version} links in its own process", *triton.evidence[-1:])
    if search.state == "unknown":
        return unknown(f"where Triton {triton.version} finds ld.lld is not recorded")
    if search.path is None:
        return failed(
            f"Triton {triton.version} does not find ld.lld",
            *(Evidence(path, "not there") for path in search.tried),
            cause="triton-linker-missing",
            fixes=_other_linkers(machine, too_old=None),
        )
    oldest = oldest_llvm(triton.version)
    evidence = Evidence(f"{search.path} --version", search.said or "no answer")
    if oldest is not None and search.llvm is not None and search.llvm < oldest:
        return failed(
            f"{search.path} is of LLVM {search.llvm}; Triton {triton.version} needs {oldest} or later",
            evidence,
            Evidence(search.rule, search.path),
            cause="triton-linker-missing",
            detail="It refuses the kernels with 'unknown abi version'.",
            fixes=_other_linkers(machine, too_old=search.path),
        )
    if oldest is not None and search.llvm is None:
        return unknown(f"of which LLVM {search.path} is, it did not say", evidence)
    return passed(f"Triton {triton.version} links with {search.path}", evidence)


@check("CCP003", "compiler.hip-headers", rests_on=("TRI003", "TRI004", "ROC004"), causes=("hip-headers-missing",))
def hip_headers(machine: Machine) -> Verdicts:
    """hip/hip_runtime.h is where those who compile against HIP look for it.

    Why it matters: Triton's driver helper includes Triton's own copy; aiter and other packages that compile HIP code
    include that of the ROCm that torch finds. A ROCm without its development part, or a ROCM_HOME or ROCM_PATH left
    over from another installation, ends in "hip/hip_runtime.h: No such file or directory".
    How to fix: let ROCM_HOME name a ROCm that has the headers, or install them.
    Sources: triton/backends/amd/driver.py; torch/utils/cpp_extension.py; ROCm/TheRock issue 1837.
    """
    torch, tools, triton = machine.torch, machine.toolchain, machine.triton
    if torch is None or torch.build != "rocm":
        return skipped("no ROCm torch is installed")
    if triton is not None and triton.has_amd_backend and tools.triton_hip_headers is False:
        return failed(
            f"Triton's own HIP headers are gone from {triton.folder}",
            Evidence(f"{triton.folder}/backends/amd/include/hip/hip_runtime.h", "not there"),
            cause="hip-headers-missing",
            fixes=_reinstall_triton(machine),
        )
    if machine.aiter is None or machine.variable("AITER_TRITON_ONLY") == "1":
        return passed("nothing but Triton compiles against HIP here, and it has its own headers")
    if tools.rocm_home is None:
        return skipped("there is no ROCm to compile against")
    evidence = Evidence(tools.rocm_home_because, tools.rocm_home)
    header = f"{tools.rocm_home}/include/hip/hip_runtime.h"
    if tools.hip_headers is None:
        return unknown(f"whether {header} is there is not recorded", evidence)
    if tools.hip_headers:
        return passed(f"HIP's headers are in {tools.rocm_home}/include", evidence)
    fixes: list[Fix] = []
    better = next((install for install in machine.rocm or () if install.has_headers and install.hipcc), None)
    if better is not None:
        path = (*better.aliases, better.path)[0]
        fixes.append(set_variable(machine, "ROCM_HOME", path, f"Name the ROCm that has them: {path}", proof="CCP003"))
    home = next((i for i in machine.rocm or () if tools.rocm_home in (i.path, *i.aliases)), None)
    names = package_names(
        "hip-headers-of-distribution" if home and home.origin == "distribution" else "hip-headers-of-amd"
    )
    fixes.append(install_system_packages(machine, "Install HIP's headers", names, proof="CCP003"))
    return failed(
        f"aiter compiles against {tools.rocm_home}, which has no HIP headers",
        evidence,
        Evidence(header, "not there"),
        Evidence(machine.aiter.folder, f"aiter {machine.aiter.version}"),
        cause="hip-headers-missing",
        fixes=fixes,
    )


def _install(machine: Machine, title: str, what: str) -> Fix:
    return install_system_packages(machine, title, package_names(what), proof="CCP001")


def _other_linkers(machine: Machine, too_old: str | None) -> tuple[Fix, ...]:
    """A linker that is here and was not looked at, the Triton that brings one, the distribution's package."""
    fixes: list[Fix] = []
    linkers = [install.linker for install in machine.rocm or () if install.linker and install.linker != too_old]
    if linkers:
        title = "Name the linker of the ROCm that is here"
        fixes.append(set_variable(machine, "TRITON_HIP_LLD_PATH", linkers[0], title, proof="CCP002"))
    fixes += _reinstall_triton(machine)
    newer = newer_linker(machine.system.distribution, machine.system.version)
    version = machine.triton.version if machine.triton else None
    if newer is not None and version is not None and oldest_llvm(version) is not None:
        packages, path = newer
        title = "Install a newer linker of LLVM"
        fixes.append(install_system_packages(machine, title, {"apt-get": packages}, proof="CCP002"))
        title = "Then name it: Triton looks in /usr/bin only"
        fixes.append(set_variable(machine, "TRITON_HIP_LLD_PATH", path, title, safety=Safety.UNSAFE, proof="CCP002"))
    elif too_old is None:
        fixes.append(install_system_packages(machine, "Install LLVM's linker", package_names("ld.lld"), proof="CCP002"))
    return tuple(fixes)


def _reinstall_triton(machine: Machine) -> tuple[Fix, ...]:
    """The Triton that torch requires, whole, from torch's own index: for ROCm it brings headers and linker."""
    torch, triton = machine.torch, machine.triton
    stack = stack_of_torch(torch.version) if torch else None
    if torch is None or triton is None or stack is None or stack.url is None:
        return ()
    wanted = torch.triton_wanted or f"{stack.triton}=={stack.triton_version}"
    fix = replace_packages(
        machine,
        f"Install {wanted} from torch's own index, whole",
        remove=tuple(owner.name for owner in triton.owners),
        install=(wanted,),
        index=stack.url,
        safety=Safety.SAFE,
        proof="CCP002",
    )
    return (fix,)
