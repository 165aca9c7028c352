"""fa-doctor finds its own kernels and programs without importing them, in folders and in a zip file."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fa_doctor.errors import Undecided
from fa_doctor.package_files import package_files

ROOT = Path(__file__).resolve().parents[2]

# As where fa-doctor has an environment of its own, without torch; the names of the files that a child would find.
FINDS = """
import json, sys
sys.modules["torch"] = sys.modules["triton"] = None
from fa_doctor.package_files import on_disk, package_files
found = {}
for package in ("fa_doctor.kernels", "fa_doctor.probe.child", "fa_doctor.installer.flash_attn"):
    with on_disk(package_files(package)) as folder:
        found[package] = sorted(path.name for path in folder.glob("*.py"))
print(json.dumps([found, [name for name in sys.modules if name.startswith("fa_doctor.kernels")], str(folder)]))
"""


def found_by(*path: str) -> tuple[dict[str, list[str]], list[str], str]:
    script = f"import sys; sys.path[:0] = {list(path)!r}\n{FINDS}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found, imported, last = json.loads(done.stdout)
    return found, imported, last


def files_of(folder: str) -> list[str]:
    return sorted(path.name for path in (ROOT / folder).glob("*.py"))


def test_folders_are_found_where_torch_cannot_be_imported() -> None:
    found, imported, _ = found_by()
    assert found == {
        "fa_doctor.kernels": files_of("kernels"),
        "fa_doctor.probe.child": files_of("fa_doctor/probe/child"),
        "fa_doctor.installer.flash_attn": files_of("fa_doctor/installer/flash_attn"),
    }
    assert imported == []


def test_in_a_zip_file_they_are_unpacked_for_as_long_as_they_are_needed(tmp_path: Path) -> None:
    place = tmp_path / "fa-doctor.zip"
    with zipfile.ZipFile(place, "w") as archive:
        for folder, name in (("fa_doctor", "fa_doctor"), ("kernels", "fa_doctor/kernels")):
            for path in (ROOT / folder).rglob("*.py"):
                archive.write(path, f"{name}/{path.relative_to(ROOT / folder)}")
    found, imported, last = found_by(str(place))
    assert found["fa_doctor.kernels"] == files_of("kernels")
    assert found["fa_doctor.probe.child"] == files_of("fa_doctor/probe/child")
    assert imported == []
    assert str(place) not in last
    assert not Path(last).exists()


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(Undecided, match=r"without fa_doctor\.no_such: install it again"):
        package_files("fa_doctor.no_such")
