"""Distributions installed in a folder of packages, read from their metadata on disk and never by importing them.

Names and versions come from the names of the metadata folders, which costs one listing; METADATA and RECORD are read
of the few distributions that a diagnosis turns on.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from fa_doctor.host import Host

__all__ = [
    "Distribution",
    "in_folder",
    "normalise",
    "owned_top_levels",
    "parse_direct_url",
    "parse_metadata",
    "parse_pth",
    "read_details",
]

_SITE_LIMIT = 20_000  # entries of one site-packages folder that are looked at
_RECORD_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True)
class Distribution:
    """An installed distribution, from its dist-info. `name` is normalised (PEP 503); `requires` as in the metadata.

    `owns` lists the top-level names below which its RECORD has files ("triton", "torch", "flash_attn"); `editable` is
    the folder of a source tree that it was installed from in place. `requires`, `owns`, `installer` and `direct_url`
    are filled for the distributions that matter only (read_details).
    """

    name: str
    version: str
    location: str  # the site-packages folder
    metadata_path: str
    requires: tuple[str, ...] = ()
    owns: tuple[str, ...] = ()
    installer: str | None = None
    direct_url: str | None = None
    editable: str | None = None
    requires_python: str | None = None
    tags: tuple[str, ...] = ()  # of its wheel, "cp312-cp312-manylinux_2_28_x86_64"


def normalise(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def in_folder(host: Host, folder: str) -> list[Distribution]:
    """The distributions whose metadata lies in a folder; names and versions only."""
    found = []
    for entry in host.list(folder).names[:_SITE_LIMIT]:
        stem, dot, suffix = entry.rpartition(".")
        if not dot or suffix not in ("dist-info", "egg-info"):
            continue
        # The escaped name holds no "-" (PEP 427); an egg-info may carry "-py3.12" behind the version.
        parts = re.sub(r"-py\d(\.\d+)?$", "", stem).split("-")
        if not parts[0] or parts[0].startswith("~"):  # "~orch": what pip leaves behind when it was cut off
            continue
        version = parts[1] if len(parts) > 1 else ""
        found.append(Distribution(normalise(parts[0]), version, folder, f"{folder}/{entry}"))
    return found


def read_details(host: Host, bare: Distribution, *, record: bool = False) -> Distribution:
    """The same distribution with what its METADATA (or PKG-INFO), direct_url.json and WHEEL say, and RECORD if asked."""
    folder = bare.metadata_path
    text = ""
    for path in (f"{folder}/METADATA", f"{folder}/PKG-INFO", folder):
        found = host.read(path, limit=256 << 10)
        if found.text is not None:
            text = found.text
            break
    fields = parse_metadata(text)
    installer = host.read_line(f"{folder}/INSTALLER")
    url, editable = parse_direct_url(host.read(f"{folder}/direct_url.json", limit=16 << 10).text or "")
    wheel = parse_metadata(host.read(f"{folder}/WHEEL", limit=16 << 10).text or "")
    owns: tuple[str, ...] = ()
    if record:
        for path in (f"{folder}/RECORD", f"{folder}/installed-files.txt"):
            listed = host.read(path, limit=_RECORD_LIMIT).text
            if listed is not None:
                owns = owned_top_levels(listed)
                break
    return Distribution(
        name=bare.name,
        version=(fields.get("version") or [bare.version])[0] or bare.version,
        location=bare.location,
        metadata_path=folder,
        requires=tuple(fields.get("requires-dist", ())),
        owns=owns,
        installer=installer or None,
        direct_url=url,
        editable=editable,
        requires_python=next(iter(fields.get("requires-python", ())), None),
        tags=tuple(wheel.get("tag", ())),
    )


def parse_metadata(text: str) -> dict[str, list[str]]:
    """The header fields of a METADATA, PKG-INFO or WHEEL file, names in lower case; the description is left out."""
    fields: dict[str, list[str]] = {}
    name = None
    for line in text.splitlines():
        if not line.strip():
            break
        if line[0] in " \t":  # a continued line
            if name:
                fields[name][-1] += " " + line.strip()
            continue
        key, colon, value = line.partition(":")
        if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", key):
            name = key.lower()
            fields.setdefault(name, []).append(value.strip())
        else:
            name = None
    return fields


def parse_direct_url(text: str) -> tuple[str | None, str | None]:
    """direct_url.json (PEP 610): the URL without user and password, and the folder if it was installed in place."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None, None
    url = content.get("url") if isinstance(content, dict) else None
    if not isinstance(url, str):
        return None, None
    from urllib.parse import unquote, urlparse  # few distributions have this file

    info = content.get("dir_info")
    try:
        parts = urlparse(url)
    except ValueError:
        return None, None
    path = unquote(parts.path) if parts.scheme == "file" else None
    editable = path if isinstance(info, dict) and info.get("editable") is True else None
    return re.sub(r"//[^/@]*@", "//", url), editable


def owned_top_levels(record: str) -> tuple[str, ...]:
    """The top-level names below which a RECORD lists files, metadata folders left out."""
    names = {line.split("/", 1)[0].strip('"') for line in record.splitlines() if "/" in line}
    return tuple(sorted(name for name in names if name not in ("", "..") and not name.endswith(("-info", ".data"))))


def parse_pth(text: str) -> tuple[str, ...]:
    """The folders that a .pth file adds (site's rules: comments and lines that begin with "import" are no folders)."""
    lines = (line.strip() for line in text.splitlines()[:256])
    return tuple(
        line for line in lines if line and not line.startswith(("#", "import ", "import\t")) and "\0" not in line
    )
