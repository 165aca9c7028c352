"""One file that an index offers, its address, and one package of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["Package", "RemoteFile", "local_path", "redacted"]


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


def local_path(url: str) -> Path | None:
    """The path of a file URL; None for any other address."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def redacted(url: str) -> str:
    """The address without a user name and password, for messages and journals."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
