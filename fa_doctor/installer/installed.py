"""What an environment holds: its distributions, from their metadata on disk, and whether their files are all there."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import cast

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from fa_doctor.knowledge.triton import DISTRIBUTIONS

__all__ = ["Installed", "missing_files", "orphans_of_cuda_torch", "scan", "triton_owners"]


@dataclass(frozen=True, slots=True)
class Installed:
    """One installed distribution: normalised name, version, requirements as written, and its dist-info folder."""

    name: str
    version: str
    requires: tuple[str, ...]
    folder: str

    @property
    def local(self) -> str | None:
        """The local version: "rocm6.2.4" in 2.6.0+rocm6.2.4."""
        return self.version.partition("+")[2] or None


def scan(*site_packages: str) -> dict[str, Installed]:
    """The distributions in these folders by name; the first folder wins. Damaged metadata is passed over."""
    found: dict[str, Installed] = {}
    for folder in dict.fromkeys(site_packages):
        for distribution in metadata.distributions(path=[folder]):
            raw = cast("Message | None", distribution.metadata)
            name, version = (raw.get("Name"), raw.get("Version")) if raw else (None, None)
            path = getattr(distribution, "_path", None)
            if not name or not version or path is None:
                continue
            key = canonicalize_name(name)
            requires = tuple(distribution.requires or ())
            found.setdefault(key, Installed(key, version, requires, str(path)))
    return found


def triton_owners(installed: dict[str, Installed]) -> tuple[Installed, ...]:
    """The installed distributions that write site-packages/triton; more than one is a mixture."""
    return tuple(installed[name] for name in DISTRIBUTIONS if name in installed)


def orphans_of_cuda_torch(installed: dict[str, Installed], removed: frozenset[str]) -> tuple[Installed, ...]:
    """The nvidia-* distributions that nothing needs once `removed` (normalised names) are gone."""
    candidates = {name for name in installed if name.startswith("nvidia-") and name not in removed}
    kept = [entry for name, entry in installed.items() if name not in removed and name not in candidates]
    needed = {requirement for entry in kept for requirement in _required_names(entry)}
    return tuple(installed[name] for name in sorted(candidates - needed))


def missing_files(entry: Installed) -> list[str]:
    """Files that the RECORD of a distribution names and that are gone or have another size. Paths as recorded."""
    folder = Path(entry.folder)
    record = folder / "RECORD"
    wrong = []
    try:
        lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return [str(record)]
    for line in lines:
        # RECORD is CSV, but only a path with a comma or a quote is ever quoted: such a row is not judged.
        path, _, rest = line.partition(",")
        if not path or path.startswith('"'):
            continue
        size = rest.rpartition(",")[2]
        try:
            actual = os.stat(folder.parent / path).st_size
        except OSError:
            if not path.endswith(".pyc"):
                wrong.append(path)
            continue
        if size.isdigit() and int(size) != actual and not path.endswith(".pyc"):
            wrong.append(path)
    return wrong


def _required_names(entry: Installed) -> set[str]:
    names = set()
    for text in entry.requires:
        with suppress(InvalidRequirement):
            names.add(str(canonicalize_name(Requirement(text).name)))
    return names
