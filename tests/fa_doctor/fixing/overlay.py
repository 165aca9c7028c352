"""A machine of which the GPU, the driver and the system's ROCm are staged, and all else is this very machine.

So a real virtual environment, a real environment file and real caches stand beside a GPU that is not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fa_doctor.host import LiveHost, RecordedHost
from fa_doctor.host.base import FILE_LIMIT, CommandOutput, FileBytes, Listing, Problem, Stat
from fa_doctor.host.elf import ElfDynamic

STAGED = ("/sys", "/dev", "/proc", "/opt", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/os-release", "/.dockerenv")
STAGED_TOOLS = ("rocminfo", "hipcc", "hipconfig", "rocm-smi", "amd-smi")


class OverlayHost(LiveHost):
    """A live host that asks the staged machine about the paths of STAGED."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        super().__init__(environ=environ)
        self.staged = RecordedHost(folder)

    def _is_staged(self, path: str) -> bool:
        return any(path == prefix or path.startswith(f"{prefix}/") for prefix in STAGED) or path.startswith(
            "/etc/ld.so.conf.d"
        )

    def read_bytes(self, path: str, limit: int = FILE_LIMIT) -> FileBytes:
        return self.staged.read_bytes(path, limit) if self._is_staged(path) else super().read_bytes(path, limit)

    def list(self, path: str) -> Listing:
        return self.staged.list(path) if self._is_staged(path) else super().list(path)

    def stat(self, path: str) -> Stat:
        return self.staged.stat(path) if self._is_staged(path) else super().stat(path)

    def real_path(self, path: str) -> str | None:
        return self.staged.real_path(path) if self._is_staged(path) else super().real_path(path)

    def can_open(self, path: str, *, write: bool = True) -> bool | None:
        here = self._is_staged(path)
        return self.staged.can_open(path, write=write) if here else super().can_open(path, write=write)

    def can_open_all(self, paths: Sequence[str], timeout_s: float = 2.0) -> dict[str, bool | None]:
        return self.staged.can_open_all(paths, timeout_s)

    def elf(self, path: str) -> ElfDynamic | Problem:
        return self.staged.elf(path) if self._is_staged(path) else super().elf(path)

    def run(self, argv: Sequence[str], *arguments: Any, **options: Any) -> CommandOutput:
        if argv[0].rpartition("/")[2] in STAGED_TOOLS:
            return self.staged.run(argv, *arguments, **options)
        return super().run(argv, *arguments, **options)

    def which(self, name: str) -> str | None:
        return self.staged.which(name) if name in STAGED_TOOLS else super().which(name)
