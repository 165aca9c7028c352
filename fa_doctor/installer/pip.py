"""Which pip there is to work with: one that is installed, or the wheel that a Python keeps for new environments.

Debian and Ubuntu ship Python without pip. Their python3-venv brings it as a wheel, and a wheel of pip runs as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fa_doctor.installer.children import clean_environment, run_child
from fa_doctor.installer.errors import InstallFailed

__all__ = ["Pip", "find_pip", "keeps_pip"]

# Where ensurepip looks: in the folder that the builder of this Python names, else in its own.
ASK = """
import glob, json, os, sysconfig
wheels, version = [], None
try:
    import ensurepip
    own = os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
    wheels = [path for folder in (sysconfig.get_config_var("WHEEL_PKG_DIR"), own) if folder
              for path in sorted(glob.glob(os.path.join(folder, "pip-*.whl")))]
except ImportError:
    pass
try:
    import pip
    version = pip.__version__
except ImportError:
    pass
print(json.dumps({"version": version, "wheel": wheels[0] if wheels else None}))
"""
ACTS_ON_OTHERS = (22, 3)  # the first pip with --python


@dataclass(frozen=True, slots=True)
class Pip:
    """A pip: that of the interpreter `python`, or a wheel of one that runs under whichever interpreter it is to serve."""

    python: str
    wheel: str | None = None

    def words(self) -> list[str]:
        """The command that runs it."""
        return [self.python, f"{self.wheel}/pip"] if self.wheel else [self.python, "-m", "pip"]

    def words_for(self, python: Path) -> list[str | Path]:
        """The command that runs it on the packages of another interpreter."""
        return [python, f"{self.wheel}/pip"] if self.wheel else [self.python, "-m", "pip", "--python", python]


def find_pip(pythons: Sequence[str], environ: Mapping[str, str]) -> Pip | None:
    """The first installed pip that can act on other interpreters, else the first that is kept as a wheel."""
    kept = None
    for python in dict.fromkeys(pythons):
        version, wheel = _ask(python, environ)
        if version and version >= ACTS_ON_OTHERS:
            return Pip(python)
        if wheel and kept is None:
            kept = Pip(python, wheel)
    return kept


def keeps_pip(python: str, environ: Mapping[str, str]) -> bool:
    """Whether `python -m venv` can put a pip into the environments that it makes."""
    return _ask(python, environ)[1] is not None


def _ask(python: str, environ: Mapping[str, str]) -> tuple[tuple[int, ...] | None, str | None]:
    """The version of the installed pip, and the path of the kept wheel; None for what is not there."""
    try:
        outcome = run_child([python, "-c", ASK], environ=clean_environment(environ), deadline_s=30)
        said = json.loads(outcome.output) if outcome.returncode == 0 else {}
        version = tuple(int(part) for part in said["version"].split(".")[:2]) if said.get("version") else None
    except (InstallFailed, ValueError):
        return None, None
    return version, said.get("wheel")
