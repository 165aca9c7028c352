"""Run as a program: carries an install out and kills itself, with no chance to clean up, at a point that is named.

ARGUMENTS: URL of the index, environment, point. A point is "journal:N" (right after the N-th line of the journal is on
the disk), "exchanged" (both environments have changed places, nothing is recorded yet), or "never".
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import conftest

from fa_doctor.installer import placing
from fa_doctor.installer.destination import inspect_python
from fa_doctor.installer.journal import Journal
from fa_doctor.installer.package_tool import find_tool


def main(url: str, environment: str, point: str) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if point.startswith("journal:"):
        last, written, write = int(point.partition(":")[2]), [0], Journal.write

        def counted(self: Journal, event: str, **data: Any) -> None:
            write(self, event, **data)
            written[0] += 1
            if written[0] == last:
                die()

        Journal.write = counted  # type: ignore[method-assign]
    if point == "exchanged":
        exchange = placing.exchange

        def exchanged(first: Path, second: Path) -> bool:
            done = exchange(first, second)
            die()
            return done

        placing.exchange = exchanged
    if point.startswith("two-steps"):
        placing.exchange = lambda first, second: False
        rename = os.rename

        def renamed(first: Any, second: Any) -> None:
            rename(first, second)
            if str(first) == environment and point == "two-steps":
                die()

        os.rename = renamed
    python = inspect_python(inspect_python(sys.executable).base_executable)
    tool = find_tool(os.environ, python.with_pip)
    server: Any = SimpleNamespace(url=url)
    install = conftest.Install(server, python, tool, Path(environment))
    install.transaction().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
