"""What a Host is: the questions that facts may ask of a machine, and the shapes of the answers.

Every answer tells three things apart that a diagnosis must never mix up: what is there, what is known to be absent,
and what nobody recorded or was allowed to see. Facts turn the last into `None` ("unknown"), never into a failure.
"""

from __future__ import annotations

import posixpath
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from fa_doctor.host.elf import ElfDynamic

__all__ = [
    "COMMAND_OUTPUT_LIMIT",
    "FILE_LIMIT",
    "CommandOutput",
    "Disk",
    "FileBytes",
    "FileText",
    "Host",
    "Listing",
    "NodeKind",
    "Problem",
    "Stat",
    "User",
]

FILE_LIMIT = 1 << 20  # bytes of a text file that are read at most; sysfs and metadata files are far smaller
COMMAND_OUTPUT_LIMIT = 4 << 20  # bytes of a command's output that are kept at most


class Problem(Enum):
    """Why there is no answer."""

    ABSENT = "absent"  # it is known not to be there
    DENIED = "denied"  # it is there, but this user may not see it
    UNRECORDED = "not recorded"  # a recorded machine does not hold it: it may or may not be there
    FAILED = "failed"  # reading gave an error: an I/O error, a loop of links, a folder in place of a file
    TIMED_OUT = "timed out"  # it did not answer within its deadline


class NodeKind(Enum):
    """What kind of file a path names."""

    FILE = "file"
    FOLDER = "folder"
    CHARACTER_DEVICE = "character device"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileText:
    """A text file: `text` (undecodable bytes replaced, cut at the limit), or the problem."""

    path: str
    text: str | None
    problem: Problem | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class FileBytes:
    """A binary file: `data` (cut at the limit), or the problem."""

    path: str
    data: bytes | None
    problem: Problem | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """The sorted names in a folder, or the problem."""

    path: str
    names: tuple[str, ...] = ()
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Stat:
    """A file's kind, owner and mode (permission bits only, as in `0o660`), after following links; or the problem."""

    path: str
    kind: NodeKind | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    device: tuple[int, int] | None = None  # major and minor number of a device node
    problem: Problem | None = None

    @property
    def exists(self) -> bool | None:
        """Whether the file is there; None where that cannot be known.

        A stat is denied where a folder on the way may not be searched: then nothing is known of what lies in it.
        """
        if self.problem is None:
            return True
        return False if self.problem is Problem.ABSENT else None


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system that holds a path: bytes in all and free for this user, type as in /proc/mounts, options."""

    path: str
    total_bytes: int
    free_bytes: int
    filesystem: str | None
    mount_point: str | None
    read_only: bool


@dataclass(frozen=True, slots=True)
class User:
    """Who the diagnosis runs as. `groups` holds the numeric ids in force, the primary one included."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str | None
    home: str | None


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """What a command did: `returncode` (negative: killed by that signal) and output, or why there is none.

    Both `returncode` and `problem` are None where a recording holds the output but not how the command ended.
    After a timeout the whole process group was killed; `unkillable` says that it is still there in spite of that,
    as a process is that waits in the kernel (state D) for a driver that does not answer.
    """

    argv: tuple[str, ...]
    returncode: int | None
    stdout: str = ""
    stderr: str = ""
    problem: Problem | None = None
    truncated: bool = False
    duration_s: float = 0.0
    unkillable: bool = False
    report: str = ""  # what it wrote into its own pipe, see Host.run


class Host(ABC):
    """A machine to look at. Paths are absolute and those of the machine, whatever root they are read from."""

    #: "live", "root" (another root folder of this machine, as a pod that mounts its node) or "recorded"
    kind: str
    #: a line for the report's head: what is being looked at
    description: str
    #: when (time.monotonic seconds) every command must be over, whatever timeout it was given; None: no such limit
    deadline: float | None = None

    @property
    @abstractmethod
    def environ(self) -> Mapping[str, str] | None:
        """The environment variables of the process under diagnosis, or None if they are not known."""

    @property
    @abstractmethod
    def user(self) -> User | None:
        """Who runs, or None if that is not known (a recorded machine, another root)."""

    @abstractmethod
    def read(self, path: str, limit: int = FILE_LIMIT) -> FileText:
        """The text of a file."""

    @abstractmethod
    def read_bytes(self, path: str, limit: int = FILE_LIMIT) -> FileBytes:
        """The bytes of a file, of which `read` would make a text."""

    @abstractmethod
    def list(self, path: str) -> Listing:
        """The names in a folder."""

    @abstractmethod
    def stat(self, path: str) -> Stat:
        """Kind, owner and mode of a file, links followed."""

    @abstractmethod
    def real_path(self, path: str) -> str | None:
        """The path with every link resolved, or None where it does not lead to anything (broken, a loop, unknown)."""

    @abstractmethod
    def can_open(self, path: str, *, write: bool = True) -> bool | None:
        """Whether this user can really open the file (an open is tried); None where that cannot be known."""

    def can_open_all(self, paths: Sequence[str], timeout_s: float = 2.0) -> dict[str, bool | None]:
        """`can_open` of several device nodes, for reading and writing, within one deadline. A node whose open did not
        return is missing from the answer, and so are those behind it: its driver is stuck."""
        return {path: self.can_open(path) for path in paths}

    @abstractmethod
    def can_write_folder(self, path: str) -> bool | None:
        """Whether this user can create a file in the folder, or in its nearest ancestor that exists."""

    @abstractmethod
    def disk(self, path: str) -> Disk | None:
        """The file system that holds the path, or its nearest ancestor that exists."""

    @abstractmethod
    def elf(self, path: str) -> ElfDynamic | Problem:
        """The dynamic section of an ELF file (links followed), or the problem; FAILED if it is not an ELF file."""

    @abstractmethod
    def run(
        self,
        argv: Sequence[str],
        timeout_s: float = 5.0,
        env: Mapping[str, str] | None = None,
        report: bool = False,
        label: str | None = None,
        on_report: Callable[[str], None] | None = None,
    ) -> CommandOutput:
        """Runs a command without a shell, under a deadline, its output limited; `env` is added to the environment.

        `argv[0]` is looked up on the machine's PATH if it has no slash. What hung once is not run again. With `report`
        the command is given a pipe of its own, see command.run_command; `on_report` is called with each line of it as it
        comes. `label` is the name under which a recording keeps it, for a command line that is not the same from run to
        run or from machine to machine.
        """

    @abstractmethod
    def which(self, name: str) -> str | None:
        """Where PATH finds a program, or None if it does not (or that cannot be known)."""

    def recorded(self, name: str) -> FileText:
        """An output kept under `outputs/NAME` of a recorded machine that no command of ours prints (a lstopo.xml, a
        profiler's sysinfo.csv, `rocm-smi-a.txt`); a live host has none."""
        return FileText(name, None, Problem.UNRECORDED)

    def recorded_names(self) -> tuple[str, ...]:
        """The names that `recorded` can be asked for: what lies in `outputs/` of a recorded machine, else none."""
        return ()

    # What follows is derived from the questions above, the same for every kind of host.

    def exists(self, path: str) -> bool | None:
        """Whether the path is there; None where that cannot be known."""
        return self.stat(path).exists

    def read_line(self, path: str) -> str | None:
        """The stripped text of a one-line file (sysfs), or None if there is none for whatever reason."""
        text = self.read(path, limit=4096).text
        return None if text is None else text.strip()

    def join(self, *parts: str) -> str:
        """Joins the parts of a path of the machine."""
        return posixpath.join(*parts)
