"""The form of a recorded machine on disk, read by RecordedHost and written by RecordingHost.

    sysroot/         files as on the machine, below its "/"
    outputs/         what commands printed, NAME.txt (or .json): see output_name; and what people paste besides
                     (collect_env.txt, uname.txt, lspci-nnk.txt, ...): facts/gpus/recorded_outputs.py reads them
    devices.txt      device nodes by hand: "present|absent <tab> path <tab> details as `ls -l` prints them"
    recording.json   everything else that was asked and answered, if the machine was recorded by fa-doctor:
                     {"schema": "fa-doctor/recording/1", "complete": bool, "environ": {...}|null, "user": {...}|null,
                      "reads": {path: problem}, "listings": {path: [names]|problem}, "stats": {path: {...}},
                      "real_paths": {path: path|null}, "openable": {path: bool|null|"no answer"}, "writable": {path: bool|null},
                      "disks": {path: {...}|null}, "elf": {path: {...}|problem}, "which": {name: path|null},
                      "commands": [{"argv": [...], "returncode", "problem", "unkillable", "stdout": file, "stderr",
                                    "report"}]}

`complete: true` says that what is not recorded is absent; without it, it is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["NO_ANSWER", "SCHEMA", "output_name"]

NO_ANSWER = "no answer"  # an open that did not return
SCHEMA = "fa-doctor/recording/1"


def output_name(argv: Sequence[str]) -> str:
    """The name under outputs/ (without suffix) for a command: `rocm-smi -a` is rocm-smi-a.

    Options lose their dashes; characters that do not belong in a file name become "_".
    """
    words = [argv[0].rsplit("/", 1)[-1], *(word.lstrip("-") for word in argv[1:])]
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", "-".join(word for word in words if word))[:100]
