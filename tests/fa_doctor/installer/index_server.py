"""A package index on loopback: PEP 503 and 691, PEP 658 metadata, byte ranges, and faults to order."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from wheels import Wheel

Fault = Callable[[BaseHTTPRequestHandler, bytes], bool]  # true: it has answered


class IndexServer:
    """`offer(index, wheel)` puts a wheel on an index ("default", "whl/rocm6.2.4"); `faults` are tried before each answer.

    Every second project's pages are JSON with metadata, the others HTML without, so that both ways are always used.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.metadata: dict[str, str] = {}
        self.indexes: dict[str, dict[str, list[str]]] = {}
        self.requests: Counter[str] = Counter()
        self.faults: list[tuple[str, Fault]] = []
        self.announced: dict[str, str] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def do_HEAD(self) -> None:
                server.answer(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that was killed closes its connections

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def offer(self, index: str, wheel: Wheel) -> None:
        self.offer_file(index, wheel.name, wheel.filename, wheel.build())
        self.metadata[wheel.filename] = wheel.metadata

    def offer_file(self, index: str, project: str, filename: str, content: bytes) -> None:
        self.files[filename] = content
        names = self.indexes.setdefault(index, {}).setdefault(re.sub(r"[-_.]+", "-", project).lower(), [])
        if filename not in names:
            names.append(filename)

    def hash_of(self, filename: str) -> str:
        return self.announced.get(filename, hashlib.sha256(self.files[filename]).hexdigest())

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(request.path)
        self.requests[path] += 1
        body = self._body(path)
        for pattern, fault in list(self.faults):
            if re.search(pattern, path) and fault(request, body or b""):
                return
        if body is None:
            _send(request, 404, b"")
        elif path.startswith("/files/"):
            _send_range(request, body)
        elif self._as_json(path):
            _send(request, 200, body, "application/vnd.pypi.simple.v1+json")
        else:
            _send(request, 200, body, "text/html; charset=utf-8")

    def _as_json(self, path: str) -> bool:
        return len(path.rstrip("/").rpartition("/")[2]) % 2 == 0

    def _body(self, path: str) -> bytes | None:
        if path.startswith("/files/"):
            name = path.removeprefix("/files/")
            if name.endswith(".metadata"):
                text = self.metadata.get(name.removesuffix(".metadata"))
                return text.encode() if text is not None else None
            return self.files.get(name)
        index, _, project = path.strip("/").rpartition("/")
        names = self.indexes.get(index, {}).get(project)
        if names is None:
            return None
        if self._as_json(path):
            rows = [
                {
                    "filename": name,
                    "url": f"../../files/{name.replace('+', '%2B')}" if index.count("/") == 0 else self._absolute(name),
                    "hashes": {"sha256": self.hash_of(name)},
                    "size": len(self.files[name]),
                    "core-metadata": True,
                }
                for name in names
            ]
            return json.dumps({"meta": {"api-version": "1.0"}, "name": project, "files": rows}).encode()
        anchors = [f'<a href="{self._absolute(name)}#sha256={self.hash_of(name)}">{name}</a><br>' for name in names]
        return f"<!DOCTYPE html><html><body>{''.join(anchors)}</body></html>".encode()

    def _absolute(self, name: str) -> str:
        return f"{self.url}/files/{name.replace('+', '%2B')}"


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, kind: str = "text/plain", **headers: str) -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def _send_range(request: BaseHTTPRequestHandler, body: bytes) -> None:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if not match:
        _send(request, 200, body, "application/octet-stream", Accept_Ranges="bytes")
        return
    first, last = int(match[1]), int(match[2] or len(body) - 1)
    if first >= len(body):
        _send(request, 416, b"", Content_Range=f"bytes */{len(body)}")
        return
    part = body[first : last + 1]
    _send(request, 206, part, Content_Range=f"bytes {first}-{first + len(part) - 1}/{len(body)}")


def status(number: int, times: int = 1_000_000) -> Fault:
    """Answers with a status, this many times."""
    left = [times]

    def fault(request: BaseHTTPRequestHandler, body: bytes) -> bool:
        if left[0] <= 0:
            return False
        left[0] -= 1
        _send(request, number, b"")
        return True

    return fault


def cut(after: int, times: int = 1_000_000) -> Fault:
    """Sends `after` bytes of what was asked for and closes the connection; metadata reads (small ranges) pass."""
    left = [times]

    def fault(request: BaseHTTPRequestHandler, body: bytes) -> bool:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if left[0] <= 0 or (match and match[2]):
            return False
        left[0] -= 1
        first = int(match[1]) if match else 0
        rest = body[first:]
        request.send_response(206 if match else 200)
        if match:
            request.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        request.send_header("Content-Length", str(len(rest)))
        request.end_headers()
        request.wfile.write(rest[:after])
        request.wfile.flush()
        request.close_connection = True
        request.connection.close()
        return True

    return fault


def stall(seconds: float) -> Fault:
    """Waits before it closes the connection without an answer."""

    def fault(request: BaseHTTPRequestHandler, body: bytes) -> bool:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if match and match[2]:
            return False
        time.sleep(seconds)
        request.close_connection = True
        return True

    return fault
