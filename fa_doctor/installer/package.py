"""One file that an index offers, and one package of a plan."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Package", "RemoteFile"]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file an index offers. `url` may be https, http or file; `sha256` and `size` are None where not stated."""

    filename: str
    url: str
    sha256: str | None = None
    size: int | None = None
    requires_python: str | None = None
    yanked: bool = False
    has_metadata: bool = False


@dataclass(frozen=True, slots=True)
class Package:
    """One wheel to install, or (`file` None) an installed version that stays. `requires` hold for the target."""

    name: str
    version: str
    file: RemoteFile | None
    index: str | None
    requires: tuple[str, ...] = ()
