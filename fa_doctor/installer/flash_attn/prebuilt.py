"""Kernels that were compiled when this environment was made: Triton looks there before it compiles anything.

`fa-doctor install` leaves them in share/fa-doctor/triton-cache below the environment. They are only ever read: what is
not among them goes to the user's own cache as always. A TRITON_CACHE_MANAGER that the user set is left alone.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from triton.runtime.cache import CacheManager, FileCacheManager

__all__ = ["PrebuiltCache", "activate"]

FOLDER = Path(sys.prefix) / "share" / "fa-doctor" / "triton-cache"
VARIABLE = "TRITON_CACHE_MANAGER"


def activate() -> None:
    """Makes Triton ask for prebuilt kernels first, where there are any."""
    if FOLDER.is_dir():
        os.environ.setdefault(VARIABLE, "flash_attn.prebuilt:PrebuiltCache")


class PrebuiltCache(CacheManager):  # type: ignore[misc]
    """A cache manager of Triton over two folders: the prebuilt one to read from, the user's own for everything else.

    The user's is opened when it is first needed: with all kernels prebuilt, a home that cannot be written does not
    matter.
    """

    def __init__(self, key: str, *arguments: Any, **options: Any) -> None:
        self.key = key
        # A manager for dumps or overrides works on folders of the user's own: nothing there is prebuilt.
        special = any(arguments) or any(options.values())
        self._folder = Path(os.devnull) if special else FOLDER / key
        self._arguments, self._options = arguments, options
        self._own: Any = None

    def get_file(self, filename: str) -> str | None:
        """The path of a cached file, or None."""
        prebuilt = self._folder / filename
        found = str(prebuilt) if prebuilt.is_file() else self._default.get_file(filename)
        return str(found) if found else None

    def get_group(self, filename: str) -> dict[str, str] | None:
        """The files that belong together under a name, by their names. Prebuilt ones lie beside their list."""
        listing = self._folder / f"__grp__{filename}"
        try:
            names = list(json.loads(listing.read_text(encoding="utf-8"))["child_paths"])
        except (OSError, ValueError, KeyError, TypeError):
            return dict(self._default.get_group(filename) or {}) or None
        group = {name: str(self._folder / name) for name in names if (self._folder / name).is_file()}
        return group if len(group) == len(names) else (dict(self._default.get_group(filename) or {}) or None)

    def put(self, data: Any, filename: str, binary: bool = True) -> str:
        """Writes a file to the user's cache."""
        return str(self._default.put(data, filename, binary))

    def put_group(self, filename: str, group: dict[str, str]) -> str:
        """Writes a list of files that belong together to the user's cache."""
        return str(self._default.put_group(filename, group))

    def has_file(self, filename: str) -> bool:
        """Whether a file is cached."""
        return (self._folder / filename).is_file() or bool(self._default.has_file(filename))

    @property
    def _default(self) -> Any:
        if self._own is None:
            self._own = FileCacheManager(self.key, *self._arguments, **self._options)
        return self._own

    def __getattr__(self, name: str) -> Any:
        # Whatever else a release of Triton asks of its own cache manager (cache_dir, lock_path).
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._default, name)
