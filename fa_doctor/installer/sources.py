"""Where packages may come from: the indexes and folders that pip and uv are configured with, and the stack's own.

Nothing here names the default index: its address is what the installed pip (or uv) says it is.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fa_doctor.installer.package_tool import find_uv
from fa_doctor.installer.pip import Pip, find_pip
from fa_doctor.knowledge.stacks import Stack, stacks

__all__ = ["Sources", "configured_sources", "index_of_stack", "mirrored", "pip_configuration"]

DEADLINE_S = 30.0
PYTORCH = "https://download.pytorch.org/whl"


@dataclass(frozen=True, slots=True)
class Sources:
    """`default` and `extra` are simple indexes (PEP 503/691), `find_links` folders or pages with links to wheels."""

    default: str | None
    extra: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()

    @property
    def indexes(self) -> tuple[str, ...]:
        return (*((self.default,) if self.default else ()), *self.extra)


def index_of_stack(stack: Stack, pytorch_mirror: str | None, amd_mirror: str | None) -> str | None:
    """The index of a stack; a mirror takes the place of the official address and keeps the part that names ROCm."""
    return None if stack.url is None else mirrored(stack.url, pytorch_mirror, amd_mirror)


def mirrored(index: str, pytorch_mirror: str | None, amd_mirror: str | None) -> str:
    """Where an index is to be reached: at its own address, or at the mirror that the user names for it."""
    if pytorch_mirror and index.startswith(PYTORCH):
        return index.replace(PYTORCH, pytorch_mirror.rstrip("/"), 1)
    if amd_mirror and any(stack.index == "amd" and stack.url == index for stack in stacks().values()):
        return amd_mirror.rstrip("/")
    return index


def configured_sources(pythons: Sequence[str], environ: Mapping[str, str], index_url: str | None = None) -> Sources:
    """What pip (that of one of `pythons`), else uv, would use: option, variables, files, built-in."""
    pip = find_pip(pythons, environ)
    configured = pip_configuration(pythons, environ)
    default = (
        index_url
        or environ.get("PIP_INDEX_URL")
        or environ.get("UV_DEFAULT_INDEX")
        or environ.get("UV_INDEX_URL")
        or configured.get("index-url")
        or _built_in(pip, environ)
    )
    extra = environ.get("PIP_EXTRA_INDEX_URL") or configured.get("extra-index-url") or environ.get("UV_EXTRA_INDEX_URL")
    links = environ.get("PIP_FIND_LINKS") or configured.get("find-links") or environ.get("UV_FIND_LINKS")
    if environ.get("PIP_NO_INDEX") or configured.get("no-index") in ("true", "1"):
        return Sources(None, (), tuple((links or "").split()))
    return Sources(default, tuple((extra or "").split()), tuple((links or "").split()))


def pip_configuration(pythons: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """What the pip of one of `pythons` finds in its configuration files; what stands for `install` wins over `global`."""
    pip = find_pip(pythons, environ)
    listing = _run([*pip.words(), "config", "list"], environ) or "" if pip else ""
    found: dict[str, str] = {}
    for section in ("global", "install"):
        for line in listing.splitlines():
            key, separator, value = line.partition("=")
            if not separator or not key.startswith(f"{section}."):
                continue
            try:
                text = str(ast.literal_eval(value))
            except (ValueError, SyntaxError):
                continue
            found[key.partition(".")[2]] = text
    return found


def _built_in(pip: Pip | None, environ: Mapping[str, str]) -> str | None:
    """The address that pip or uv itself uses when nothing is configured, as its help states it."""
    command = pip.words() if pip else [find_uv(environ) or "uv", "pip"]
    match = re.search(r"default:?\s+<?(https?://[^\s>)]+/simple)", _run([*command, "install", "--help"], environ) or "")
    return match[1] if match else None


def _run(command: list[str], environ: Mapping[str, str]) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, env={**environ, "COLUMNS": "200"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
