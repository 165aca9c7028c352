"""Settings of `fa-doctor run` from a TOML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fa_doctor.errors import UsageProblem

__all__ = ["load_settings"]

_KINDS: dict[str, tuple[type, ...]] = {
    "level": (str,),
    "on-fail": (str,),
    "wait": (int, float),
    "timeout": (int, float),
    "python": (str,),
    "ignore": (list,),
    "keep": (bool,),
    "verbose": (bool,),
}


def load_settings(path: str | None, default: str) -> dict[str, Any]:
    """The [run] table of a settings file, with option names as click has them (`on_fail`).

    Without a path the default file is read if it is there. Raises UsageProblem for a file that cannot be read, a key
    that is not an option, or a value of the wrong kind; what a choice allows is checked by the option itself.
    """
    if path is None and not Path(default).is_file():
        return {}
    name = path or default
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        table = tomllib.loads(Path(name).read_text(encoding="utf-8")).get("run", {})
    except (OSError, ValueError) as error:
        raise UsageProblem(f"the settings file {name} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise UsageProblem(f"{name}: write the settings as a [run] table")
    for key, value in table.items():
        if key not in _KINDS:
            raise UsageProblem(f"{name}: {key} is no setting of `run`; there are {', '.join(_KINDS)}")
        if not isinstance(value, _KINDS[key]) or (isinstance(value, bool) and bool not in _KINDS[key]):
            raise UsageProblem(f"{name}: {key} = {value!r} is of the wrong kind")
    if not all(isinstance(entry, str) for entry in table.get("ignore", ())):
        raise UsageProblem(f"{name}: ignore is a list of ids")
    names = {"ignore": "unwanted"}
    return {names.get(key, key.replace("-", "_")): value for key, value in table.items()}
