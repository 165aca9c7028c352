"""A verdict that is kept while nothing it rests on changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fa_doctor.entrypoint import witness
from fa_doctor.host import Host
from fa_doctor.user_folders import cache_folder

__all__ = ["KEEP_S", "KeptVerdict", "state_folder"]

SCHEMA = "fa-doctor/verdict/1"
KEEP_S = 24 * 3600  # a bound on the age of a verdict, for what no file shows (hardware that decays)


def state_folder() -> Path:
    """Where verdicts are kept: FA_DOCTOR_STATE_DIR, else the user's cache folder."""
    named = os.environ.get("FA_DOCTOR_STATE_DIR")
    if named:
        return Path(named)
    return cache_folder()


class KeptVerdict:
    """One verdict on disk, for one question: the level, the target Python, the selection of checks."""

    def __init__(self, folder: Path, question: dict[str, Any]) -> None:
        name = hashlib.blake2b(json.dumps(question, sort_keys=True).encode(), digest_size=8).hexdigest()
        self.path = folder / f"verdict-{name}.json"

    def load(self, host: Host) -> tuple[dict[str, Any] | None, str]:
        """The outcome that was kept, or None and the reason why there is none to be used."""
        try:
            with open(self.path, encoding="utf-8") as stream:
                status = os.fstat(stream.fileno())
                if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
                    return None, "the kept verdict could have been written by somebody else"
                kept = json.load(stream)
            if kept["schema"] != SCHEMA:
                return None, "the kept verdict has another form"
            age = time.time() - float(kept["made_at"])
            if not 0 <= age <= KEEP_S:
                return None, "the kept verdict is too old"
            difference = witness.changed(kept["witness"], host)
            outcome = kept["outcome"]
        except FileNotFoundError:
            return None, "no verdict was kept"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            return None, f"the kept verdict is damaged ({type(error).__name__})"
        if difference is not None:
            return None, f"{difference} changed"
        if not isinstance(outcome, dict):
            return None, "the kept verdict is damaged"
        return outcome, ""

    def save(self, asked: Mapping[str, set[str]], host: Host, outcome: dict[str, Any]) -> None:
        """Keeps an outcome with what it rests on. A folder that cannot be written only means that nothing is kept."""
        content = {"schema": SCHEMA, "made_at": time.time(), "witness": witness.take(asked, host), "outcome": outcome}
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8") as stream:
                json.dump(content, stream)
            os.replace(partial, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
