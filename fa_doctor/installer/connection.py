"""How servers are reached where pip has been told: its certificates and its proxy hold for requests and uv, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fa_doctor.installer.sources import pip_configuration

__all__ = ["connection_variables"]

_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")  # read by requests and pip; by uv and OpenSSL
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


def connection_variables(pythons: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The variables to add to `environ`, so that every program reaches servers as the pip of `pythons` does.

    A firm's own authority or proxy is most often named in pip's configuration alone. What `environ` sets stays as it is.
    """
    configured = pip_configuration(pythons, environ)
    certificates = environ.get("PIP_CERT") or configured.get("cert")
    certificates = certificates or next((environ[name] for name in _CERTIFICATES if environ.get(name)), None)
    proxy = environ.get("PIP_PROXY") or configured.get("proxy")
    found = {name: certificates for name in _CERTIFICATES if certificates and not environ.get(name)}
    if proxy and not any(environ.get(name) or environ.get(name.lower()) for name in _PROXIES):
        found.update(dict.fromkeys(_PROXIES[:2], proxy))
    return found
