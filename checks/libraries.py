"""The shared libraries of ROCm: found, all of one release, the same ones for torch, its companions and Triton."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.library_fixes import (
    LIBRARY_PATH,
    make_found,
    register_folder,
    unmix,
    without_folders,
)
from fa_doctor.diagnosis.model import (
    Evidence,
    Fix,
    Safety,
    Verdict,
    failed,
    passed,
    skipped,
    unknown,
    warned,
)
from fa_doctor.diagnosis.remedies import (
    install_line,
    install_system_packages,
    replace_packages,
    set_variable,
    unset_variable,
)
from fa_doctor.facts.libraries import (
    LinkedFile,
    RocmLibrary,
    distinct_releases,
    is_rocm_library,
    same_release,
    stem_of,
)
from fa_doctor.facts.linker import Rule
from fa_doctor.facts.machine import Machine
from fa_doctor.knowledge.system_packages import package_names


@check("LIB001", "libraries.found", rests_on=("ROC001", "ROC002"), causes=("rocm-library-missing",))
def found(machine: Machine) -> Verdicts:
    """The dynamic linker finds every library that torch needs.

    Why it matters: `import torch` maps some forty libraries. The dynamic linker looks for each in the RPATH of the file
    that asks, in LD_LIBRARY_PATH, in its RUNPATH, in /etc/ld.so.cache and in the default folders; one that is in none
    of them ends the import with "cannot open shared object file". fa-doctor follows these rules over the real files.
    How to fix: register the folder with ldconfig (as root, for everybody), or name it in LD_LIBRARY_PATH (for one
    user); where no file of that name exists, install what is missing.
    Sources: ld.so(8), ldconfig(8); https://rocm.docs.amd.com/projects/install-on-linux/ (post-installation).
    """
    torch, linked = machine.torch, machine.libraries.torch
    if torch is None or torch.build != "rocm":
        return skipped("no ROCm torch is installed")
    if linked is None:
        return unknown(f"the compiled part of torch was not found in {torch.folder}")
    if not linked.missing:
        count = len(machine.libraries.mapped)
        return passed(f"all {count} libraries of `import torch` are found", *map(_where, _core(linked.libraries)))
    names = ", ".join(dict.fromkeys(missed.name for missed in linked.missing))
    evidence = [Evidence(missed.by or linked.path, missed.error or f"needs {missed.name}") for missed in linked.missing]
    evidence += [Evidence(path, "present") for missed in linked.missing for path in missed.elsewhere[:1]]
    if linked.unknown:
        return unknown(f"whether the dynamic linker finds {names} is not recorded", *evidence)
    if machine.libraries.foreign:
        return unknown(f"whether {names} is found cannot be told: {machine.libraries.foreign}", *evidence)
    if machine.python.environment == "conda" and not any(is_rocm_library(missed.name) for missed in linked.missing):
        return unknown(f"torch needs {names}, which another package of the conda environment may open first", *evidence)
    broken = any(missed.error for missed in linked.missing)
    return failed(
        f"torch needs {names}, which {'cannot be read' if broken else 'the dynamic linker does not find'}",
        *evidence,
        cause="rocm-library-missing",
        detail="A file of that name is there; the linker does not look where it lies."
        if any(missed.elsewhere for missed in linked.missing)
        else "",
        fixes=make_found(machine, linked, "LIB001"),
    )


@check("LIB002", "libraries.one-release", rests_on=("LIB001",), causes=("rocm-library-conflict",))
def one_release(machine: Machine) -> Verdicts:
    """All ROCm libraries of torch's process are of one release.

    Why it matters: the HIP runtime, the HSA runtime, the compiler library and the math libraries of a release are made
    for each other. Mixed ones end in undefined symbols, "invalid device function", or crashes far from the cause. The
    commonest way there is LD_LIBRARY_PATH with the system's ROCm in front of libraries that torch brought along. (That
    a ROCm of another release is installed besides is no fault, as long as it stays out of the process.)
    How to fix: take the folder out of LD_LIBRARY_PATH (or the file out of LD_PRELOAD), or reinstall torch if its folder
    was changed by hand.
    Sources: pytorch/builder PR 1468; Looong01/pyg-rocm-build issue 18; ld.so(8).
    """
    linked = machine.libraries.torch
    if linked is None or not linked.libraries:
        return skipped("torch maps no ROCm library")
    libraries = _judged(machine, linked.libraries)
    odd = _odd_ones(libraries)
    if odd:
        releases = sorted({library.release for library in libraries if library.release})
        return failed(
            f"ROCm {' and '.join(releases)} would meet in torch's process",
            *map(_where, _core(libraries)),
            *(Evidence(loser.path, "would be taken otherwise") for library in odd for loser in library.shadowed[:1]),
            cause="rocm-library-conflict",
            fixes=unmix(machine, odd, "LIB002"),
        )
    torch = machine.torch
    pushed = [library for library in libraries if library.rule is Rule.LD_LIBRARY_PATH]
    alternative = machine.libraries.without_variable
    if torch and torch.bundles_rocm and pushed and alternative is not None and not alternative.missing:
        other = next((library.release for library in pushed if not same_release(library.release, torch.rocm)), None)
        if other is not None:
            return warned(
                f"LD_LIBRARY_PATH puts ROCm {other} in place of the libraries of ROCm {torch.rocm} that torch carries",
                *map(_where, pushed[:4]),
                cause="rocm-library-conflict",
                fixes=without_folders(machine, [lib.path.rpartition("/")[0] for lib in pushed], "LIB002"),
            )
    return passed(
        f"the ROCm libraries of torch's process are {_release_text(libraries)}", *map(_where, _core(libraries))
    )


@check("LIB003", "libraries.companions", rests_on=("LIB002", "TOR103", "FAT002"), causes=("rocm-library-conflict",))
def companions(machine: Machine) -> Verdicts:
    """The compiled packages beside torch use the ROCm libraries that torch has loaded, and bring no second copy.

    Why it matters: an extension that asks for libamdhip64.so.6, while torch's own copy is called libamdhip64.so, makes
    the linker load the system's as well. Kernels are then registered with one HIP runtime and launched by the other.
    How to fix: install the build of the package that belongs to this torch, from the same index, or build it against
    the installed torch.
    Sources: Looong01/pyg-rocm-build issue 18; ld.so(8), on sonames of loaded libraries.
    """
    return list(_companions(machine)) or skipped("no compiled package beside torch links against ROCm")


def _companions(machine: Machine) -> Iterator[Verdict]:
    of_torch = {library.stem: library for library in (machine.libraries.torch or LinkedFile("", "")).libraries}
    for companion in machine.libraries.companions:
        second = [library for library in _judged(machine, companion.libraries) if library.stem in of_torch]
        differing = [library for library in second if not same_release(library.release, of_torch[library.stem].release)]
        pairs = [item for library in second for item in (_where(of_torch[library.stem]), _where(library))]
        gone = [missed for missed in companion.missing if is_rocm_library(missed.name) and not missed.elsewhere]
        if gone and not companion.unknown and not machine.libraries.foreign:
            name = companion.package
            yield failed(
                f"{name} needs {gone[0].name}, which nothing on this machine provides",
                Evidence(gone[0].by or companion.path, f"needs {gone[0].name}"),
                *(_where(of_torch[stem]) for stem in [stem_of(gone[0].name)] if stem in of_torch),
                cause="rocm-library-missing",
                detail=f"This {name} was built for another ROCm than torch; a link in place of that name is no cure.",
                fixes=_rebuild(machine, companion.package),
            )
        elif differing:
            yield failed(
                f"{companion.package} brings a second {differing[0].stem} into torch's process, "
                f"of ROCm {differing[0].release}",
                *pairs,
                cause="rocm-library-conflict",
                fixes=unmix(machine, differing, "LIB003") or _rebuild(machine, companion.package),
            )
        elif second:
            yield warned(
                f"{companion.package} brings a second copy of {second[0].stem} into torch's process",
                *pairs,
                cause="rocm-library-conflict",
                detail="Both are of the same release; kernels registered with one are unknown to the other.",
                fixes=unmix(machine, second, "LIB003") or _rebuild(machine, companion.package),
            )
        elif not companion.missing:
            yield passed(f"{companion.package} uses the ROCm libraries of torch", Evidence(companion.path, "followed"))


@check(
    "LIB101",
    "libraries.triton-hip",
    rests_on=("TRI001", "TOR101", "LIB001"),
    causes=("triton-hip-library-not-found", "rocm-library-conflict"),
)
def triton_hip(machine: Machine) -> Verdicts:
    """Triton finds libamdhip64, and it is the one that torch uses.

    Why it matters: Triton opens the HIP runtime by itself, and each version looks in its own order: a variable, what
    is mapped already, torch/lib, LD_LIBRARY_PATH, ldconfig's table, /opt/rocm/lib. It asks for the name libamdhip64.so,
    which packages without the development part do not have. Another copy than torch's is a second HIP runtime.
    How to fix: let Triton take torch's (unset TRITON_LIBHIP_PATH); else put the folder with libamdhip64.so where it
    looks.
    Sources: triton/backends/amd/driver.py of Triton 3.2 to 3.9.
    """
    triton, search, torch = machine.triton, machine.toolchain.triton_hip_library, machine.torch
    if triton is None or search is None or torch is None or torch.build != "rocm":
        return skipped("no Triton beside a ROCm torch")
    if search.state == "unknown":
        return unknown(f"where Triton {triton.version} finds libamdhip64.so is not recorded")
    given = machine.variable("TRITON_LIBHIP_PATH")
    clear = (unset_variable(machine, "TRITON_LIBHIP_PATH", "Let Triton take the one of torch", proof="LIB101"),)
    if search.path is None and search.rule.startswith("command:rocm_sdk."):
        packages = [item for item in machine.python.distributions or () if item.name.split("-")[0] == "rocm"]
        remove = tuple(item.name for item in packages)
        title = "Remove the rocm packages: this torch carries its own libraries"
        return failed(
            f"Triton {triton.version} refuses two ROCm installations in one process",
            Evidence(search.rule, search.problem or ""),
            *(Evidence(item.metadata_path, f"{item.name} {item.version}") for item in packages[:3]),
            cause="rocm-library-conflict",
            fixes=(replace_packages(machine, title, remove=remove, safety=Safety.UNSAFE, proof="LIB101"),)
            if torch.bundles_rocm and remove
            else (),
        )
    if search.path is None:
        evidence = [Evidence(path, "not there") for path in search.tried[:6]]
        return failed(
            f"Triton {triton.version} does not find libamdhip64.so" + (f": {search.problem}" if search.problem else ""),
            *evidence,
            cause="triton-hip-library-not-found",
            fixes=clear if given else _let_triton_find(machine),
        )
    torch_hip = next(
        (lib for lib in (machine.libraries.torch or LinkedFile("", "")).libraries if lib.stem == "libamdhip64"), None
    )
    owner = next((i for i in machine.rocm or () if search.real_path and i.holds(search.real_path)), None)
    if torch_hip is not None and search.real_path not in (None, torch_hip.real_path):
        facts = (_where(torch_hip), Evidence(search.rule, f"{search.path} (ROCm {owner.version if owner else '?'})"))
        if owner is None or not same_release(owner.version, torch_hip.release):
            return failed(
                f"Triton would load {search.path}, a second HIP runtime beside torch's",
                *facts,
                cause="rocm-library-conflict",
                fixes=clear if given else (),
            )
    return passed(f"Triton {triton.version} takes {search.path}", Evidence(search.rule, search.path))


def _judged(machine: Machine, libraries: Iterable[RocmLibrary]) -> list[RocmLibrary]:
    """All that must be of one release. Under WSL the HSA runtime is that of the system, whatever torch carries."""
    return [lib for lib in libraries if not (machine.system.wsl and lib.stem == "libhsa-runtime64")]


def _odd_ones(libraries: list[RocmLibrary]) -> list[RocmLibrary]:
    """The libraries that are not of the release that most are of; empty if all can be of one."""
    known = [library for library in libraries if library.release]
    if all(same_release(one.release, other.release) for one in known for other in known):
        return []
    main = max(known, key=lambda lib: sum(same_release(lib.release, other.release) for other in known))
    return [library for library in known if not same_release(library.release, main.release)]


def _core(libraries: Iterable[RocmLibrary]) -> list[RocmLibrary]:
    """Those that a report should show: the runtimes first, few in all."""
    order = ("libamdhip64", "libhsa-runtime64", "librocblas", "libhipblaslt", "libMIOpen", "libamd_comgr", "librccl")
    ranked = sorted(libraries, key=lambda lib: order.index(lib.stem) if lib.stem in order else len(order))
    return ranked[:6]


def _where(library: RocmLibrary) -> Evidence:
    release = f", ROCm {library.release}" if library.release else ""
    return Evidence(library.path, f"{library.requested} by {library.why}{release}")


def _release_text(libraries: Iterable[RocmLibrary]) -> str:
    releases = distinct_releases(library.release for library in libraries)
    return f"of ROCm {releases[0]}" if releases else "of one place"


def _rebuild(machine: Machine, package: str) -> tuple[Fix, ...]:
    """A build of the package that belongs to the installed torch."""
    torch = machine.torch
    if torch is None:
        return ()
    title = f"Build {package} against the installed torch {torch.version}, or install its wheel for ROCm {torch.rocm}"
    line = install_line(
        machine, (package,), None, "--no-build-isolation", "--no-binary", package, "--force-reinstall", "--no-deps"
    )
    return (Fix(title, (line,), safety=Safety.UNSAFE, proof="LIB003"),)


def _let_triton_find(machine: Machine) -> tuple[Fix, ...]:
    """The folder with a libamdhip64.so of that very name, in LD_LIBRARY_PATH or registered: both are looked at."""
    fixes: list[Fix] = []
    for install in machine.rocm or ():
        if install.library_folder and "libamdhip64.so" in install.hip_libraries:
            alias = next((name for name in install.aliases if install.library_folder == f"{install.path}/lib"), None)
            folder = f"{alias}/lib" if alias else install.library_folder
            before = machine.variable(LIBRARY_PATH)
            value = f"{folder}:{before}" if before else folder
            title = f"Let Triton and the dynamic linker look in {folder}"
            fixes.append(set_variable(machine, LIBRARY_PATH, value, title, proof="LIB101"))
            fixes.append(register_folder(machine, folder, "LIB101"))
            break
    else:
        if any(install.hip_libraries for install in machine.rocm or ()):
            title = "Install the development part of HIP, which has the name libamdhip64.so"
            own = any(install.origin == "distribution" for install in machine.rocm or ())
            names = package_names("hip-headers-of-distribution" if own else "hip-headers-of-amd")
            fixes.append(install_system_packages(machine, title, names, proof="LIB101"))
    return tuple(fixes)
