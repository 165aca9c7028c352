"""The environment variables that decide what runs on an AMD GPU, as far as they are set."""

from __future__ import annotations

from fa_doctor.host import Host
from fa_doctor.knowledge.variables import names

__all__ = ["gather"]


def gather(host: Host) -> dict[str, str] | None:
    """The variables of knowledge/variables.toml that are set, with their values; None if the environment is unknown.

    Only these are taken: an environment holds tokens and passwords that no report should carry.
    """
    environ = host.environ
    if environ is None:
        return None
    return {name: environ[name] for name in names() if name in environ}
