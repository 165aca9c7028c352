"""Staged machines: a folder in the layout of a recorded machine, built by a test, on which nothing else is there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fa_doctor.host import RecordedHost

USER = {"uid": 1000, "gid": 1000, "groups": [44, 109, 1000], "name": "user", "home": "/home/user"}


def stage(
    folder: Path,
    files: dict[str, str | bytes] | None = None,
    devices: str = "",
    environ: dict[str, str] | None = None,
    commands: dict[tuple[str, ...], str] | None = None,
    links: dict[str, str] | None = None,
    **recording: Any,
) -> RecordedHost:
    """Writes a staged machine and opens it. What is not given is absent (`complete`).

    `files` maps paths of the machine to contents; `devices` is the text of devices.txt; `commands` maps an argv to its
    standard output (exit status 0); `links` maps paths to the targets of symbolic links; `recording` overrides entries of recording.json (user, stats, which, disks, ...).
    """
    made: set[str] = set()
    for path, content in (files or {}).items():
        target = os.path.join(folder, "sysroot", path.lstrip("/"))
        parent = os.path.dirname(target)
        if parent not in made:  # a machine has hundreds of files in few folders
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        with open(target, "wb") as stream:
            stream.write(content if isinstance(content, bytes) else content.encode())
    for path, target in (links or {}).items():
        link = folder / "sysroot" / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    (folder / "outputs").mkdir(parents=True, exist_ok=True)
    (folder / "devices.txt").write_text(devices)
    entries = []
    for number, (argv, stdout) in enumerate((commands or {}).items()):
        name = f"{number}.txt"
        (folder / "outputs" / name).write_text(stdout)
        entries.append({"argv": list(argv), "returncode": 0, "stdout": name})
    log: dict[str, Any] = {
        "schema": "fa-doctor/recording/1",
        "complete": True,
        "environ": environ or {},
        "user": USER,
        "commands": entries,
        **recording,
    }
    (folder / "recording.json").write_text(json.dumps(log))
    return RecordedHost(folder)
