"""flash-attn itself, built from its source with the Triton backend for AMD, as its present releases want it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from packaging.utils import InvalidSdistFilename, parse_sdist_filename
from packaging.version import Version

from fa_doctor.installer.children import TAIL, clean_environment, run_child
from fa_doctor.installer.errors import InstallFailed, NothingFits
from fa_doctor.installer.index import IndexClient
from fa_doctor.installer.memory import available_bytes
from fa_doctor.installer.package import Package, RemoteFile
from fa_doctor.installer.sources import Sources

__all__ = ["BUILD_REQUIREMENTS", "build_source", "build_variables", "find_source", "jobs_that_fit"]

# setup.py imports these; without build isolation they must be installed first. einops is needed at run time.
BUILD_REQUIREMENTS = ["setuptools>=40.8", "wheel", "packaging", "ninja", "psutil", "einops", "pip"]
DEADLINE_S = 3 * 3600.0
GIGABYTES_A_JOB = 5  # what flash-attn's own setup.py reckons with


def find_source(wanted: str | None, sources: Sources, client: IndexClient) -> Package:
    """The source archive of flash-attn of the wanted version, else of the newest 2.8."""
    offered: list[tuple[Version, RemoteFile, str]] = []
    places = [(place, client.links(place)) for place in sources.find_links]
    places += [(index, client.files(index, "flash-attn")) for index in sources.indexes]
    for place, files in places:
        for file in files:
            try:
                name, version = parse_sdist_filename(file.filename)
            except InvalidSdistFilename:
                continue
            if name == "flash-attn" and not file.yanked:
                offered.append((version, file, place))
    fitting = [row for row in offered if (str(row[0]) == wanted if wanted else row[0].release[:2] == (2, 8))]
    if not fitting:
        newest = max((row[0] for row in offered), default=None)
        raise NothingFits(f"no source of flash-attn {wanted or '2.8'} is offered (newest there is: {newest or 'none'})")
    version, file, place = max(fitting, key=lambda row: row[0])
    return Package("flash-attn", str(version), file, place)


def jobs_that_fit(available_bytes: int, processors: int) -> int:
    """How many compile jobs memory and processors allow."""
    return max(1, min(processors // 2, int(available_bytes / (GIGABYTES_A_JOB << 30))))


def build_variables(targets: tuple[str, ...]) -> dict[str, str]:
    """The variables of a build for AMD's Triton backend: no CUDA or CK extension, aiter's Triton part only."""
    jobs = jobs_that_fit(available_bytes() or 0, len(os.sched_getaffinity(0)))
    return {
        "FLASH_ATTENTION_TRITON_AMD_ENABLE": "TRUE",
        "FLASH_ATTENTION_FORCE_BUILD": "TRUE",  # do not look for a ready wheel on the network
        "FLASH_ATTENTION_SKIP_CK_BUILD": "TRUE",
        "AITER_USE_SYSTEM_TRITON": "1",  # else aiter's setup replaces the Triton that torch requires
        "AITER_TRITON_ONLY": "1",  # else it asks rocminfo, which a container build has not
        "ENABLE_CK": "0",
        "BUILD_TARGET": "rocm",
        "MAX_JOBS": str(jobs),
        **({"GPU_ARCHS": ";".join(targets)} if targets else {}),
    }


def build_source(
    source: Path, python: Path, folder: Path, targets: tuple[str, ...], environ: Mapping[str, str]
) -> Path:
    """Builds a wheel from a source archive with the packages of `python`'s environment; returns the wheel."""
    command: list[str | Path] = [
        python,
        "-m",
        "pip",
        "wheel",
        "--isolated",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
    ]
    options: list[str | Path] = [
        "--disable-pip-version-check",
        "--no-cache-dir",
        "--no-input",
        "--wheel-dir",
        folder,
        source,
    ]
    before = set(folder.glob("*.whl")) if folder.is_dir() else set()
    child = clean_environment(environ, **build_variables(targets))
    outcome = run_child([*command, *options], environ=child, deadline_s=DEADLINE_S)
    built = sorted(set(folder.glob("*.whl")) - before)
    if outcome.returncode != 0 or len(built) != 1:
        raise InstallFailed(f"{source.name} could not be built:\n{outcome.output.strip()[-TAIL:]}")
    return built[0]
