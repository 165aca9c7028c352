"""What real installers leave behind is read as it is: two wheels that write one folder, one removed, one in place."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from fa_doctor.facts import packages, python
from fa_doctor.host import LiveHost

UV = shutil.which("uv", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin") or shutil.which("uv")


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A pure wheel (PEP 427) with the files given."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    content[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*content, f"{info}/RECORD"))
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name_inside, text in content.items():
            archive.writestr(name_inside, text)
    return path


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    if UV is None:
        pytest.skip("uv, a test dependency, is not installed")
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    return tmp_path / "env"


def uv_pip(environment: Path, *words: str) -> None:
    assert UV is not None
    verb, *rest = words
    command = [UV, "pip", verb, "--python", str(environment / "bin" / "python"), "--offline", *rest]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def read(environment: Path) -> packages.Packages:
    host = LiveHost()
    return packages.gather(host, python.gather(host, str(environment / "bin" / "python")))


def test_two_wheels_in_one_folder_and_what_removing_one_leaves(environment: Path, tmp_path: Path) -> None:
    first = wheel(
        tmp_path,
        "pytorch-triton-rocm",
        "3.5.1",
        {"triton/__init__.py": "__version__ = '3.5.1'\n", "triton/amd_only.py": ""},
    )
    second = wheel(tmp_path, "triton", "3.6.0", {"triton/__init__.py": "__version__ = '3.6.0'\n"})
    uv_pip(environment, "install", "--no-deps", "--no-index", str(first))
    uv_pip(environment, "install", "--no-deps", "--no-index", str(second))
    both = read(environment).triton
    assert both is not None
    assert sorted(owner.name for owner in both.owners) == ["pytorch-triton-rocm", "triton"]
    assert both.version == "3.6.0"
    uv_pip(environment, "uninstall", "triton")
    broken = read(environment).triton
    assert broken is not None
    assert [owner.name for owner in broken.owners] == ["pytorch-triton-rocm"]
    assert broken.version is None  # the file that says it went with the other distribution


def test_an_installation_in_place_by_a_real_tool(environment: Path, tmp_path: Path) -> None:
    tree = tmp_path / "source tree"
    (tree / "flash_attn").mkdir(parents=True)
    (tree / "flash_attn/__init__.py").write_text('__version__ = "2.8.3"\n')
    (tree / "flash_attn/flash_attn_interface.py").write_text(
        'os.getenv("FLASH_ATTENTION_TRITON_AMD_ENABLE") == "TRUE"\n'
    )
    (tree / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "flash-attn"\nversion = "2.8.3"\n[tool.setuptools]\npackages = ["flash_attn"]\n'
    )
    site = next((tmp_path / "env").glob("lib/python3*/site-packages"))
    (site / "builders.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    uv_pip(environment, "install", "--no-deps", "--no-build-isolation", "--editable", str(tree))
    found = read(environment).flash_attention
    assert found is not None
    assert found.folder == str(tree / "flash_attn")
    assert (found.version, found.kind, found.needs_flag) == ("2.8.3", "triton", True)
