"""torch, Triton, flash-attn, aiter and their companions in the target Python, from metadata and files on disk."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from fa_doctor.evidence import Evidence
from fa_doctor.facts.distributions import Distribution, read_details
from fa_doctor.facts.package_files import (
    Extension,
    build_of_label,
    extensions_below,
    parse_assignments,
    requirement_on,
)
from fa_doctor.facts.python import Python
from fa_doctor.host import Host
from fa_doctor.knowledge.packages import packages as known_packages
from fa_doctor.knowledge.stacks import stack_of_torch
from fa_doctor.knowledge.triton import DISTRIBUTIONS as TRITON_DISTRIBUTIONS

__all__ = ["Aiter", "Companion", "FlashAttention", "Packages", "Torch", "Triton", "gather"]

_SOURCE_LIMIT = 256 << 10
# Libraries of ROCm that torch's wheels carry in torch/lib up to rocm7.2.
_BUNDLED = ("libamdhip64.so", "libhsa-runtime64.so", "librocblas.so", "libMIOpen.so", "libhipblaslt.so")


@dataclass(frozen=True, slots=True)
class Torch:
    """`build`: "rocm", "cuda", "cpu" or None if the files do not tell. `rocm` is the release it was built for ("6.2.4").

    `triton_wanted` is the requirement on a Triton distribution as it stands in torch's metadata, if any.
    `arch_list` are the gfx targets that it has code for; None if that cannot be known without importing it.
    `bundled` lists the ROCm libraries in torch/lib; wheels from ROCm 7.14 on take them from the rocm packages instead.
    """

    version: str
    folder: str
    build: str | None = None
    rocm: str | None = None
    hip: str | None = None
    cuda: str | None = None
    git_version: str | None = None
    bundles_rocm: bool | None = None
    bundled: tuple[str, ...] = ()
    triton_wanted: str | None = None
    arch_list: tuple[str, ...] | None = None
    arch_source: str | None = None
    distribution: Distribution | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Triton:
    """What `import triton` gives, and which distributions own files in `triton/` (more than one is a mixture)."""

    folder: str | None
    version: str | None  # __version__ of the folder, not of a distribution
    owners: tuple[Distribution, ...] = ()
    has_amd_backend: bool | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class FlashAttention:
    """An installed flash_attn. `kind`: "bundled" (fa-doctor's kernels), "ck", "cuda", "triton" (no extension), or None.

    `needs_flag`: the package takes the Triton path only if FLASH_ATTENTION_TRITON_AMD_ENABLE is exactly "TRUE"; newer
    ones fall back to it by themselves. `needs_aiter`: its Triton kernels are those of the aiter package. `tuned_for`:
    the gfx targets for which a search of the bundled kernels with this Triton has kept what it found.
    """

    version: str
    folder: str
    kind: str | None = None
    needs_libraries: tuple[str, ...] = ()  # DT_NEEDED of its extension, if it has one
    extension: Extension | None = None
    needs_flag: bool | None = None
    needs_aiter: bool | None = None
    tuned_for: tuple[str, ...] = ()
    distribution: Distribution | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Aiter:
    """An installed aiter. `has_flash_attention`: it holds the Triton kernels that a newer flash_attn imports.

    `known_gfx` are the gfx targets that its table of architectures names; None if that file was not found.
    """

    version: str
    folder: str
    has_flash_attention: bool | None = None
    known_gfx: tuple[str, ...] | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Companion:
    """A package that is built against torch (torchvision, torchaudio, xformers, vllm…). `build` as in Torch."""

    name: str
    version: str
    build: str | None = None
    needs_libraries: tuple[str, ...] = ()
    extensions: tuple[Extension, ...] = ()
    distribution: Distribution | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Packages:
    """All of them; each is None where the target Python has no such package (`Python.distributions` tells whether its
    packages could be read at all)."""

    torch: Torch | None = None
    triton: Triton | None = None
    flash_attention: FlashAttention | None = None
    aiter: Aiter | None = None
    companions: tuple[Companion, ...] = ()


def gather(host: Host, python: Python) -> Packages:
    """Reads what is installed in the target Python."""
    if python.distributions is None:
        return Packages()
    triton = _triton(host, python)
    return Packages(
        torch=_torch(host, python),
        triton=triton,
        flash_attention=_flash_attention(host, python, triton),
        aiter=_aiter(host, python),
        companions=_companions(host, python),
    )


def _find_module(host: Host, python: Python, module: str, owner: Distribution | None) -> str | None:
    """The folder that `import module` would take: the first on the search path, else an installation in place."""
    for folder in python.search_path:
        if host.exists(f"{folder}/{module}"):
            return f"{folder}/{module}"
    if owner and owner.editable:
        for folder in (owner.editable, f"{owner.editable}/src"):
            if host.exists(f"{folder}/{module}"):
                return f"{folder}/{module}"
    return None


def _first(host: Host, python: Python, *names: str, record: bool = False) -> Distribution | None:
    found = python.find(*names)
    return read_details(host, found[0], record=record) if found else None


def _release(version: str) -> str:
    return version.partition("+")[0]


def _local(version: str) -> str:
    return version.partition("+")[2]


def _torch(host: Host, python: Python) -> Torch | None:
    distribution = _first(host, python, "torch")
    folder = _find_module(host, python, "torch", distribution)
    if folder is None and distribution is None:
        return None
    folder = folder or posixpath.join(distribution.location if distribution else "", "torch")
    path = f"{folder}/version.py"
    says = parse_assignments(
        host.read(path, limit=_SOURCE_LIMIT).text or "", "__version__", "hip", "cuda", "rocm", "git_version"
    )
    version = says.get("__version__") or (distribution.version if distribution else None)
    if version is None:
        return None
    said = ", ".join(f"{name} = {value!r}" for name, value in says.items() if name != "git_version")
    evidence = [Evidence(path, said)] if said else []
    if distribution and not (said and _release(version) == _release(distribution.version)):
        evidence.append(Evidence(distribution.metadata_path, f"torch {distribution.version}"))
    requires = distribution.requires if distribution else ()
    if "hip" in says or "cuda" in says:
        build: str | None = "rocm" if says.get("hip") else "cuda" if says.get("cuda") else "cpu"
    else:
        build = build_of_label(_local(version)) or ("cuda" if any(r.startswith("nvidia-") for r in requires) else None)
    listed = host.list(f"{folder}/lib")
    bundled = tuple(name for name in listed.names if name.startswith(_BUNDLED))
    label = re.search(r"rocm(\d+(?:\.\d+){1,2})", _local(version), re.ASCII)
    arch_list, arch_source = _arch_list(host, python, version, build, folder)
    wanted = requirement_on(requires, TRITON_DISTRIBUTIONS)
    if wanted and distribution:
        evidence.append(Evidence(f"{distribution.metadata_path}/METADATA", f"Requires-Dist: {wanted}"))
    return Torch(
        version=version,
        folder=folder,
        build=build,
        rocm=says.get("rocm") or (label[1] if label else None),
        hip=says.get("hip"),
        cuda=says.get("cuda"),
        git_version=says.get("git_version"),
        bundles_rocm=None if listed.problem else bool(bundled),
        bundled=bundled,
        triton_wanted=wanted,
        arch_list=arch_list,
        arch_source=arch_source,
        distribution=distribution,
        evidence=tuple(evidence),
    )


def _arch_list(
    host: Host, python: Python, version: str, build: str | None, folder: str
) -> tuple[tuple[str, ...] | None, str | None]:
    """The gfx targets that torch has code for, and how that is known."""
    if build != "rocm":
        return None, None
    devices = [found.name for found in python.distributions or () if found.name.startswith("amd-torch-device-gfx")]
    if devices:
        return tuple(
            sorted(name.removeprefix("amd-torch-device-") for name in devices)
        ), "the amd-torch-device packages"
    stack = stack_of_torch(version)
    if stack and not stack.device_extra:
        return stack.archs, f"the known arch list of the wheel torch {version}"
    found = {
        match[0]
        for name in host.list(f"{folder}/lib/rocblas/library").names
        for match in [re.search(r"gfx[0-9a-f]{3,4}(?![0-9a-f])", name)]
        if match
    }
    if found:
        return tuple(sorted(found)), f"the kernel files in {folder}/lib/rocblas/library"
    return None, None


def _triton(host: Host, python: Python) -> Triton | None:
    candidates = [found for found in python.distributions or () if "triton" in found.name]
    detailed = [read_details(host, found, record=True) for found in candidates]
    owners = [
        found for found in detailed if "triton" in found.owns or (not found.owns and found.name in TRITON_DISTRIBUTIONS)
    ]
    folder = _find_module(host, python, "triton", next((found for found in owners if found.editable), None))
    if folder is None:
        folder = next((f"{o.editable}/python/triton" for o in owners if o.editable), None)
    if folder is None and not owners:
        return None
    evidence = [Evidence(found.metadata_path, f"{found.name} {found.version}") for found in owners]
    version = None
    if folder:
        path = f"{folder}/__init__.py"
        version = parse_assignments(host.read(path, limit=_SOURCE_LIMIT).text or "", "__version__").get("__version__")
        said = f"__version__ = {version!r}" if version else "no __version__: not a whole package"
        evidence.append(Evidence(path, said))
    return Triton(
        folder=folder,
        version=version,
        owners=tuple(owners),
        has_amd_backend=host.exists(f"{folder}/backends/amd/driver.py") if folder else None,
        evidence=tuple(evidence),
    )


def _flash_attention(host: Host, python: Python, triton: Triton | None) -> FlashAttention | None:
    distribution = _first(host, python, "flash-attn", record=True)
    folder = _find_module(host, python, "flash_attn", distribution)
    if folder is None:
        return None
    init = host.read(f"{folder}/__init__.py", limit=_SOURCE_LIMIT).text or ""
    says = parse_assignments(init, "__version__")
    version = (distribution.version if distribution else None) or says.get("__version__")
    if version is None:  # a folder left behind, or one of another distribution (flash-attn-4)
        return None
    interface = host.read(f"{folder}/flash_attn_interface.py", limit=_SOURCE_LIMIT).text
    sites = dict.fromkeys((posixpath.dirname(folder), *python.search_path))
    extension = next(
        (found for site in sites for found in extensions_below(host, site, ("flash_attn_2_cuda*.so",))), None
    )
    evidence = [Evidence(folder, f"flash_attn {version}")]
    kind: str | None
    if "fadoctor" in _local(version):
        kind = "bundled"
    elif extension:
        kind = {"rocm": "ck", "cuda": "cuda"}.get(extension.build or "")
        evidence.append(Evidence(extension.path, "needs " + ", ".join(extension.needed[:12])))
    elif interface is not None and ("FLASH_ATTENTION_TRITON_AMD_ENABLE" in interface or "triton_amd" in interface):
        kind = "triton"
        evidence.append(Evidence(f"{folder}/flash_attn_interface.py", "no flash_attn_2_cuda extension is installed"))
    else:
        kind = None
    needs_flag = needs_aiter = None
    if interface is not None:
        needs_flag = "FLASH_ATTENTION_TRITON_AMD_ENABLE" in interface and "falling back to Triton" not in interface
        needs_aiter = "aiter.ops.triton" in interface
    return FlashAttention(
        version=version,
        folder=folder,
        kind=kind,
        needs_libraries=extension.needed if extension else (),
        extension=extension,
        needs_flag=False if kind == "bundled" else needs_flag,
        needs_aiter=False if kind == "bundled" else needs_aiter,
        tuned_for=_tuned_for(host, triton, evidence) if kind == "bundled" else (),
        distribution=distribution,
        evidence=tuple(evidence),
    )


def _tuned_for(host: Host, triton: Triton | None, evidence: list[Evidence]) -> tuple[str, ...]:
    """The targets of the files that the bundled kernels keep their findings in (kernels/tuning.py, store_path)."""
    environ = host.environ or {}
    home = environ.get("HOME") or (host.user.home if host.user else None)
    cache = environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else None)
    folder = environ.get("FA_DOCTOR_TUNING_DIR") or (f"{cache}/fa-doctor/tuning" if cache else None)
    if folder is None or triton is None or triton.version is None:
        return ()
    pattern = re.compile(rf"(gfx[0-9a-f]{{3,4}})-triton{re.escape(triton.version)}-[0-9a-f]+\.json")
    found = [match for match in map(pattern.fullmatch, host.list(folder).names) if match]
    evidence += [Evidence(f"{folder}/{match[0]}", "configurations that a search found") for match in found[:4]]
    return tuple(sorted({match[1] for match in found}))


def _aiter(host: Host, python: Python) -> Aiter | None:
    distribution = _first(host, python, "aiter", "amd-aiter")
    folder = _find_module(host, python, "aiter", distribution)
    if folder is None or not host.exists(
        f"{folder}/ops"
    ):  # an unrelated package on the default index has that name too
        return None
    version = distribution.version if distribution else "?"
    known: tuple[str, ...] | None = None
    evidence = [Evidence(folder, f"aiter {version}")]
    table = host.read(f"{folder}/jit/utils/chip_info.py", limit=_SOURCE_LIMIT)
    if table.text:
        known = tuple(sorted(set(re.findall(r"[\"'](gfx[0-9a-f]{3,4})[\"']", table.text))))
        evidence.append(Evidence(table.path, "names " + ", ".join(known)))
    kernels = f"{folder}/ops/triton/_triton_kernels/flash_attn_triton_amd"
    return Aiter(version, folder, host.exists(kernels), known or None, tuple(evidence))


def _companions(host: Host, python: Python) -> tuple[Companion, ...]:
    companions = []
    for name, row in known_packages().items():
        distribution = _first(host, python, name)
        if distribution is None:
            continue
        extensions = tuple(extensions_below(host, distribution.location, row.extensions))
        builds = {extension.build for extension in extensions if extension.build}
        label = build_of_label(_local(distribution.version))
        needed = tuple(dict.fromkeys(library for extension in extensions for library in extension.needed))
        evidence = [Evidence(distribution.metadata_path, f"{name} {distribution.version}")]
        evidence += [
            Evidence(found.path, "needs " + ", ".join(found.needed[:12])) for found in extensions if found.build
        ]
        companions.append(
            Companion(
                name=name,
                version=distribution.version,
                build=builds.pop() if len(builds) == 1 else label,
                needs_libraries=needed,
                extensions=extensions,
                distribution=distribution,
                evidence=tuple(evidence),
            )
        )
    return tuple(companions)
