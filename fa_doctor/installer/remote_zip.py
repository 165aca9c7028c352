"""The METADATA of a wheel that lies on a server, read by HTTP ranges: a torch wheel has gigabytes, this some kilobytes.

Where the server ignores ranges, the answer says so before its body is read, and nothing more is fetched.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import requests

from fa_doctor.installer.errors import InstallFailed

__all__ = ["metadata_of_wheel"]

CHUNK = 64 << 10
TIMEOUT_S = (10.0, 30.0)


def metadata_of_wheel(session: requests.Session, source: str, filename: str) -> str:
    """The METADATA text of a wheel at a URL or a local path. Raises InstallFailed when it cannot be read."""
    try:
        with (
            _Ranged(session, source) if "://" in source else Path(source).open("rb") as file,
            zipfile.ZipFile(file) as archive,
        ):
            names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            if len(names) != 1:
                raise InstallFailed(f"{filename} is not a wheel: it has {len(names)} METADATA files")
            return archive.read(names[0]).decode("utf-8", "replace")
    # zipfile raises NotImplementedError for a compression that it does not know.
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise InstallFailed(f"the metadata of {filename} cannot be read: {error}") from error


class _Ranged(io.RawIOBase):
    """A file on a server that zipfile can seek in; parts are fetched when they are read, and kept."""

    def __init__(self, session: requests.Session, url: str) -> None:
        self._session, self._url, self._at = session, url, 0
        self._parts: dict[int, bytes] = {}
        response = self._request("bytes=0-0")
        match = re.fullmatch(r"bytes 0-0/(\d+)", response.headers.get("Content-Range", ""))
        response.close()
        if response.status_code >= 400:
            raise OSError(f"the server answered {response.status_code}")
        if response.status_code != 206 or not match:
            raise OSError("the server does not serve parts of a file and states no metadata")
        self._size = int(match[1])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        wanted = bytearray()
        while self._at < end:
            index, start = divmod(self._at, CHUNK)
            part = self._part(index)[start : start + end - self._at]
            if not part:
                raise OSError("the server sent less than it announced")
            wanted += part
            self._at += len(part)
        return bytes(wanted)

    def _part(self, index: int) -> bytes:
        if index not in self._parts:
            first = index * CHUNK
            response = self._request(f"bytes={first}-{min(first + CHUNK, self._size) - 1}")
            if response.status_code != 206:
                raise OSError(f"the server answered {response.status_code} to a range")
            self._parts[index] = response.content
        return self._parts[index]

    def _request(self, byte_range: str) -> requests.Response:
        try:
            return self._session.get(
                self._url, headers={"Range": byte_range, "Accept-Encoding": "identity"}, timeout=TIMEOUT_S, stream=True
            )
        except requests.RequestException as error:
            raise OSError(f"no answer: {type(error).__name__}") from error
