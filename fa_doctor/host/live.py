"""This machine: files below a root (normally "/"), this process's environment, real commands."""

from __future__ import annotations

import errno
import os
import stat as stat_module
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

from fa_doctor.host.base import (
    FILE_LIMIT,
    CommandOutput,
    Disk,
    FileBytes,
    FileText,
    Host,
    Listing,
    NodeKind,
    Problem,
    Stat,
    User,
)
from fa_doctor.host.command import run_command
from fa_doctor.host.elf import ElfDynamic, NotElf, read_dynamic

__all__ = ["LiveHost"]

_LINK_LIMIT = 40  # as in the kernel (MAXSYMLINKS)
_SHADOWED = ("LD_PRELOAD",)  # never handed to the tools we run: a broken preload would make each of them fail


class LiveHost(Host):
    """Reads the machine that the doctor runs on.

    With `root` other than "/" it reads the machine whose root file system is mounted there, as a Kubernetes pod does
    with its node: links are resolved below that root, nothing is executed, user and environment are unknown.
    """

    def __init__(self, root: str = "/", environ: Mapping[str, str] | None = None) -> None:
        self.root = os.path.abspath(root)
        self.kind = "live" if self.root == "/" else "root"
        self.description = "this machine" if self.root == "/" else f"the machine mounted at {self.root}"
        self._environ: Mapping[str, str] | None = None
        if self.root == "/":
            self._environ = dict(os.environ if environ is None else environ)
        elif environ is not None:
            self._environ = dict(environ)
        self._hung: dict[tuple[str, ...], CommandOutput] = {}

    @property
    def environ(self) -> Mapping[str, str] | None:
        return self._environ

    @property
    def user(self) -> User | None:
        if self.root != "/":
            return None
        import pwd

        uid, gid = os.geteuid(), os.getegid()
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:  # a container started with --user 1234 has no such entry
            name = home = None
        else:
            name, home = entry.pw_name, entry.pw_dir
        home = (self._environ or {}).get("HOME") or home
        return User(uid, gid, tuple(sorted({gid, *os.getgroups()})), name, home)

    def read(self, path: str, limit: int = FILE_LIMIT) -> FileText:
        found = self.read_bytes(path, limit)
        text = None if found.data is None else found.data.decode("utf-8", "replace")
        return FileText(path, text, found.problem, found.truncated)

    def read_bytes(self, path: str, limit: int = FILE_LIMIT) -> FileBytes:
        real = self._inside(path)
        if isinstance(real, Problem):
            return FileBytes(path, None, real)
        try:
            # O_NONBLOCK: opening a pipe that somebody left in place of a file must not wait for its writer.
            descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb", buffering=0) as stream:
                if not stat_module.S_ISREG(os.fstat(descriptor).st_mode):
                    return FileBytes(path, None, Problem.FAILED)
                data = b""
                while len(data) <= limit:
                    chunk = stream.read(limit + 1 - len(data))
                    if not chunk:
                        break
                    data += chunk
        except OSError as error:
            return FileBytes(path, None, _problem_of(error))
        return FileBytes(path, data[:limit], truncated=len(data) > limit)

    def list(self, path: str) -> Listing:
        real = self._inside(path)
        if isinstance(real, Problem):
            return Listing(path, problem=real)
        try:
            return Listing(path, tuple(sorted(os.listdir(real))))
        except OSError as error:
            return Listing(path, problem=_problem_of(error))

    def stat(self, path: str) -> Stat:
        real = self._inside(path)
        if isinstance(real, Problem):
            return Stat(path, problem=real)
        try:
            found = os.stat(real)
        except OSError as error:
            return Stat(path, problem=_problem_of(error))
        device = None
        if stat_module.S_ISCHR(found.st_mode):
            kind = NodeKind.CHARACTER_DEVICE
            device = (os.major(found.st_rdev), os.minor(found.st_rdev))
        elif stat_module.S_ISDIR(found.st_mode):
            kind = NodeKind.FOLDER
        else:
            kind = NodeKind.FILE if stat_module.S_ISREG(found.st_mode) else NodeKind.OTHER
        mode = stat_module.S_IMODE(found.st_mode)
        return Stat(path, kind, mode, found.st_uid, found.st_gid, found.st_size, device)

    def real_path(self, path: str) -> str | None:
        real = self._inside(path)
        if isinstance(real, Problem) or not os.path.exists(real):
            return None
        if self.root == "/":
            return os.path.realpath(real)
        return "/" + os.path.relpath(real, self.root)

    def can_open(self, path: str, *, write: bool = True) -> bool | None:
        if self.root != "/":
            return None
        if write and path.startswith("/dev/"):
            return self.can_open_all([path]).get(path)
        try:
            os.close(os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return False
        return True

    def can_open_all(self, paths: Sequence[str], timeout_s: float = 2.0) -> dict[str, bool | None]:
        if self.root != "/" or not paths:
            return dict.fromkeys(paths)
        from fa_doctor.host.opening import try_opening

        return dict(try_opening(paths, timeout_s))

    def can_write_folder(self, path: str) -> bool | None:
        if self.root != "/":
            return None
        # A file is really created, since access(2) says yes to root on a read-only or full file system.
        try:
            with tempfile.TemporaryFile(dir=_nearest_ancestor(path)) as stream:
                stream.write(b"x")
        except OSError:
            return False
        return True

    def disk(self, path: str) -> Disk | None:
        real = self._inside(path)
        if isinstance(real, Problem):
            real = os.path.join(self.root, path.lstrip("/"))
        try:
            real = _nearest_ancestor(real)
            usage = os.statvfs(real)
        except OSError:
            return None
        mount_point, filesystem = _mount_of(os.path.realpath(real))
        return Disk(
            path=path,
            total_bytes=usage.f_blocks * usage.f_frsize,
            free_bytes=usage.f_bavail * usage.f_frsize,
            filesystem=filesystem,
            mount_point=mount_point,
            read_only=bool(usage.f_flag & os.ST_RDONLY),
        )

    def elf(self, path: str) -> ElfDynamic | Problem:
        real = self._inside(path)
        if isinstance(real, Problem):
            return real
        try:
            descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as stream:
                if not stat_module.S_ISREG(os.fstat(descriptor).st_mode):
                    return Problem.FAILED
                return read_dynamic(stream)
        except NotElf:
            return Problem.FAILED
        except OSError as error:
            return _problem_of(error)

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float = 5.0,
        env: Mapping[str, str] | None = None,
        report: bool = False,
        label: str | None = None,
        on_report: Callable[[str], None] | None = None,
    ) -> CommandOutput:
        if self.root != "/":
            return CommandOutput(tuple(argv), None, problem=Problem.UNRECORDED)
        if tuple(argv) in self._hung:
            return self._hung[tuple(argv)]
        program = self.which(argv[0])
        if program is None:
            return CommandOutput(tuple(argv), None, problem=Problem.ABSENT)
        if self.deadline is not None:
            timeout_s = min(timeout_s, self.deadline - time.monotonic())
            if timeout_s <= 0:
                return CommandOutput(tuple(argv), None, problem=Problem.TIMED_OUT)
        environ = {key: value for key, value in (self._environ or {}).items() if key not in _SHADOWED}
        environ.update({"LC_ALL": "C.UTF-8", **(env or {})})
        output = run_command((program, *argv[1:]), timeout_s, environ, report=report, on_report=on_report)
        if output.problem is Problem.TIMED_OUT:
            self._hung[tuple(argv)] = output
        return output

    def which(self, name: str) -> str | None:
        import shutil

        if self.root == "/":
            return shutil.which(name, path=(self._environ or {}).get("PATH", os.defpath))
        for folder in ("/usr/local/bin", "/usr/bin", "/bin", "/opt/rocm/bin", "/usr/sbin", "/sbin"):
            found = self.stat(f"{folder}/{name}")
            if found.kind is NodeKind.FILE and (found.mode or 0) & 0o111:
                return f"{folder}/{name}"
        return None

    def _inside(self, path: str) -> str | Problem:
        """Where a path of the machine lies in our file system: below another root, links must not lead out of it."""
        if self.root == "/":
            return path
        pending = [part for part in path.split("/") if part]
        resolved: list[str] = []
        links = 0
        while pending:
            part = pending.pop(0)
            if part == ".":
                continue
            if part == "..":
                resolved = resolved[:-1]
                continue
            here = os.path.join(self.root, *resolved, part)
            try:
                target = os.readlink(here)
            except OSError as error:
                # EINVAL: it is there and not a link. Anything else is found out by whoever opens it.
                if error.errno not in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                    return _problem_of(error)
                resolved.append(part)
                continue
            links += 1
            if links > _LINK_LIMIT:
                return Problem.FAILED
            if target.startswith("/"):
                resolved = []
            pending = [piece for piece in target.split("/") if piece] + pending
        return os.path.join(self.root, *resolved)


def _problem_of(error: OSError) -> Problem:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV):
        return Problem.ABSENT
    if error.errno in (errno.EACCES, errno.EPERM):
        return Problem.DENIED
    return Problem.FAILED


def _nearest_ancestor(path: str) -> str:
    while not os.path.isdir(path):
        parent = os.path.dirname(path)
        if parent == path:
            break
        path = parent
    return path


def _mount_of(real: str) -> tuple[str | None, str | None]:
    """Mount point and file system type of the mount that holds `real` (the longest, and of those the last)."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as stream:
            rows = [line.split(" ") for line in stream.read(FILE_LIMIT).splitlines()]
    except OSError:
        return None, None
    best: tuple[str | None, str | None] = (None, None)
    for row in rows:
        if len(row) < 3:
            continue
        point = row[1].encode("latin-1", "replace").decode("unicode_escape")  # blanks stand there as \040
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and (best[0] is None or len(point) >= len(best[0])):
            best = (point, row[2])
    return best
