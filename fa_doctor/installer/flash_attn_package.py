"""Builds the bundled kernels as a wheel named flash-attn: what programs written for flash-attn import.

The wheel is made from files of fa-doctor alone, without a network and without a build tool, and the same files give
the same bytes: entries in sorted order, a fixed time, one compression.
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import zipfile
from dataclasses import dataclass

from fa_doctor.installer.errors import InstallFailed
from fa_doctor.package_files import package_files

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable
else:
    from importlib.abc import Traversable

__all__ = ["DISTRIBUTION", "VERSION", "KernelWheel", "build_wheel"]

DISTRIBUTION = "flash-attn"
# The interface of flash-attn 2.8.3, in this revision of ours.
VERSION = "2.8.3+fadoctor.1"
TAG = "py3-none-any"
KINDS = (".py", ".json", ".toml")
TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can state


METADATA = f"""Metadata-Version: 2.1
Name: {DISTRIBUTION.replace("-", "_")}
Version: {VERSION}
Summary: The attention kernels of fa-doctor under the names of flash-attn 2.8
License: MIT
Requires-Python: >=3.10
Requires-Dist: torch>=2.4
"""

WHEEL = f"""Wheel-Version: 1.0
Generator: fa-doctor
Root-Is-Purelib: true
Tag: {TAG}
"""


@dataclass(frozen=True, slots=True)
class KernelWheel:
    """A built wheel: its file name, its content, and the SHA-256 of that."""

    filename: str
    version: str
    content: bytes
    sha256: str


def build_wheel() -> KernelWheel:
    """The wheel of the kernels that this fa-doctor carries. Raises InstallFailed or Undecided when fa-doctor lacks them."""
    entries = {
        **_python_files(package_files("fa_doctor.installer.flash_attn"), "flash_attn"),
        **_python_files(package_files("fa_doctor.kernels"), "flash_attn/kernels"),
    }
    info = f"{DISTRIBUTION.replace('-', '_')}-{VERSION}.dist-info"
    entries[f"{info}/METADATA"] = METADATA.encode()
    entries[f"{info}/WHEEL"] = WHEEL.encode()
    entries[f"{info}/top_level.txt"] = b"flash_attn\n"
    record = f"{info}/RECORD"
    entries[record] = _record(entries, record).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(entries, key=lambda name: (name == record, name)):
            entry = zipfile.ZipInfo(name, TIME)
            entry.compress_type = zipfile.ZIP_STORED  # compressors differ from one zlib to the next
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, entries[name])
    content = buffer.getvalue()
    filename = f"{DISTRIBUTION.replace('-', '_')}-{VERSION}-{TAG}.whl"
    return KernelWheel(filename, VERSION, content, hashlib.sha256(content).hexdigest())


def _python_files(folder: Traversable, prefix: str) -> dict[str, bytes]:
    """The modules and data files below a folder, by their path in the wheel."""
    found = _files_below(folder, prefix)
    if not found:
        raise InstallFailed(f"{folder} holds no modules: this installation of fa-doctor is damaged, install it again")
    return found


def _files_below(folder: Traversable, prefix: str) -> dict[str, bytes]:
    """As `_python_files`, for a folder that may be empty."""
    found: dict[str, bytes] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found |= _files_below(entry, f"{prefix}/{entry.name}") if entry.name != "__pycache__" else {}
        elif entry.name.endswith(KINDS):
            found[f"{prefix}/{entry.name}"] = entry.read_bytes()
    return found


def _record(entries: dict[str, bytes], record: str) -> str:
    lines = []
    for name in sorted(entries):
        digest = base64.urlsafe_b64encode(hashlib.sha256(entries[name]).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(entries[name])}")
    return "\n".join([*lines, f"{record},,", ""])
