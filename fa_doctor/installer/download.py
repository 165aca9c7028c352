"""Fetches files: with progress, resumed after a cut, retried with back-off, and never kept unless the hash is right."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests

from fa_doctor.installer.errors import InstallFailed
from fa_doctor.installer.index import reason_of
from fa_doctor.installer.package import RemoteFile, local_path, redacted
from fa_doctor.installer.tree import link_or_copy

__all__ = ["Downloader", "sha256_of"]

CHUNK = 1 << 20
TIMEOUT_S = (10.0, 30.0)  # to connect, and between two reads: a stalled connection counts as cut
ATTEMPTS_WITHOUT_PROGRESS = 5


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


@dataclass
class Downloader:
    """Fetches into one folder. A file is complete when it stands there under its own name; before that it is a .part.

    `progress(filename, done, total)` is called as bytes arrive; total is None where the server does not tell.
    `pause(seconds)` waits between attempts.
    """

    folder: Path
    session: requests.Session
    progress: Callable[[str, int, int | None], None] = lambda name, done, total: None
    pause: Callable[[float], None] = time.sleep

    def fetch(self, file: RemoteFile) -> Path:
        """The complete and verified file. Raises InstallFailed when it cannot be had, or is not what the index says."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InstallFailed(f"the folder {self.folder} cannot be made: {error.strerror}") from error
        final = self.folder / os.path.basename(file.filename)
        if final.exists():
            if file.sha256 is None or sha256_of(final) == file.sha256:
                return final
            final.unlink()
        part = final.with_name(f"{final.name}.part")
        try:
            here = local_path(file.url)
            if here is not None:
                part.unlink(missing_ok=True)
                link_or_copy(here.resolve(), part)
            else:
                self._fetch_remote(file, part)
            self._verify(file, part)
            _flush(part)
            os.replace(part, final)
        except OSError as error:
            if isinstance(error, requests.RequestException):
                raise
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InstallFailed(f"the disk that holds {self.folder} is full ({file.filename})") from error
            raise InstallFailed(f"{file.filename} could not be written: {error}") from error
        return final

    def _fetch_remote(self, file: RemoteFile, part: Path) -> None:
        """Fetches into `part`, again and again from where it was cut, until a row of attempts brings nothing."""
        fruitless = 0
        reason = "no attempt was made"
        while fruitless < ATTEMPTS_WITHOUT_PROGRESS:
            before = part.stat().st_size if part.exists() else 0
            try:
                if self._attempt(file, part):
                    return
                reason = "the connection was cut"
            except _Retry as error:
                reason = str(error)
            except requests.RequestException as error:
                reason = reason_of(error)
            gained = part.stat().st_size - before if part.exists() else 0
            fruitless = 0 if gained > 0 else fruitless + 1
            if fruitless < ATTEMPTS_WITHOUT_PROGRESS:
                self.pause(min(0.5 * 2**fruitless, 15.0))
        raise InstallFailed(f"{redacted(file.url)} could not be fetched: {reason}")

    def _attempt(self, file: RemoteFile, part: Path) -> bool:
        """One request for what is missing. True when the file is complete."""
        have = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with self.session.get(file.url, headers=headers, timeout=TIMEOUT_S, stream=True) as response:
            if response.status_code == 416:  # nothing is missing, or what is there is not of this file
                if file.size == have:
                    return True
                part.unlink(missing_ok=True)
                raise _Retry("the server refused the rest of the file")
            if response.status_code >= 500 or response.status_code == 429:
                raise _Retry(f"the server answered {response.status_code}")
            if not response.ok:
                raise InstallFailed(f"{redacted(file.url)} answered {response.status_code} {response.reason}")
            resumed = response.status_code == 206
            done = have if resumed else 0
            total = _total(response, done) or file.size
            with part.open("ab" if resumed else "wb") as out:
                for block in response.iter_content(CHUNK):
                    out.write(block)
                    done += len(block)
                    self.progress(file.filename, done, total)
        return total is None or done >= total

    def _verify(self, file: RemoteFile, part: Path) -> None:
        if file.sha256 is None:
            return
        actual = sha256_of(part)
        if actual != file.sha256:
            part.unlink()
            raise InstallFailed(
                f"{file.filename} is not the file that the index describes: its SHA-256 is {actual}, "
                f"announced is {file.sha256}. It was thrown away. A proxy or mirror may have changed it."
            )


class _Retry(Exception):
    """This attempt failed in a way that another one may not."""


def _total(response: requests.Response, done: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return done + int(length) if length.isdigit() else None


def _flush(path: Path) -> None:
    with path.open("rb") as file:  # the file may be a link to one that this user cannot write
        os.fsync(file.fileno())
