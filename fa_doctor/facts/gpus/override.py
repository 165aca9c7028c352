"""HSA_OVERRIDE_GFX_VERSION: makes the runtime report another gfx target than the silicon's.

Read by ROCm's libhsakmt (topology.c): `HSA_OVERRIDE_GFX_VERSION_<KFD node>` for one node, else the plain form for all
of them, as three decimal numbers. A value that does not parse makes the initialisation of the runtime fail.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fa_doctor.knowledge.gpus import gfx_from_target_version, target_version_from_gfx

__all__ = ["VARIABLE", "Override", "dotted", "overrides_in", "parse_override"]

VARIABLE = "HSA_OVERRIDE_GFX_VERSION"


@dataclass(frozen=True, slots=True)
class Override:
    """One such variable. `gfx` is what it makes of a device; None if its value is malformed. `node` None: all nodes."""

    variable: str
    value: str
    gfx: str | None
    node: int | None = None

    @property
    def malformed(self) -> bool:
        return parse_override(self.value) is None


def parse_override(value: str) -> tuple[int, int, int] | None:
    """Major, minor and stepping, read as the runtime reads them (`%u.%u.%u`, nothing behind); None if malformed.

    Limits as in libhsakmt: 63, 255, 255.
    """
    match = re.fullmatch(r"\s*\+?([0-9]{1,9})\.\s*\+?([0-9]{1,9})\.\s*\+?([0-9]{1,9})", value, re.ASCII)
    if not match:
        return None
    major, minor, stepping = (int(part) for part in match.groups())
    return (major, minor, stepping) if major <= 63 and minor <= 255 and stepping <= 255 else None


def overrides_in(environ: Mapping[str, str]) -> tuple[Override, ...]:
    """Every override that the environment holds, the one for all nodes first."""
    found: list[Override] = []
    for name, value in environ.items():
        match = re.fullmatch(rf"{VARIABLE}(?:_([0-9]{{1,5}}))?", name)
        if match:
            parsed = parse_override(value)
            gfx = None
            if parsed:
                gfx = gfx_from_target_version(parsed[0] * 10000 + parsed[1] * 100 + parsed[2])
            found.append(Override(name, value, gfx, int(match[1]) if match[1] else None))
    return tuple(sorted(found, key=lambda override: -1 if override.node is None else override.node))


def dotted(gfx: str) -> str | None:
    """A gfx target in the form of the variable: gfx1030 gives "10.3.0", gfx90a "9.0.10"; None for no target."""
    number = target_version_from_gfx(gfx)
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}" if number else None
