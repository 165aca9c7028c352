"""An index behind an authority of its own, which only pip's configuration names."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trustme
from index_server import IndexServer
from wheels import plain

from fa_doctor.installer.connection import connection_variables
from fa_doctor.installer.index import IndexClient, IndexUnreachable, new_session

PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy")
AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "PIP_CERT", "PIP_PROXY", "PIP_CONFIG_FILE")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def index(authority: trustme.CA) -> Iterator[IndexServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = IndexServer(context)
    server.offer("default", plain("mine", "1.0"))
    yield server
    server.close()


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """An environment in which nothing but pip.conf says how servers are reached."""
    for name in (*PROXIES, *AUTHORITIES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    return os.environ


def read(index: IndexServer) -> list[str]:
    return [file.filename for file in IndexClient(new_session(retries=0)).files(f"{index.url}/default", "mine")]


def test_an_authority_that_pip_knows(
    authority: trustme.CA,
    index: IndexServer,
    environ: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(IndexUnreachable, match=r"pip config set global\.cert FILE"):
        read(index)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    (tmp_path / "pip.conf").write_text(f"[global]\ncert = {tmp_path / 'authority.pem'}\n")
    found = connection_variables([sys.executable], environ)
    assert set(found) == {"REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    assert read(index) == ["mine-1.0-py3-none-any.whl"]


def test_what_the_environment_sets_stays(environ: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("[global]\ncert = /a.pem\nproxy = http://proxy:3128\n")
    both = {"SSL_CERT_FILE": "/a.pem", "HTTPS_PROXY": "http://proxy:3128", "HTTP_PROXY": "http://proxy:3128"}
    assert connection_variables([sys.executable], {**environ, "REQUESTS_CA_BUNDLE": "/b.pem"}) == both
    mine = {"REQUESTS_CA_BUNDLE": "/a.pem", "SSL_CERT_FILE": "/a.pem"}
    assert connection_variables([sys.executable], {**environ, "https_proxy": "http://mine:1"}) == mine


def test_nothing_is_said_where_pip_says_nothing(environ: Mapping[str, str]) -> None:
    assert connection_variables([sys.executable], {**environ, "PIP_CONFIG_FILE": os.devnull}) == {}
