"""The only place that touches the outside: files, folders, the environment, commands with a deadline."""

from fa_doctor.host.base import (
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
from fa_doctor.host.recorded import RecordedHost, is_recording, open_recording

__all__ = [
    "CommandOutput",
    "Disk",
    "ElfDynamic",
    "FileBytes",
    "FileText",
    "Host",
    "Listing",
    "LiveHost",
    "NodeKind",
    "Problem",
    "RecordedHost",
    "Stat",
    "User",
    "is_recording",
    "open_recording",
]
