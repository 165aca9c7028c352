"""Run as a program: `fa-doctor ARGUMENTS` on a machine whose GPU is staged.

FOLDER POINT ARGUMENTS...: FOLDER is the staged machine. POINT is "never", "journal:N" (the process kills itself right
after the N-th line of the journal of fixes is on the disk), "call:MODULE:NAME" (right after that function has returned),
"two-steps" (on a file system that cannot exchange two folders: after the environment was moved away), or "wait:FILE" (it makes FILE after the first fix was applied, and waits there to be interrupted).
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from overlay import OverlayHost

from fa_doctor import cli
from fa_doctor.fixing import look
from fa_doctor.fixing.look import Looker
from fa_doctor.installer import placing
from fa_doctor.installer.journal import Journal


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: str, point: str, *arguments: str) -> int:
    look.live_host = lambda environ: OverlayHost(Path(folder), environ)  # type: ignore[assignment]
    kind, _, where = point.partition(":")
    if kind == "journal":
        left, write = [int(where)], Journal.write

        def counted(self: Journal, event: str, **data: Any) -> None:
            write(self, event, **data)
            if self.path.name == "fixes.jsonl":
                left[0] -= 1
                if left[0] == 0:
                    die()

        Journal.write = counted  # type: ignore[method-assign]
    if kind == "call":
        module = importlib.import_module(where.partition(":")[0])
        name = where.partition(":")[2]
        function = getattr(module, name)

        def called(*values: Any, **options: Any) -> None:
            function(*values, **options)
            die()

        setattr(module, name, called)
    if kind == "two-steps":
        placing.exchange = lambda first, second: False
        rename = os.rename

        def renamed(first: Any, second: Any) -> None:
            rename(first, second)
            if str(first) == os.environ["VIRTUAL_ENV"]:
                die()

        os.rename = renamed
    if kind == "wait":
        looks, original = [0], Looker.look

        def waiting(self: Looker) -> Any:
            looks[0] += 1
            if looks[0] == 2:
                Path(where).touch()
                time.sleep(60)
            return original(self)

        Looker.look = waiting  # type: ignore[method-assign]
    return cli.run(list(arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
