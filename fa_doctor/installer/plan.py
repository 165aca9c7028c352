"""The plan of an install: a value that says what will be done, what each step changes, and how each is undone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fa_doctor.environment_file import Variable
from fa_doctor.installer.flash_attn_package import KernelWheel
from fa_doctor.installer.installed import Installed
from fa_doctor.installer.package import Package, RemoteFile, local_path, redacted

__all__ = ["NOTHING", "Paths", "Plan", "Step", "fetch_lines", "steps_of"]

NOTHING = "nothing to undo"


@dataclass(frozen=True, slots=True)
class Paths:
    """Where an install works. All are on the file system of the environment: putting in place is a rename."""

    environment: Path

    @property
    def state(self) -> Path:
        """The folder beside the environment that holds journal, lock, downloads and the two spare environments."""
        return self.environment.with_name(f".{self.environment.name}.fa-doctor")

    @property
    def stage(self) -> Path:
        """The environment that is being built; its last part is the final name, which activation scripts show."""
        return self.state / "stage" / self.environment.name

    @property
    def previous(self) -> Path:
        """The environment as it was, kept for --rollback."""
        return self.state / "previous" / self.environment.name

    @property
    def wheels(self) -> Path:
        return self.state / "wheels"

    @property
    def scratch(self) -> Path:
        return self.state / "scratch"

    @property
    def journal(self) -> Path:
        return self.state / "journal.jsonl"

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    @property
    def plan(self) -> Path:
        """The plan as a lock file, for --resume."""
        return self.state / "plan.toml"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what it changes and how that is undone, in words. `name` is what the journal calls it."""

    name: str
    title: str
    changes: tuple[str, ...]
    undo: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything an install will do. `exists`: the environment is there and is replaced as a whole.

    `attention` is "bundled", "upstream" or "none"; `targets` the gfx targets to compile for; `source` the sdist of
    flash-attn for "upstream". `remove` are distributions that must go first, each with the reason.
    """

    environment: Path
    exists: bool
    base_python: str
    python_version: str
    stack: str
    torch: str
    hip: str | None
    attention: str
    targets: tuple[str, ...]
    packages: tuple[Package, ...]
    kept: tuple[Package, ...]
    remove: tuple[tuple[Installed, str], ...]
    kernels: KernelWheel | None
    upstream: Package | None
    variables: Mapping[str, Variable]
    reasons: tuple[str, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def paths(self) -> Paths:
        return Paths(self.environment)

    @property
    def downloads(self) -> tuple[Package, ...]:
        """Everything that is fetched: the wheels, and the source of flash-attn if that is built."""
        return (*self.packages, *((self.upstream,) if self.upstream else ()))

    @property
    def missing(self) -> tuple[RemoteFile, ...]:
        """The files that are not here yet: neither in a folder nor left by an earlier try."""
        files = [package.file for package in self.downloads if package.file]
        return tuple(
            file for file in files if local_path(file.url) is None and not (self.paths.wheels / file.filename).exists()
        )

    @property
    def download_bytes(self) -> int | None:
        """The bytes to fetch; None where an index does not state them all."""
        sizes = [file.size for file in self.missing]
        return None if any(size is None for size in sizes) else sum(size for size in sizes if size is not None)


def steps_of(plan: Plan) -> tuple[Step, ...]:
    """The steps in their order. Nothing at the environment's own path changes before the last but one."""
    paths = plan.paths
    beside = "the copy is deleted, the environment stays as it is" if plan.exists else "what was built is deleted"
    steps: list[Step] = []
    if plan.downloads:
        kept = "they are kept for the next try; --rollback deletes them"
        steps.append(Step("download", _fetch_title(plan), tuple(fetch_lines(plan)), kept))
    if plan.exists:
        steps.append(Step("copy", f"copy {plan.environment} beside itself", (str(paths.stage),), beside))
    else:
        made = f"an environment of Python {plan.python_version} ({plan.base_python})"
        steps.append(Step("make", "make an environment", (made, str(paths.stage)), beside))
    if plan.remove:
        gone = tuple(f"{entry.name} {entry.version}: {why}" for entry, why in plan.remove)
        steps.append(Step("remove", "remove what clashes, in the copy", gone, beside))
    if plan.packages:
        pins = ", ".join(f"{package.name} {package.version}" for package in plan.packages)
        title = f"install {len(plan.packages)} wheels, exact versions and hashes, no index"
        steps.append(Step("install", title, (pins,), beside))
    if plan.kernels:
        text = f"{plan.kernels.filename} (sha256 {plan.kernels.sha256[:12]}...)"
        steps.append(Step("kernels", "build and install the attention kernels as flash_attn", (text,), beside))
    if plan.upstream:
        text = f"flash-attn {plan.upstream.version}, Triton backend for AMD"
        steps.append(Step("upstream", "build and install flash-attn from its source", (text,), beside))
    if plan.kernels and plan.targets:
        steps.append(Step("compile", "compile the kernels ahead of time", tuple(plan.targets), beside))
    if plan.variables:
        lines = tuple(f"{name}={variable.value}  ({variable.reason})" for name, variable in plan.variables.items())
        steps.append(Step("environment", "write the environment file that `fa-doctor env` reads", lines, beside))
    steps.append(Step("verify", "verify: compare versions, import torch and Triton, run attention", (), NOTHING))
    if plan.exists:
        undo = "the environment as it was is kept; `fa-doctor install --rollback` puts it back"
    else:
        undo = "`fa-doctor install --rollback` removes the environment"
    steps.append(Step("place", "put it in place, in one step", (str(plan.environment),), undo))
    return tuple(steps)


def _fetch_title(plan: Plan) -> str:
    """Files in folders are taken from there; only the others are downloads."""
    local = sum(1 for package in plan.downloads if package.file and local_path(package.file.url))
    remote = len(plan.downloads) - local
    words = [f"download {_files(remote)}"] if remote else []
    words += [f"take {_files(local)} from folders"] if local else []
    return ", ".join(words)


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def _size(count: int | None) -> str:
    if count is None:
        return "size not stated"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def fetch_lines(plan: Plan) -> list[str]:
    """Where the files come from, and below each place their names and sizes."""
    places: dict[str, list[str]] = {}
    for package in plan.downloads:
        file = package.file
        assert file is not None
        folder = local_path(file.url)
        place = str(folder.parent) if folder else package.index or redacted(file.url.rpartition("/")[0])
        places.setdefault(place, []).append(f"  {file.filename} ({_size(file.size)})")
    return [line for place, lines in places.items() for line in (f"from {place}", *lines)]
