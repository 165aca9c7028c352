"""Lock files: the exact wheels of a plan, with hashes, in the standard format of PEP 751 (pylock.toml).

pip and uv can install the packages of such a file by themselves; what only fa-doctor needs (the kernels, what is
compiled, the variables) stands in its own table, [tool.fa-doctor]. The same plan gives the same bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from fa_doctor.environment_file import Variable
from fa_doctor.errors import UsageProblem
from fa_doctor.installer.flash_attn_package import build_wheel
from fa_doctor.installer.package import Package, RemoteFile, redacted
from fa_doctor.installer.plan import Plan

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Locked", "dump", "load"]

LOCK_VERSION = "1.0"
SCHEMA = "fa-doctor/lock/1"


class Locked:
    """A lock file that was read: everything of a plan but the environment it is to be applied to."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        own = content["tool"]["fa-doctor"]
        self.path = path
        self.stack: str = own["stack"]
        self.torch: str = own["torch"]
        self.hip: str | None = own.get("hip")
        self.python: str = own["python"]
        self.attention: str = own["attention"]
        self.targets: tuple[str, ...] = tuple(own["targets"])
        self.kernels_sha256: str | None = own.get("kernels-sha256")
        self.variables = {
            name: Variable(entry["value"], entry["reason"]) for name, entry in own.get("variables", {}).items()
        }
        self.kept = tuple(
            Package(name, version, None, None)
            for name, _, version in (entry.partition("==") for entry in own.get("kept", ()))
        )
        everything = [_package(row) for row in content.get("packages", ())]
        self.upstream = next((entry for entry in everything if _is_source(entry)), None)
        self.packages = tuple(entry for entry in everything if not _is_source(entry))

    def check_kernels(self) -> None:
        """Raises UsageProblem when this fa-doctor would not build the kernel wheel that was locked."""
        if self.kernels_sha256 and build_wheel().sha256 != self.kernels_sha256:
            raise UsageProblem(
                f"{self.path} was written by a fa-doctor with other kernels: use the version that its "
                "`created-by` line names, or write a new lock file"
            )


def load(path: Path) -> Locked:
    """Reads a lock file. Raises UsageProblem when it is not there or was not written by fa-doctor."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        if content["tool"]["fa-doctor"]["schema"] != SCHEMA:
            raise UsageProblem(f"{path} has the unknown schema {content['tool']['fa-doctor']['schema']!r}")
        return Locked(path, content)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(f"the lock file {path} cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UsageProblem(f"{path} is no lock file of `fa-doctor install --lock`: {error!r}") from error


def dump(plan: Plan, created_by: str, *, for_others: bool = True) -> str:
    """The lock file of a plan. `for_others`: every file must have its hash; raises UsageProblem where it has none."""
    lines = [
        f"lock-version = {_text(LOCK_VERSION)}",
        f"created-by = {_text(created_by)}",
        f"requires-python = {_text(_requires_python(plan.python_version))}",
    ]
    named = [*plan.downloads, *(package for package in plan.kept if package.file)]
    for package in sorted(named, key=lambda package: package.name):
        lines += ["", *_package_lines(package, for_others)]
    minor = ".".join(plan.python_version.split(".")[:2])
    lines += [
        "",
        "[tool.fa-doctor]",
        f"schema = {_text(SCHEMA)}",
        f"stack = {_text(plan.stack)}",
        f"torch = {_text(plan.torch)}",
        *([f"hip = {_text(plan.hip)}"] if plan.hip else []),
        f"python = {_text(minor)}",
        f"attention = {_text(plan.attention)}",
        f"targets = [{', '.join(map(_text, plan.targets))}]",
        f"kept = [{', '.join(_text(f'{package.name}=={package.version}') for package in plan.kept if not package.file)}]",
        *([f"kernels-sha256 = {_text(plan.kernels.sha256)}"] if plan.kernels else []),
    ]
    for name, variable in sorted(plan.variables.items()):
        lines.append("")
        lines.append(f"[tool.fa-doctor.variables.{name}]")
        lines += [f"value = {_text(variable.value)}", f"reason = {_text(variable.reason)}"]
    return "\n".join(lines) + "\n"


def _package_lines(package: Package, for_others: bool) -> list[str]:
    file = package.file
    assert file is not None
    if file.sha256 is None and for_others:
        raise UsageProblem(f"{file.filename} cannot be locked: its index states no SHA-256")
    kind = "packages.sdist" if _is_source(package) else "packages.wheels"
    open_, close = ("[", "]") if _is_source(package) else ("[[", "]]")
    lines = ["[[packages]]", f"name = {_text(package.name)}", f"version = {_text(package.version)}"]
    if package.index and "://" in package.index:
        lines.append(f"index = {_text(package.index)}")
    lines += [f"{open_}{kind}{close}", f"name = {_text(file.filename)}", f"url = {_text(redacted(file.url))}"]
    if file.size is not None:
        lines.append(f"size = {file.size}")
    return [*lines, f"hashes = {{ sha256 = {_text(file.sha256)} }}"] if file.sha256 else lines


def _package(row: Mapping[str, Any]) -> Package:
    stated = row["wheels"][0] if row.get("wheels") else row["sdist"]
    file = RemoteFile(stated["name"], stated["url"], stated.get("hashes", {}).get("sha256"), stated.get("size"))
    return Package(str(canonicalize_name(row["name"])), row["version"], file, row.get("index"))


def _is_source(package: Package) -> bool:
    return package.file is not None and not package.file.filename.endswith(".whl")


def _requires_python(version: str) -> str:
    major, minor = version.split(".")[:2]
    return f"=={major}.{minor}.*"


def _text(value: str) -> str:
    """A TOML basic string: JSON's escapes are a subset of TOML's."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
