"""What an installed fa-doctor brings along, and that it runs on each Python it promises."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import jsonschema
import pytest
from packaging.requirements import Requirement

from fa_doctor.report import document

ROOT = Path(__file__).resolve().parents[2]
HEAVY = re.compile(r"(?i)^(torch|triton|pytorch|nvidia|amd|rocm|flash|aiter|xformers|cuda|matplotlib|numpy)")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources: setuptools leaves a build folder where it works."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("fa_doctor", "checks", "kernels"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    (made,) = out.glob("*.whl")
    return made


def test_the_wheel_adds_one_name_at_top_level(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"fa_doctor"}
    assert wheel.name.endswith("-py3-none-any.whl")


def test_the_wheel_is_whole(wheel: Path) -> None:
    """Every module and every table of the repository is in it: packages are listed by hand in pyproject.toml."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = set()
    for folder, place in (("fa_doctor", "fa_doctor"), ("checks", "fa_doctor/checks"), ("kernels", "fa_doctor/kernels")):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".toml", ".json", ".typed") and "__pycache__" not in path.parts:
                wanted.add(f"{place}/{path.relative_to(ROOT / folder)}")
    assert wanted - names == set()


def test_installing_it_pulls_neither_torch_nor_triton(wheel: Path) -> None:
    """Followed through the metadata of what is installed here; the test below asks a real resolver."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    waiting, seen = list(metadata.get_all("Requires-Dist", [])), set()
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        assert not HEAVY.match(requirement.name), requirement
        if requirement.name not in seen:
            seen.add(requirement.name)
            waiting += importlib.metadata.requires(requirement.name) or []
    assert {"click", "rich", "packaging", "requests"} <= seen


def uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("uv is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_resolver_agrees(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "wanted.in").write_text(f"fa-doctor @ {wheel.as_uri()}\n")
    done = uv("pip", "compile", "--no-header", "--no-annotate", str(tmp_path / "wanted.in"))
    if done.returncode != 0 and "error sending request" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    names = [line.split()[0].split("==")[0] for line in done.stdout.splitlines() if line and line[0].isalnum()]
    assert "click" in names
    assert not [name for name in names if HEAVY.match(name)]


def pythons() -> list[str]:
    """Interpreters of other versions: those of FA_DOCTOR_TEST_PYTHONS (a path), else pyenv's, else those on PATH."""
    named = os.environ.get("FA_DOCTOR_TEST_PYTHONS", "")
    found = {}
    folders = [*named.split(":"), *map(str, Path.home().glob(".pyenv/versions/3.*/bin")), *os.get_exec_path()]
    for folder in folders:
        for minor in range(10, 15):
            program = Path(folder) / f"python3.{minor}"
            if folder and ".pyenv/shims" not in folder and program.is_file():
                found.setdefault(minor, str(program))
    return list(found.values())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_on_this_python(python: str, wheel: Path, tmp_path: Path) -> None:
    """Installed from the wheel: it compiles, checks quickly, and its tests of checks and reports pass."""
    made = uv("venv", "--python", python, str(tmp_path / "venv"))
    assert made.returncode == 0, made.stderr
    own = str(tmp_path / "venv/bin/python")
    packages = ["pytest", "pytest-timeout", "hypothesis", "jsonschema", "pyelftools"]
    installed = uv("pip", "install", "--python", own, str(wheel), *packages)
    if installed.returncode != 0 and "error sending request" in installed.stderr:
        pytest.skip("no package index can be reached")
    assert installed.returncode == 0, installed.stderr

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([own, *argv], capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path)

    compiled = run(
        "-W",
        "error::SyntaxWarning",
        "-m",
        "compileall",
        "-q",
        "-f",
        str(next(tmp_path.glob("venv/lib/*/site-packages/fa_doctor"))),
    )
    assert compiled.returncode == 0, compiled.stdout
    checked = run(
        "-W",
        "error::DeprecationWarning:fa_doctor",
        "-m",
        "fa_doctor",
        "check",
        "--level",
        "quick",
        "--timeout",
        "30",
        "--format",
        "json",
    )
    assert checked.returncode in (0, 1), checked.stderr
    report = json.loads(checked.stdout)
    jsonschema.validate(report, document.schema())
    assert report["machine"]["faults"] == []
    copy = tmp_path / "repository"  # without the package beside the tests: the installed one is what is tested
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy / "pyproject.toml")
    tested = run(
        "-m", "pytest", "-x", "-q", "--rootdir", str(copy), "-c", str(copy / "pyproject.toml"), "-p", "no:cacheprovider",
        str(copy / "tests/checks"), str(copy / "tests/fa_doctor/report"), str(copy / "tests/fa_doctor/host"),
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout[-3000:] + tested.stderr[-1000:]
