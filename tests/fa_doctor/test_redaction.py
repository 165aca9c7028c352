"""Secrets that must not leave the machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa_doctor.redaction import Redactor, is_secret_name

REDACTOR = Redactor("/home/alice", "alice", "buildbox7")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("token hf_abcdefghijklmnopqrst in use", "hf_abc"),
        ("ghp_0123456789abcdefghij0123456789abcdef", "ghp_"),
        ("https://bob:hunter22@example.org/simple", "hunter22"),
        ("index-url = https://abcdef0123456789@example.org/simple", "abcdef0123456789"),
        ("Authorization: Bearer abcdefghijkl.mnop", "abcdefghijkl"),
        ("MY_API_KEY=abc123 next", "abc123"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "MIIE"),
        ("AKIAABCDEFGHIJKLMNOP", "AKIA"),
        ("/home/alice/.cache/triton", "alice"),
        ("/home/bob.smith/venv/bin/python", "bob.smith"),
        ("Linux buildbox7 6.8.0", "buildbox7"),
    ],
)
def test_removed(text: str, secret: str) -> None:
    assert secret not in REDACTOR.clean(text)


@pytest.mark.parametrize(
    "text",
    [
        "/opt/rocm/lib/libamdhip64.so.6",
        "torch 2.9.1+rocm6.4",
        "0000:03:00.0 unique_id 0x5a3e0c1d2b4f6a78",
        "HSA_OVERRIDE_GFX_VERSION=10.3.0",
        "https://download.pytorch.org/whl/rocm6.4",
        "/root/.triton/cache",
    ],
)
def test_kept(text: str) -> None:
    assert REDACTOR.clean(text) == text


def test_names_of_secret_variables() -> None:
    assert is_secret_name("HF_TOKEN")
    assert is_secret_name("AWS_SECRET_ACCESS_KEY")
    assert not is_secret_name("HIP_VISIBLE_DEVICES")
    assert not is_secret_name("TRITON_CACHE_DIR")


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300))
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    once = REDACTOR.clean(text)
    assert REDACTOR.clean(once) == once
