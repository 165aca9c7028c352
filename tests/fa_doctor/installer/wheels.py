"""Makes real small wheels: right names, tags, metadata and RECORD, with a few lines of Python inside."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import zipfile
from dataclasses import dataclass, field

PYTHON_TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
NATIVE = f"{PYTHON_TAG}-{PYTHON_TAG}-linux_x86_64"


@dataclass(frozen=True)
class Wheel:
    """One wheel: `modules` maps paths to content; `tag` is PYTHON-ABI-PLATFORM."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    modules: dict[str, str | bytes] = field(default_factory=dict, hash=False)
    tag: str = "py3-none-any"
    requires_python: str | None = None
    scripts: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-{self.tag}.whl"

    @property
    def metadata(self) -> str:
        lines = ["Metadata-Version: 2.1", f"Name: {self.name}", f"Version: {self.version}"]
        if self.requires_python:
            lines.append(f"Requires-Python: {self.requires_python}")
        return "\n".join([*lines, *(f"Requires-Dist: {text}" for text in self.requires), ""])

    def build(self) -> bytes:
        info = f"{self.name.replace('-', '_')}-{self.version}.dist-info"
        files = {path: text if isinstance(text, bytes) else text.encode() for path, text in self.modules.items()}
        files[f"{info}/METADATA"] = self.metadata.encode()
        about = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {self.tag}\n"
        files[f"{info}/WHEEL"] = about.encode()
        if self.scripts:
            entries = "".join(f"{name} = {self.name.replace('-', '_')}:main\n" for name in self.scripts)
            files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{entries}".encode()
        record = []
        for path, content in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{path},sha256={digest},{len(content)}")
        files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in files.items():
                archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), content)
        return buffer.getvalue()


def torch(
    version: str, requires: tuple[str, ...], *, hip: str | None, cuda: str | None = None, tag: str = NATIVE
) -> Wheel:
    """A torch that knows its version and what it was built for, and has a command."""
    about = f"__version__ = {version!r}\nhip = {hip!r}\ncuda = {cuda!r}\n"
    body = (
        "from types import SimpleNamespace\n\nfrom . import version\nfrom .version import __version__\n\n"
        "cuda = SimpleNamespace(is_available=lambda: False)\ndevice = str\n\n"
        f"def main():\n    print({version!r})\n"
    )
    modules = {"torch/__init__.py": body, "torch/version.py": about, "torch/lib/libtorch.so": "not a library\n" * 2000}
    needs = ("filelock", "typing-extensions>=4.10.0", *requires)
    return Wheel("torch", version, needs, modules, tag, scripts=("torchrun",))


def triton(name: str, version: str, tag: str = NATIVE) -> Wheel:
    """A distribution that ships triton/."""
    return Wheel(name, version, (), {"triton/__init__.py": f"__version__ = {version.split('+')[0]!r}\n"}, tag)


def plain(name: str, version: str, *requires: str) -> Wheel:
    """A small pure package."""
    module = name.replace("-", "_")
    return Wheel(name, version, requires, {f"{module}.py": f"__version__ = {version!r}\n"})
