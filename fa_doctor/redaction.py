"""Removes secrets from texts that leave the machine: tokens, keys, URLs with credentials, home folders, host names.

The shapes of tokens are those that their issuers document (GitHub's gh?_ and github_pat_, Hugging Face's hf_, AWS
access keys, Slack's xox?-, OpenAI-style sk-, JSON web tokens, PEM private keys).
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass

__all__ = ["Redactor", "is_secret_name"]

_REMOVED = "REMOVED"
_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|AUTH|COOKIE|SESSION|SIGNATURE|_KEY$|_PAT$",
    re.IGNORECASE,
)
_PATTERNS = [
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), _REMOVED),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|hf_|xox[abprs]-|sk-|glpat-|npm_)[A-Za-z0-9_-]{16,}"), _REMOVED),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), _REMOVED),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), _REMOVED),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_.=-]{12,}"), r"\1 " + _REMOVED),
    (re.compile(r"([a-z][a-z0-9+.-]*://)[^\s/@:]*:[^\s/@]*@", re.IGNORECASE), r"\1" + _REMOVED + "@"),
    (re.compile(r"([a-z][a-z0-9+.-]*://)[^\s/@]{8,}@", re.IGNORECASE), r"\1" + _REMOVED + "@"),
    (
        re.compile(
            r"(?i)\b([A-Z0-9_]*(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)[A-Z0-9_]*)(\s*[=:]\s*)"
            r"(\"[^\"]*\"|'[^']*'|[^\s,;&]+)"
        ),
        r"\1\2" + _REMOVED,
    ),
]


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name is likely to hold a secret."""
    return _SECRET_NAME.search(name) is not None


@dataclass(frozen=True)
class Redactor:
    """Knows what names this user and this machine. Names too short or too common to be told from words are kept."""

    home: str | None = None
    user: str | None = None
    hostname: str | None = None

    @classmethod
    def of_this_process(cls) -> Redactor:
        """A redactor for the user and the machine that run now."""
        home = os.environ.get("HOME")
        try:
            hostname: str | None = socket.gethostname()
        except OSError:
            hostname = None
        return cls(home, os.environ.get("USER") or os.environ.get("LOGNAME"), hostname)

    def clean(self, text: str) -> str:
        """The text with secrets removed; cleaning twice changes nothing more."""
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        home = (self.home or "").rstrip("/")
        if home.count("/") >= 2:  # "/root" and "/" name nobody
            text = re.sub(re.escape(home) + r"(?=/|\b|$)", "/home/user", text)
        # Other people's homes appear in paths too; what follows the name stays, so that paths still agree.
        text = re.sub(r"(?<![\w.-])/home/(?!user\b)[A-Za-z0-9._-]+", "/home/user", text)
        for name, stand_in in ((self.user, "user"), (self.hostname, "host")):
            if name and len(name) >= 4 and name not in ("root", "user", "host", "localhost", "ubuntu", "debian"):
                text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", stand_in, text)
        return text
