"""Variables in the form that each reader takes: shells, Dockerfiles, GitHub's environment file, systemd, JSON."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping

from fa_doctor.environment_file import Variable

__all__ = ["FORMS", "render"]

FORMS = ("bash", "fish", "docker", "github", "systemd", "json")


def render(variables: Mapping[str, Variable], form: str) -> str:
    """The variables as text; nothing at all where there are none (`{}` in JSON). Reasons stand as comments."""
    if form == "json":
        entries = {name: {"value": one.value, "reason": one.reason} for name, one in variables.items()}
        return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
    writer = {"bash": _bash, "fish": _fish, "docker": _docker, "github": _github, "systemd": _systemd}[form]
    lines = []
    for name, variable in variables.items():
        if form != "github":  # GitHub's environment file has no comments
            lines.append(f"# {name}: {' '.join(variable.reason.split())}")
        lines.append(writer(name, variable.value))
    return "".join(f"{line}\n" for line in lines)


def _bash(name: str, value: str) -> str:
    """Single quotes keep everything but themselves; the same in bash, dash, zsh and ash."""
    quoted = value.replace("'", "'\\''")
    return f"export {name}='{quoted}'"


def _fish(name: str, value: str) -> str:
    """In fish's single quotes a backslash escapes itself and the quote.

    A name that ends in PATH is a list in fish, which is split at colons and joined with them again on export.
    """
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"set -gx {name} '{quoted}'"


def _docker(name: str, value: str) -> str:
    """A Dockerfile's ENV line. It has no way to write a line break: such a value must be given at run time."""
    if "\n" in value or "\r" in value:
        return f"# {name} holds a line break, which ENV cannot say: give it with `docker run --env`"
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'ENV {name}="{quoted}"'


def _github(name: str, value: str) -> str:
    """A line of $GITHUB_ENV, with a delimiter that the value cannot hold."""
    delimiter = f"fa_doctor_{secrets.token_hex(8)}"
    return f"{name}<<{delimiter}\n{value}\n{delimiter}"


def _systemd(name: str, value: str) -> str:
    """An Environment= line of a unit: C-style escapes inside the quotes, % doubled against specifiers."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    quoted = quoted.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return f'Environment="{name}={quoted}"'
