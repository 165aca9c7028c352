"""A machine replayed from a folder (or a tar of it): the layout that recording.py describes."""

from __future__ import annotations

import json
import posixpath
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fa_doctor.errors import UsageProblem
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
from fa_doctor.host.elf import ElfDynamic
from fa_doctor.host.live import LiveHost
from fa_doctor.host.recording import NO_ANSWER, SCHEMA, output_name

__all__ = ["RecordedHost", "is_recording", "open_recording"]

_TAR_LIMIT = 1 << 30  # bytes that a recorded machine may unpack to
_LS_KINDS = {"c": NodeKind.CHARACTER_DEVICE, "d": NodeKind.FOLDER, "-": NodeKind.FILE}
_PARTS = ("sysroot", "outputs", "devices.txt", "recording.json", "machine.json")  # each may be missing, not all


def is_recording(folder: Path) -> bool:
    """Whether a folder holds a part of a recorded machine."""
    return any((folder / name).exists() for name in _PARTS)


def open_recording(path: str) -> RecordedHost:
    """The recorded machine at `path`, a folder or a tar archive of one; raises UsageProblem if it is neither."""
    place = Path(path)
    if place.is_dir():
        if not is_recording(place):
            raise UsageProblem(f"{path} is no recorded machine: it holds none of {', '.join(_PARTS)}")
        return RecordedHost(place)
    if not place.is_file():
        raise UsageProblem(f"there is no recorded machine at {path}")
    unpacked = tempfile.TemporaryDirectory(prefix="fa-doctor-machine-")
    try:
        with tarfile.open(place) as archive:
            if sum(member.size for member in archive) > _TAR_LIMIT:
                raise UsageProblem(f"{path} unpacks to more than {_TAR_LIMIT >> 30} GiB")
            _extract(archive, unpacked.name)
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise UsageProblem(f"{path} is neither a folder nor a tar archive of a recorded machine: {reason}") from error
    folder = Path(unpacked.name)
    inner = [child for child in folder.iterdir() if child.is_dir()]
    if not is_recording(folder) and len(inner) == 1:
        folder = inner[0]
    if not is_recording(folder):
        unpacked.cleanup()
        raise UsageProblem(f"{path} is no recorded machine: it holds none of {', '.join(_PARTS)}")
    host = RecordedHost(folder)
    host.keep = unpacked  # the folder lives as long as the host
    return host


def _extract(archive: tarfile.TarFile, folder: str) -> None:
    """Unpacks regular files and folders only, none outside the folder: a recording needs no links and no devices."""
    root = Path(folder).resolve()
    for member in archive:
        target = (root / member.name).resolve()
        if not target.is_relative_to(root):
            raise tarfile.TarError(f"{member.name} lies outside the archive")
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
        elif member.isfile():
            target.parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(member)
            if source is not None:
                target.write_bytes(source.read())


class RecordedHost(Host):
    """Answers from a recording. What was not recorded is UNRECORDED, unless the recording says that it is complete."""

    kind = "recorded"

    def __init__(self, folder: Path) -> None:
        self.keep: object = None
        self._folder = folder
        self.description = f"the recorded machine {folder.name}"
        self._files = LiveHost(str(folder / "sysroot"), environ={})
        self._log = _load_log(folder / "recording.json")
        self._devices = _load_devices(folder / "devices.txt")
        self._missing = Problem.ABSENT if self._log.get("complete") else Problem.UNRECORDED

    @property
    def environ(self) -> Mapping[str, str] | None:
        environ = self._log.get("environ")
        return environ if isinstance(environ, dict) else None

    @property
    def user(self) -> User | None:
        user = self._log.get("user")
        if not isinstance(user, dict):
            return None
        return User(user["uid"], user["gid"], tuple(user["groups"]), user.get("name"), user.get("home"))

    def read(self, path: str, limit: int = FILE_LIMIT) -> FileText:
        noted = self._log_of("reads").get(path)
        if noted is not None:
            return FileText(path, None, Problem(noted))
        found = self._files.read(path, limit)
        return FileText(path, None, self._absence(path)) if found.problem is Problem.ABSENT else found

    def read_bytes(self, path: str, limit: int = FILE_LIMIT) -> FileBytes:
        noted = self._log_of("reads").get(path)
        if noted is not None:
            return FileBytes(path, None, Problem(noted))
        found = self._files.read_bytes(path, limit)
        return FileBytes(path, None, self._absence(path)) if found.problem is Problem.ABSENT else found

    def list(self, path: str) -> Listing:
        noted = self._log_of("listings").get(path)
        if isinstance(noted, list):
            return Listing(path, tuple(noted))
        if noted is not None:
            return Listing(path, problem=Problem(noted))
        found = self._files.list(path)
        below = {name for device in self._devices for name in [_child(path, device)] if name and self._devices[device]}
        if found.problem is not Problem.ABSENT:
            return Listing(path, tuple(sorted({*found.names, *below})), found.problem)
        return Listing(path, tuple(sorted(below))) if below else Listing(path, problem=self._absence(path))

    def stat(self, path: str) -> Stat:
        noted = self._log_of("stats").get(path)
        if noted is not None:
            return _stat_of(path, noted)
        if path in self._devices:
            return self._devices[path] or Stat(path, problem=Problem.ABSENT)
        found = self._files.stat(path)
        if found.problem is Problem.ABSENT:
            if any(_child(path, device) and self._devices[device] for device in self._devices):
                return Stat(path, NodeKind.FOLDER)
            return Stat(path, problem=self._absence(path))
        # Owner and mode of the copy say nothing about the machine.
        return Stat(path, found.kind, size=found.size, problem=found.problem)

    def real_path(self, path: str) -> str | None:
        noted = self._log_of("real_paths")
        if path in noted:
            real = noted[path]
            return real if isinstance(real, str) else None
        return self._files.real_path(path)

    def can_open(self, path: str, *, write: bool = True) -> bool | None:
        noted = self._log_of("openable").get(path)
        if isinstance(noted, bool):
            return noted
        return False if self.stat(path).problem is Problem.ABSENT else None

    def can_open_all(self, paths: Sequence[str], timeout_s: float = 2.0) -> dict[str, bool | None]:
        noted = self._log_of("openable")
        return {path: self.can_open(path) for path in paths if noted.get(path) != NO_ANSWER}

    def can_write_folder(self, path: str) -> bool | None:
        noted = self._log_of("writable").get(path)
        return noted if isinstance(noted, bool) else None

    def disk(self, path: str) -> Disk | None:
        noted = self._log_of("disks").get(path)
        return Disk(**noted) if isinstance(noted, dict) else None

    def elf(self, path: str) -> ElfDynamic | Problem:
        noted = self._log_of("elf").get(path)
        if isinstance(noted, str):
            return Problem(noted)
        if isinstance(noted, dict):
            fields = {**noted, "needed": tuple(noted["needed"])}
            versions = noted.get("versions_needed")
            if versions:
                fields["versions_needed"] = {name: tuple(wanted) for name, wanted in versions.items()}
            return ElfDynamic(**fields)
        found = self._files.elf(path)
        return self._absence(path) if found is Problem.ABSENT else found

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float = 5.0,
        env: Mapping[str, str] | None = None,
        report: bool = False,
        label: str | None = None,
        on_report: Callable[[str], None] | None = None,
    ) -> CommandOutput:
        wanted = [label] if label else list(argv)
        for command in self._log.get("commands", ()):
            if command["argv"] == wanted:
                problem = command.get("problem")
                return CommandOutput(
                    argv=tuple(argv),
                    returncode=command.get("returncode"),
                    stdout=self.recorded(command["stdout"]).text or "" if command.get("stdout") else "",
                    stderr=command.get("stderr", ""),
                    report=command.get("report", ""),
                    problem=Problem(problem) if problem else None,
                    unkillable=bool(command.get("unkillable")),
                )
        for suffix in (".txt", ".json"):
            text = self.recorded(output_name(argv) + suffix).text
            if text is not None:
                return CommandOutput(tuple(argv), None, stdout=text)
        return CommandOutput(tuple(argv), None, problem=self._missing)

    def which(self, name: str) -> str | None:
        noted = self._log_of("which")
        if name in noted:
            found = noted[name]
            return found if isinstance(found, str) else None
        return self._files.which(name)

    def recorded(self, name: str) -> FileText:
        found = LiveHost(str(self._folder / "outputs"), environ={}).read("/" + name, limit=64 << 20)
        if found.problem is Problem.ABSENT:
            return FileText(name, None, Problem.UNRECORDED)
        return FileText(name, found.text, found.problem, found.truncated)

    def recorded_names(self) -> tuple[str, ...]:
        return LiveHost(str(self._folder / "outputs"), environ={}).list("/").names

    def _log_of(self, key: str) -> dict[str, Any]:
        noted = self._log.get(key)
        return noted if isinstance(noted, dict) else {}

    def _absence(self, path: str) -> Problem:
        """What a file that is not in the recording is: absent if something says so, else not recorded."""
        while path != "/":
            if path in self._devices and self._devices[path] is None:
                return Problem.ABSENT
            path = posixpath.dirname(path)
        return self._missing


def _child(folder: str, path: str) -> str | None:
    """The name in `folder` on the way to `path`, if there is one."""
    prefix = folder.rstrip("/") + "/"
    return path[len(prefix) :].split("/")[0] if path.startswith(prefix) else None


def _load_log(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        log = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageProblem(f"{path} cannot be read: {error}") from error
    if not isinstance(log, dict) or log.get("schema") != SCHEMA:
        raise UsageProblem(f"{path} is not a recording of schema {SCHEMA}")
    return log


def _load_devices(path: Path) -> dict[str, Stat | None]:
    """devices.txt: path -> what is known of the node, None if it is stated to be absent."""
    devices: dict[str, Stat | None] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return devices
    for line in lines:
        state, _, rest = line.partition("\t")
        name, _, details = rest.partition("\t")
        if state == "absent":
            devices[name] = None
        elif state == "present":
            devices[name] = _stat_of_ls(name, details)
    return devices


def _stat_of_ls(path: str, details: str) -> Stat:
    """`crw-rw---- root 109 226,128`: kind and mode as `ls -l` prints them, owner and group (numeric, or root)."""
    words = details.split()
    if not words or len(words[0]) < 10 or words[0][0] not in "cdlb-ps":
        return Stat(path, NodeKind.CHARACTER_DEVICE if path.startswith("/dev/") else NodeKind.FILE)
    mode = sum(1 << (8 - place) for place, letter in enumerate(words[0][1:10]) if letter != "-")
    ids = [0 if word == "root" else int(word) if word.isdecimal() else None for word in words[1:3]]
    uid, gid = [*ids, None, None][:2]
    return Stat(path, _LS_KINDS.get(words[0][0], NodeKind.OTHER), mode, uid, gid)


def _stat_of(path: str, noted: dict[str, Any]) -> Stat:
    if "problem" in noted:
        return Stat(path, problem=Problem(noted["problem"]))
    kind, device = noted.get("kind"), noted.get("device")
    return Stat(
        path,
        NodeKind(kind) if kind else None,
        noted.get("mode"),
        noted.get("uid"),
        noted.get("gid"),
        noted.get("size"),
        tuple(device) if device else None,
    )
