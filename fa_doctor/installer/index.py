"""A client of package indexes: the files of a project (PEP 503 and PEP 691), and a file's metadata (PEP 658)."""

from __future__ import annotations

import html.parser
import json
import posixpath
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import requests
from packaging.utils import canonicalize_name
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from fa_doctor import __version__
from fa_doctor.installer.errors import InstallFailed
from fa_doctor.installer.package import RemoteFile, local_path, redacted
from fa_doctor.installer.remote_zip import metadata_of_wheel

__all__ = ["IndexClient", "IndexUnreachable", "new_session", "reason_of"]

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
TIMEOUT_S = (10.0, 30.0)  # to connect, and between two bytes
PAGE_LIMIT = 64 << 20  # bytes of an index page; the largest real ones are below 20 MB


class IndexUnreachable(InstallFailed):
    """An index gave no usable answer."""


def new_session(retries: int = 4) -> requests.Session:
    """A session that retries server errors with back-off and takes proxies and certificates as requests has them."""
    session = requests.Session()
    session.headers["User-Agent"] = f"fa-doctor/{__version__}"
    retry = Retry(
        total=retries,
        backoff_factor=0.25,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=("GET", "HEAD"),
        raise_on_status=False,
    )
    session.mount("https://", HTTPAdapter(max_retries=retry))
    session.mount("http://", HTTPAdapter(max_retries=retry))
    return session


@dataclass
class IndexClient:
    """Reads indexes; an answer is fetched once for the client's lifetime. `offline` refuses every address but files."""

    session: requests.Session = field(default_factory=new_session)
    offline: bool = False
    _pages: dict[str, list[RemoteFile]] = field(default_factory=dict)
    _metadata: dict[str, Message] = field(default_factory=dict)

    def files(self, index: str, name: str) -> list[RemoteFile]:
        """The files of a project on a simple index; empty when the index does not know it."""
        return self._page(f"{index.rstrip('/')}/{canonicalize_name(name)}/")

    def links(self, location: str) -> list[RemoteFile]:
        """The wheels and archives in a folder (path or file URL) or linked from a page (`--find-links`)."""
        folder = local_path(location) or Path(location)
        if "://" not in location or location.startswith("file:"):
            if not folder.is_dir():
                return []
            names = sorted(path.name for path in folder.iterdir() if path.is_file())
            return [
                RemoteFile(name, (folder / name).resolve().as_uri(), size=(folder / name).stat().st_size)
                for name in names
                if name.endswith((".whl", ".tar.gz", ".zip"))
            ]
        return self._page(location)

    def metadata(self, file: RemoteFile) -> Message:
        """The core metadata of a wheel, without fetching the whole of it where the server allows that."""
        if file.url not in self._metadata:
            self._metadata[file.url] = self._read_metadata(file)
        return self._metadata[file.url]

    def _read_metadata(self, file: RemoteFile) -> Message:
        local = local_path(file.url)
        if local is None and file.has_metadata:
            response = self._get(f"{file.url}.metadata")
            if response is not None:
                return HeaderParser().parsestr(response.content.decode("utf-8", "replace"))
        if local is None and self.offline:
            raise IndexUnreachable(f"{redacted(file.url)} may not be read: --offline")
        return HeaderParser().parsestr(metadata_of_wheel(self.session, str(local or file.url), file.filename))

    def _page(self, url: str) -> list[RemoteFile]:
        if url not in self._pages:
            self._pages[url] = self._read_page(url)
        return self._pages[url]

    def _read_page(self, url: str) -> list[RemoteFile]:
        local = local_path(url)
        if local is not None:
            return _read_local_page(local, url)
        response = self._get(url, {"Accept": ACCEPT})
        if response is None:
            return []
        if len(response.content) > PAGE_LIMIT:
            raise IndexUnreachable(f"{redacted(url)} answered with {len(response.content)} bytes: not an index page")
        if "json" in response.headers.get("Content-Type", ""):
            return _files_of_json(response.content, response.url)
        return _files_of_html(response.text, response.url)

    def _get(self, url: str, headers: dict[str, str] | None = None) -> requests.Response | None:
        """The answer, or None for "not there" (404, and 403 as object stores say it)."""
        if self.offline:
            raise IndexUnreachable(f"{redacted(url)} may not be asked: --offline")
        try:
            response = self.session.get(url, headers=headers, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            raise IndexUnreachable(f"{redacted(url)} could not be reached: {reason_of(error)}") from error
        if response.status_code in (403, 404):
            return None
        if not response.ok:
            raise IndexUnreachable(f"{redacted(url)} answered {response.status_code} {response.reason}")
        return response


_UNKNOWN_AUTHORITY = (
    ". Where a proxy signs with an authority of its own, name the file that holds it: `pip config set global.cert FILE`,"
    " or REQUESTS_CA_BUNDLE=FILE"
)


def reason_of(error: Exception) -> str:
    """The innermost cause in a chain of wrapped exceptions: "Connection refused" rather than a pool's repr."""
    seen: Any = error
    while True:
        inner = getattr(seen, "reason", None) or (seen.args[0] if seen.args else None)
        if not isinstance(inner, BaseException):
            said = redacted(str(seen)) or type(seen).__name__
            return f"{said}{_UNKNOWN_AUTHORITY}" if "CERTIFICATE_VERIFY_FAILED" in said else said
        seen = inner


def _read_local_page(folder: Path, url: str) -> list[RemoteFile]:
    page = folder / "index.html"
    if page.is_file():
        return _files_of_html(page.read_text(encoding="utf-8", errors="replace"), url)
    if folder.is_dir():
        return [RemoteFile(path.name, path.resolve().as_uri()) for path in sorted(folder.iterdir()) if path.is_file()]
    return []


def _files_of_json(content: bytes, base: str) -> list[RemoteFile]:
    try:
        page = json.loads(content)
        rows = page["files"]
        return [
            RemoteFile(
                filename=row["filename"],
                url=urljoin(base, row["url"]),
                sha256=row.get("hashes", {}).get("sha256"),
                size=row.get("size"),
                requires_python=row.get("requires-python"),
                yanked=bool(row.get("yanked", False)),
                has_metadata=bool(row.get("core-metadata", row.get("dist-info-metadata", False))),
            )
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndexUnreachable(f"{redacted(base)} answered with JSON that is no index page: {error!r}") from error


def _files_of_html(text: str, base: str) -> list[RemoteFile]:
    parser = _Links()
    parser.feed(text)
    base = urljoin(base, parser.base) if parser.base else base
    files = []
    for attributes in parser.links:
        href = attributes.get("href") or ""
        address, _, fragment = urljoin(base, href).partition("#")
        filename = unquote(posixpath.basename(urlsplit(address).path))
        if not filename.endswith((".whl", ".tar.gz", ".zip")):
            continue
        sha256 = fragment.partition("sha256=")[2].partition("&")[0] or None
        metadata = attributes.get("data-core-metadata", attributes.get("data-dist-info-metadata"))
        files.append(
            RemoteFile(
                filename=filename,
                url=address,
                sha256=sha256,
                requires_python=attributes.get("data-requires-python"),
                yanked="data-yanked" in attributes,
                has_metadata=metadata is not None and metadata != "false",
            )
        )
    return files


class _Links(html.parser.HTMLParser):
    """Collects the anchors of an index page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[dict[str, str | None]] = []
        self.base: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links.append(dict(attrs))
        elif tag == "base" and self.base is None:
            self.base = dict(attrs).get("href")
