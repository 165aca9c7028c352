"""Which ROCm libraries a process of the target Python would map, by which rule, and which it would not find.

The process is played through as `import torch` does it: the interpreter starts, torch/lib/libtorch_global_deps.so is
opened by ctypes, then the extension module torch/_C; after that each compiled companion of torch, one at a time.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fa_doctor.facts.linker import LinkedProcess, LoadedObject, Rejected, Resolution, Rule
from fa_doctor.facts.linker_system import LinkerSystem
from fa_doctor.facts.packages import Packages, Torch
from fa_doctor.facts.python import Python
from fa_doctor.facts.rocm import RocmInstall, release_of_library_name
from fa_doctor.host import Host, Problem

__all__ = [
    "Libraries",
    "LinkedFile",
    "MissingLibrary",
    "RocmLibrary",
    "distinct_releases",
    "gather",
    "is_rocm_library",
    "same_release",
    "stem_of",
]

# User-space libraries that belong to a ROCm release. Those of the operating system (libdrm, libnuma) do not.
ROCM_STEMS = frozenset(
    {
        "libMIOpen",
        "libamd_comgr",
        "libamd_smi",
        "libamdhip64",
        "libaotriton_v2",
        "libhipblas",
        "libhipblaslt",
        "libhipfft",
        "libhiprand",
        "libhiprtc",
        "libhipsolver",
        "libhipsparse",
        "libhipsparselt",
        "libhsa-runtime64",
        "librccl",
        "librocblas",
        "librocfft",
        "librocm-core",
        "librocm_smi64",
        "librocprofiler-register",
        "librocprofiler-sdk",
        "librocrand",
        "librocroller",
        "librocsolver",
        "librocsparse",
        "libroctracer64",
        "libroctx64",
    }
)


@dataclass(frozen=True, slots=True)
class RocmLibrary:
    """A ROCm library in the process. `stem`: "libamdhip64"; `requested`: the name asked for, `by` the file that asked.

    `install` is the path of the ROCm installation that it belongs to, `release` that one's version. `rejected` were in
    its way and unfit, `shadowed` would have come later.
    """

    stem: str
    requested: str
    by: str | None
    path: str
    real_path: str
    rule: Rule
    source: str
    install: str | None = None
    release: str | None = None
    rejected: tuple[Rejected, ...] = ()
    shadowed: tuple[Rejected, ...] = ()

    @property
    def why(self) -> str:
        """The rule in words."""
        if self.rule in (Rule.RPATH, Rule.RUNPATH):
            return self.source
        if self.rule is Rule.LD_LIBRARY_PATH:
            return f"LD_LIBRARY_PATH={self.source}"
        return str(self.rule.value)


@dataclass(frozen=True, slots=True)
class MissingLibrary:
    """A library that the process asks for and does not get.

    `elsewhere` are files of that very name in ROCm installations of this machine; `cure` is the folder of one of them
    with which, in LD_LIBRARY_PATH or registered with ldconfig, everything is found, as the model shows.
    """

    name: str
    by: str | None
    error: str | None = None
    elsewhere: tuple[str, ...] = ()
    cure: str | None = None


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """A compiled file of a package (torch itself, or a companion) and what it would bring into the process.

    `libraries` are the ROCm libraries there then (for a companion: those that come on top of torch's); `unknown` says
    that files were not recorded, so that neither absence nor origin of a library is certain.
    """

    package: str
    path: str
    libraries: tuple[RocmLibrary, ...] = ()
    missing: tuple[MissingLibrary, ...] = ()
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Libraries:
    """`torch` is None where there is no torch, or its compiled part was not found.

    `without_variable` is what `torch` would be with LD_LIBRARY_PATH unset, where it is set and that changes something.
    `unregistered` are folders that /etc/ld.so.conf names and that hold ROCm libraries which its cache does not know:
    ldconfig was not run since. `foreign` says why the linker's rules are not those of this model, if so: absence is
    then unknown. `mapped` is every file of the process with torch, `cached_hip` the files of the HIP
    runtime that `ldconfig -p` lists.
    """

    torch: LinkedFile | None = None
    companions: tuple[LinkedFile, ...] = ()
    without_variable: LinkedFile | None = None
    unregistered: tuple[str, ...] = ()
    foreign: str | None = None
    mapped: tuple[str, ...] = ()
    cached_hip: tuple[str, ...] = ()


def stem_of(name: str) -> str:
    """The part of a library's file name before its suffix: libamdhip64.so.6.4 is libamdhip64."""
    return posixpath.basename(name).partition(".so")[0]


def is_rocm_library(name: str) -> bool:
    """Whether a file name is that of a library of ROCm's user space. Wheels may add a hash: librocblas-1a2b3c4d.so."""
    stem = stem_of(name)
    return stem in ROCM_STEMS or re.sub(r"-[0-9a-f]{8}$", "", stem) in ROCM_STEMS


def same_release(one: str | None, other: str | None) -> bool:
    """Whether two versions can be the same release: "6.4" and "6.4.1" can; an unknown one can be any."""
    if one is None or other is None:
        return True
    pairs = list(zip(one.split("."), other.split("."), strict=False))
    return all(left == right for left, right in pairs)


def distinct_releases(releases: Iterable[str | None]) -> list[str]:
    """The releases that cannot be the same: "6.4" beside "6.4.1" counts once, as the longer."""
    found: list[str] = []
    for release in sorted(filter(None, set(releases)), key=lambda text: -text.count(".")):
        if not any(same_release(release, other) for other in found):
            found.append(release)
    return sorted(found)


def gather(host: Host, python: Python, packages: Packages, installs: Sequence[RocmInstall] | None) -> Libraries:
    """Plays the imports through on the real files. Reads dynamic sections only; loads and runs nothing."""
    torch = packages.torch
    system = LinkerSystem(host)
    known = tuple(installs or ())
    hip_names = [name for name in system.cached_names if name.startswith("libamdhip64.so")]
    registered = Libraries(
        unregistered=_unregistered(host, system, known),
        cached_hip=tuple(path for name in hip_names for path in system.cached_paths(name)),
    )
    opened = _torch_files(host, python, torch) if torch else []
    if not opened:
        return registered
    process = _with_torch(system, python, opened)
    linked = _linked("torch", opened[-1], process, 0, 0, system, known)
    if linked.missing:
        linked = _with_cures(host, python, opened, linked, known)
    companions: list[LinkedFile] = []
    for package, path in _companion_files(packages):
        objects, missing = len(process.objects), len(process.missing)
        process.dlopen(path, _python_core(process))
        companions.append(_linked(package, path, process, objects, missing, system, known))
        del process.objects[objects:]
        del process.missing[missing:]
    without = None
    if system.environ.get("LD_LIBRARY_PATH"):
        bare = {name: value for name, value in system.environ.items() if name != "LD_LIBRARY_PATH"}
        other_system = LinkerSystem(host, bare)
        other = _with_torch(other_system, python, opened)
        alternative = _linked("torch", opened[-1], other, 0, 0, other_system, known)
        if _places(alternative) != _places(linked):
            without = alternative
    return replace(
        registered,
        torch=linked,
        companions=tuple(companions),
        without_variable=without,
        foreign=process.foreign,
        mapped=tuple(each.path for each in process.objects),
    )


def _torch_files(host: Host, python: Python, torch: Torch) -> list[str]:
    """What `import torch` opens, in order; the last is the extension module."""
    modules = [name for name in host.list(torch.folder).names if re.match(r"_C\b.*\.so$", name)]
    if not modules:
        return []
    first = f"{torch.folder}/lib/libtorch_global_deps.so"
    preloaded = _preloaded(host, python, host.read(f"{torch.folder}/_rocm_init.py").text or "")
    return [*preloaded, *([first] if host.exists(first) else []), f"{torch.folder}/{modules[0]}"]


def _preloaded(host: Host, python: Python, source: str) -> list[str]:
    """Wheels that take ROCm from the rocm packages name in torch/_rocm_init.py the libraries to open beforehand."""
    wanted = dict.fromkeys(re.findall(r"""["']([A-Za-z0-9_+-]{2,60})["']""", source))
    found = []
    for site in python.search_path if wanted else ():
        for folder in ("_rocm_sdk_core/lib/rocm_sysdeps/lib", "_rocm_sdk_core/lib", "_rocm_sdk_libraries/lib"):
            names = host.list(f"{site}/{folder}").names
            for word in wanted:
                exact = [name for name in names if re.fullmatch(rf"lib{re.escape(word)}\.so(\.\d+)*", name)]
                found += [f"{site}/{folder}/{name}" for name in exact[:1]]
    return found


def _with_torch(system: LinkerSystem, python: Python, opened: Iterable[str]) -> LinkedProcess:
    process = LinkedProcess(system)
    if python.executable:
        process.start(python.executable)
    for path in opened:
        process.dlopen(path, _python_core(process))
    return process


def _python_core(process: LinkedProcess) -> LoadedObject | None:
    """The object whose code opens extension modules: libpython, or the program where that is part of it."""
    core = next((known for known in process.objects if stem_of(known.path).startswith("libpython3")), None)
    return core or process.program


def _linked(
    package: str,
    path: str,
    process: LinkedProcess,
    first_object: int,
    first_missing: int,
    system: LinkerSystem,
    installs: Sequence[RocmInstall],
) -> LinkedFile:
    found = [known for known in process.objects[first_object:] if is_rocm_library(known.path)]
    missing = process.missing[first_missing:]
    # That the interpreter's own file is not recorded says nothing of ROCm's.
    unknown = any(missed.unknown for missed in missing) or system.elf(path) is Problem.UNRECORDED
    return LinkedFile(
        package=package,
        path=path,
        libraries=tuple(_describe(process, known, installs) for known in found),
        missing=tuple(_missing(missed, system, installs) for missed in missing),
        unknown=unknown,
    )


def _describe(process: LinkedProcess, known: LoadedObject, installs: Sequence[RocmInstall]) -> RocmLibrary:
    resolution = known.resolution
    owner = next((install for install in installs if install.holds(known.real_path)), None)
    return RocmLibrary(
        stem=re.sub(r"-[0-9a-f]{8}$", "", stem_of(known.path)),
        requested=resolution.name,
        by=resolution.requested_by,
        path=known.path,
        real_path=known.real_path,
        rule=resolution.rule or Rule.PATH,
        source=resolution.source,
        install=owner.path if owner else None,
        release=(owner.version if owner else None) or release_of_library_name(posixpath.basename(known.real_path)),
        rejected=resolution.rejected,
        shadowed=process.shadowed(resolution, known.loader) if known.loader else (),
    )


def _missing(missed: Resolution, system: LinkerSystem, installs: Sequence[RocmInstall]) -> MissingLibrary:
    elsewhere = []
    for install in installs:
        for folder in filter(None, (install.library_folder, f"{install.path}/lib")):
            path = f"{folder}/{missed.name}"
            if path not in elsewhere and not isinstance(system.elf(path), Problem):
                elsewhere.append(path)
    return MissingLibrary(missed.name, missed.requested_by, missed.error, tuple(elsewhere))


def _with_cures(
    host: Host, python: Python, opened: Sequence[str], linked: LinkedFile, installs: Sequence[RocmInstall]
) -> LinkedFile:
    """Tries each folder that has a missing library as the first of LD_LIBRARY_PATH, and keeps what really helps."""
    environ: Mapping[str, str] = host.environ or {}
    cured: dict[str, str] = {}
    for missed in linked.missing:
        for path in missed.elsewhere:
            folder = _stable_name(posixpath.dirname(path), installs)
            before = environ.get("LD_LIBRARY_PATH")
            trial = LinkerSystem(host, {**environ, "LD_LIBRARY_PATH": f"{folder}:{before}" if before else folder})
            process = _with_torch(trial, python, opened)
            if not any(is_rocm_library(still.name) for still in process.missing):
                cured[missed.name] = folder
                break
    if not cured:
        return linked
    missing = tuple(
        MissingLibrary(missed.name, missed.by, missed.error, missed.elsewhere, cured.get(missed.name))
        for missed in linked.missing
    )
    return LinkedFile(linked.package, linked.path, linked.libraries, missing, linked.unknown)


def _stable_name(folder: str, installs: Sequence[RocmInstall]) -> str:
    """/opt/rocm/lib for /opt/rocm-6.4.1/lib where the one is a link to the other: it outlives an upgrade."""
    for install in installs:
        for alias in install.aliases:
            if folder.startswith(install.path + "/"):
                return alias + folder.removeprefix(install.path)
    return folder


def _companion_files(packages: Packages) -> list[tuple[str, str]]:
    """The compiled files that link against ROCm, of packages beside torch: (package, path)."""
    files = [
        (companion.name, extension.path)
        for companion in packages.companions
        for extension in companion.extensions
        if extension.build == "rocm"
    ]
    attention = packages.flash_attention
    if attention is not None and attention.extension is not None and attention.extension.build == "rocm":
        files.insert(0, ("flash-attn", attention.extension.path))
    return files[:8]


def _places(linked: LinkedFile) -> tuple[set[str], set[str]]:
    return {library.real_path for library in linked.libraries}, {missed.name for missed in linked.missing}


def _unregistered(host: Host, system: LinkerSystem, installs: Sequence[RocmInstall]) -> tuple[str, ...]:
    """Folders of ld.so.conf with a libamdhip64 that the cache does not know under any of their names."""
    folders = []
    for folder in system.configured_folders():
        real = host.real_path(folder)
        install = next((install for install in installs if install.library_folder == real), None)
        if install is None or not install.hip_libraries:
            continue
        cached = {path for name in install.hip_libraries for path in system.cached_paths(name)}
        if not any(host.real_path(posixpath.dirname(path)) == real for path in cached):
            folders.append(folder)
    return tuple(folders)
