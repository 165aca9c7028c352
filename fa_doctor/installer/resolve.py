"""Which wheels make up a stack: exact files with hashes, each from an index that it may come from.

The rule that this module exists for: torch and what is built with it come from the stack's own index and carry its
local version. A version of the same or a higher number on the default index (the CUDA build) is no candidate at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version
from resolvelib import AbstractProvider, BaseReporter, ResolutionImpossible, ResolutionTooDeep, Resolver

from fa_doctor.installer.errors import NothingFits
from fa_doctor.installer.index import IndexClient
from fa_doctor.installer.installed import Installed
from fa_doctor.installer.package import Package, RemoteFile, redacted
from fa_doctor.installer.sources import Sources
from fa_doctor.installer.target import TargetPython
from fa_doctor.knowledge.triton import DISTRIBUTIONS

__all__ = ["STACK_PACKAGES", "Resolution", "is_stack_package", "resolve"]

STACK_PACKAGES = frozenset({"torch", "torchvision", "torchaudio", "rocm", *DISTRIBUTIONS})
STACK_PREFIXES = ("rocm-sdk-", "amd-torch-device-", "amd-torchvision-device-")
MAX_ROUNDS = 2000


@dataclass(frozen=True, slots=True)
class Resolution:
    """What to fetch and install, and what already fits and stays; both sorted by name."""

    packages: tuple[Package, ...]
    kept: tuple[Package, ...]


def is_stack_package(name: str) -> bool:
    """Whether a package may come from the stack's index only."""
    return name in STACK_PACKAGES or name.startswith(STACK_PREFIXES)


def resolve(
    roots: Sequence[str],
    *,
    client: IndexClient,
    python: TargetPython,
    stack_index: str | None,
    sources: Sources,
    stack_from_configured: bool = False,
    stack_folders: tuple[str, ...] = (),
    installed: Mapping[str, Installed] | None = None,
) -> Resolution:
    """Resolves `roots` (requirements such as "torch==2.6.0+rocm6.2.4") and what they need for the target Python.

    `stack_from_configured`: the configured indexes may serve the stack's packages too (the CPU stack); for a ROCm
    stack they never may; `stack_folders` are folders the user named, which may. An installed version that satisfies everything is kept. Raises NothingFits with the reason,
    IndexUnreachable when an index gives no answer.
    """
    provider = _Provider(
        client, python, stack_index, sources, stack_from_configured, stack_folders, dict(installed or {})
    )
    resolver: Resolver[Requirement, _Candidate, str] = Resolver(provider, BaseReporter())
    try:
        result = resolver.resolve([Requirement(root) for root in roots], max_rounds=MAX_ROUNDS)
    except ResolutionImpossible as error:
        raise NothingFits(_why_impossible(error, provider)) from error
    except ResolutionTooDeep as error:
        raise NothingFits(f"no set of packages was found in {MAX_ROUNDS} rounds") from error
    packages = {candidate.name: candidate.as_package(provider) for candidate in result.mapping.values()}
    ordered = [packages[name] for name in sorted(packages)]
    return Resolution(
        tuple(package for package in ordered if package.file), tuple(package for package in ordered if not package.file)
    )


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: str
    version: Version
    file: RemoteFile | None
    index: str | None
    extras: frozenset[str] = frozenset()

    def as_package(self, provider: _Provider) -> Package:
        requires = tuple(sorted(str(requirement) for requirement in provider.get_dependencies(self)))
        return Package(self.name, str(self.version), self.file, self.index, requires)


class _Provider(AbstractProvider["Requirement", "_Candidate", str]):
    """What resolvelib asks: which files answer a requirement, and what a file requires."""

    def __init__(
        self,
        client: IndexClient,
        python: TargetPython,
        stack_index: str | None,
        sources: Sources,
        stack_from_configured: bool,
        stack_folders: tuple[str, ...],
        installed: dict[str, Installed],
    ) -> None:
        self._client, self._python, self._installed = client, python, installed
        self._stack_index, self._sources, self._from_configured = stack_index, sources, stack_from_configured
        self._stack_folders = stack_folders
        self._rank: dict[Tag, int] = {tag: rank for rank, tag in enumerate(python.tags())}
        self._candidates: dict[str, list[_Candidate]] = {}
        self._sources_only: dict[str, str] = {}
        self.rejected: dict[str, list[str]] = {}

    def identify(self, requirement_or_candidate: Requirement | _Candidate) -> str:
        item = requirement_or_candidate
        extras = f"[{','.join(sorted(item.extras))}]" if item.extras else ""
        return f"{canonicalize_name(item.name)}{extras}"

    def get_preference(
        self, identifier: str, resolutions: Any, candidates: Any, information: Any, backtrack_causes: Any
    ) -> tuple[bool, bool, str]:
        pinned = any(
            len(entry.requirement.specifier) and str(entry.requirement.specifier).startswith("==")
            for entry in information[identifier]
        )
        return (not pinned, not is_stack_package(identifier.partition("[")[0]), identifier)

    def find_matches(self, identifier: str, requirements: Any, incompatibilities: Any) -> Iterable[_Candidate]:
        wanted: list[Requirement] = list(requirements[identifier])
        barred = set(incompatibilities[identifier])
        name = str(canonicalize_name(identifier.partition("[")[0]))
        extras = frozenset().union(*(requirement.extras for requirement in wanted))
        prereleases = any(requirement.specifier.prereleases for requirement in wanted)
        fits = [
            replace(candidate, extras=extras)
            for candidate in self._known(name)
            if all(self._matches(requirement, candidate) for requirement in wanted)
            and (prereleases or not candidate.version.is_prerelease)
        ]
        return [candidate for candidate in fits if candidate not in barred]

    def is_satisfied_by(self, requirement: Requirement, candidate: _Candidate) -> bool:
        return self._matches(requirement, candidate)

    def get_dependencies(self, candidate: _Candidate) -> list[Requirement]:
        dependencies: list[Requirement] = []
        if candidate.extras:
            dependencies.append(Requirement(f"{candidate.name}=={candidate.version}"))
        environments = [{**self._python.markers(), "extra": extra} for extra in candidate.extras or {""}]
        for text in self._requires(candidate):
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            marker = requirement.marker
            if marker is None:
                if not candidate.extras:
                    dependencies.append(requirement)
            elif any(marker.evaluate(environment) for environment in environments):
                requirement.marker = None
                dependencies.append(requirement)
        return dependencies

    def _requires(self, candidate: _Candidate) -> list[str]:
        if candidate.file is None:
            return list(self._installed[candidate.name].requires)
        return [str(text) for text in self._client.metadata(candidate.file).get_all("Requires-Dist") or []]

    def _matches(self, requirement: Requirement, candidate: _Candidate) -> bool:
        return candidate.version in SpecifierSet(str(requirement.specifier), prereleases=True)

    def _known(self, name: str) -> list[_Candidate]:
        """Every candidate of a project, the kept version first, then the newest; of one version the best wheel."""
        if name not in self._candidates:
            best: dict[Version, tuple[int, _Candidate]] = {}
            for index, file in self._offered(name):
                parsed = self._parse(name, file)
                if parsed is None:
                    continue
                version, rank = parsed
                if version not in best or rank < best[version][0]:
                    best[version] = (rank, _Candidate(name, version, file, index))
            newest = [best[version][1] for version in sorted(best, reverse=True)]
            self._candidates[name] = [*self._kept(name), *newest]
        return self._candidates[name]

    def _kept(self, name: str) -> list[_Candidate]:
        entry = self._installed.get(name)
        if entry is None:
            return []
        try:
            return [_Candidate(name, Version(entry.version), None, None)]
        except InvalidVersion:
            return []

    def _offered(self, name: str) -> Iterator[tuple[str, RemoteFile]]:
        stack_only = is_stack_package(name) and not self._from_configured
        for location in self._stack_folders if stack_only else self._sources.find_links:
            for file in self._client.links(location):
                yield location, file
        indexes: list[str] = []
        if is_stack_package(name):
            indexes += [self._stack_index] if self._stack_index else []
        if not stack_only:
            indexes = [*self._sources.indexes, *indexes]
        for index in indexes:
            for file in self._client.files(index, name):
                yield redacted(index), file

    def _parse(self, name: str, file: RemoteFile) -> tuple[Version, int] | None:
        """The version of a wheel and how well it fits; None, with the reason noted, when it does not."""
        if not file.filename.endswith(".whl"):
            if file.filename.endswith(".tar.gz"):
                self._sources_only.setdefault(name, file.filename)
            return None
        try:
            project, version, _, wheel_tags = parse_wheel_filename(file.filename)
        except (InvalidWheelFilename, InvalidVersion):
            return None
        if project != name:
            return None
        ranks = [self._rank[tag] for tag in wheel_tags if tag in self._rank]
        if not ranks:
            self._note(name, f"{file.filename} is for another Python or platform")
            return None
        if file.yanked:
            self._note(name, f"{file.filename} was withdrawn")
            return None
        if file.requires_python:
            try:
                if self._python.version not in SpecifierSet(file.requires_python, prereleases=True):
                    self._note(name, f"{file.filename} needs Python {file.requires_python}")
                    return None
            except InvalidSpecifier:
                pass
        return version, min(ranks)

    def _note(self, name: str, reason: str) -> None:
        self.rejected.setdefault(name, []).append(reason)

    def describe(self, name: str) -> str:
        """What there is of a project, for an error message."""
        offered = [str(candidate.version) for candidate in self._candidates.get(name, ()) if candidate.file]
        if offered:
            return f"offered for this Python: {', '.join(offered[:6])}{' ...' if len(offered) > 6 else ''}"
        reasons = self.rejected.get(name)
        if reasons:
            return f"{len(reasons)} wheels, none fits: {reasons[-1]}"
        if name in self._sources_only:
            return f"offered as source only ({self._sources_only[name]}), which this installer does not build"
        where = self._stack_index if is_stack_package(name) else ", ".join(map(redacted, self._sources.indexes))
        return f"no wheel of it at {redacted(where) if where else 'any configured index'}"


def _why_impossible(error: ResolutionImpossible[Requirement, _Candidate], provider: _Provider) -> str:
    causes = []
    for cause in error.causes:
        parent = f" (wanted by {cause.parent.name} {cause.parent.version})" if cause.parent else ""
        name = str(canonicalize_name(cause.requirement.name))
        causes.append(f"{cause.requirement}{parent}: {provider.describe(name)}")
    return "no set of wheels fits: " + "; ".join(dict.fromkeys(causes))
