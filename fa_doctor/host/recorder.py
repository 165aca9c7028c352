"""Records a machine: a Host that passes every question on to another one and keeps question and answer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fa_doctor.errors import UsageProblem
from fa_doctor.host.base import FILE_LIMIT, CommandOutput, Disk, FileBytes, FileText, Host, Listing, Problem, Stat, User
from fa_doctor.host.elf import ElfDynamic
from fa_doctor.host.recording import NO_ANSWER, SCHEMA, output_name
from fa_doctor.redaction import is_secret_name

__all__ = ["RecordingHost"]

Answer = TypeVar("Answer")


class _ReadVariables(Mapping[str, str]):
    """An environment that notes which variables were asked for: only these are recorded."""

    def __init__(self, inner: Mapping[str, str]) -> None:
        self._inner = inner
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return self._inner[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._inner)

    def __len__(self) -> int:
        return len(self._inner)

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return name in self._inner


class RecordingHost(Host):
    """Answers as `inner` does, and can write all answers given so far as a recorded machine."""

    def __init__(self, inner: Host) -> None:
        self.inner = inner
        self.kind = inner.kind
        self.description = inner.description
        self._environ = _ReadVariables(inner.environ) if inner.environ is not None else None
        self._reads: dict[str, FileText] = {}
        self._byte_reads: dict[str, FileBytes] = {}
        self._log: dict[str, dict[str, Any]] = {
            name: {} for name in ("listings", "stats", "real_paths", "openable", "writable", "disks", "elf", "which")
        }
        self._commands: dict[tuple[str, ...], CommandOutput] = {}
        self._programs: set[str] = set()

    @property
    def environ(self) -> Mapping[str, str] | None:
        return self._environ

    @property
    def user(self) -> User | None:
        return self.inner.user

    def read(self, path: str, limit: int = FILE_LIMIT) -> FileText:
        found = self.inner.read(path, limit)
        known = self._reads.get(path)
        if known is None or len(found.text or "") > len(known.text or ""):
            self._reads[path] = found
        return found

    def read_bytes(self, path: str, limit: int = FILE_LIMIT) -> FileBytes:
        found = self.inner.read_bytes(path, limit)
        known = self._byte_reads.get(path)
        if known is None or len(found.data or b"") > len(known.data or b""):
            self._byte_reads[path] = found
        return found

    def list(self, path: str) -> Listing:
        found = self.inner.list(path)
        self._log["listings"][path] = found.problem.value if found.problem else list(found.names)
        return found

    def stat(self, path: str) -> Stat:
        found = self.inner.stat(path)
        if found.problem:
            self._log["stats"][path] = {"problem": found.problem.value}
        else:
            noted = dataclasses.asdict(found)
            del noted["path"], noted["problem"]
            noted["kind"] = found.kind.value if found.kind else None
            self._log["stats"][path] = noted
        return found

    def real_path(self, path: str) -> str | None:
        return self._keep("real_paths", path, self.inner.real_path(path))

    def can_open(self, path: str, *, write: bool = True) -> bool | None:
        return self._keep("openable", path, self.inner.can_open(path, write=write))

    def can_open_all(self, paths: Sequence[str], timeout_s: float = 2.0) -> dict[str, bool | None]:
        found = self.inner.can_open_all(paths, timeout_s)
        for path in paths:
            self._log["openable"][path] = found.get(path, NO_ANSWER)
        return found

    def can_write_folder(self, path: str) -> bool | None:
        return self._keep("writable", path, self.inner.can_write_folder(path))

    def disk(self, path: str) -> Disk | None:
        found = self.inner.disk(path)
        self._log["disks"][path] = dataclasses.asdict(found) if found else None
        return found

    def elf(self, path: str) -> ElfDynamic | Problem:
        found = self.inner.elf(path)
        self._log["elf"][path] = found.value if isinstance(found, Problem) else dataclasses.asdict(found)
        return found

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float = 5.0,
        env: Mapping[str, str] | None = None,
        report: bool = False,
        label: str | None = None,
        on_report: Callable[[str], None] | None = None,
    ) -> CommandOutput:
        self.inner.deadline = self.deadline
        found = self.inner.run(argv, timeout_s, env, report, label, on_report)
        self._programs.add(argv[0])
        self._commands[(label,) if label else tuple(argv)] = found
        return found

    def which(self, name: str) -> str | None:
        return self._keep("which", name, self.inner.which(name))

    def _keep(self, table: str, key: str, value: Answer) -> Answer:
        self._log[table][key] = value
        return value

    def questions(self) -> dict[str, set[str]]:
        """Everything that was asked so far, by kind; for commands, the programs."""
        return {
            "reads": set(self._reads),
            **{kind: set(answers) for kind, answers in self._log.items()},
            "programs": set(self._programs),
            "variables": set(self._environ.read) if self._environ is not None else set(),
        }

    def write(self, folder: Path, clean: Callable[[str], str] = str) -> None:
        """Writes what was asked and answered as a recorded machine; `clean` removes secrets from every text.

        The folder must not exist yet, or be empty: nothing of the user's is overwritten.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise UsageProblem(f"{folder} is not empty; name a folder that does not exist yet")
            self._write_files(folder, clean)
        except OSError as error:
            raise UsageProblem(f"{folder} cannot be written: {error.strerror or error}") from error

    def _write_files(self, folder: Path, clean: Callable[[str], str]) -> None:
        problems: dict[str, str] = {}
        for path, found in self._reads.items():
            if found.text is None:
                problems[path] = (found.problem or Problem.FAILED).value
                continue
            target = folder / "sysroot" / clean(path).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(clean(found.text), encoding="utf-8")
        for path, binary in self._byte_reads.items():
            # Secrets are text; a binary file that holds one is left out, since a changed one would not be the same.
            if binary.data is None or clean(text := binary.data.decode("latin-1")) != text:
                problems[path] = (binary.problem or Problem.UNRECORDED).value
                continue
            target = folder / "sysroot" / clean(path).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(binary.data)
        commands: list[dict[str, Any]] = []
        for argv, output in self._commands.items():
            entry: dict[str, Any] = {"argv": list(argv), "returncode": output.returncode}
            if output.problem:
                entry["problem"] = output.problem.value
            if output.unkillable:
                entry["unkillable"] = True
            if output.report:
                entry["report"] = output.report
            if output.stderr:
                entry["stderr"] = output.stderr
            if output.stdout:
                name = f"{output_name(argv)}.txt"
                if any(other.get("stdout") == name for other in commands):
                    name = f"{len(commands)}-{name}"
                entry["stdout"] = name
                target = folder / "outputs" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(clean(output.stdout), encoding="utf-8")
            commands.append(entry)
        user = self.user
        log = {
            "schema": SCHEMA,
            "complete": False,
            "environ": self._variables(),
            "user": dataclasses.asdict(user) if user else None,
            "reads": problems,
            **self._log,
            "commands": commands,
        }
        text = json.dumps(_clean_tree(log, clean), indent=1, sort_keys=True, ensure_ascii=False)
        (folder / "recording.json").write_text(text + "\n", encoding="utf-8")

    def _variables(self) -> dict[str, str] | None:
        if self._environ is None:
            return None
        names = sorted(name for name in self._environ.read if name in self._environ)
        return {name: "REMOVED" if is_secret_name(name) else self._environ[name] for name in names}


def _clean_tree(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): _clean_tree(inner, clean) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_tree(inner, clean) for inner in value]
    return value
