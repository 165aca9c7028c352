"""An index on loopback, an empty stage, and a healthy one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "installer"))  # index_server, wheels

from healthy import mi300x
from index_server import IndexServer
from real_environment import Stage, attention, rocm_torch, rocm_triton, wheels

from fa_doctor.installer.package_tool import find_tool
from fa_doctor.installer.target import inspect_python


@pytest.fixture
def index() -> Iterator[IndexServer]:
    """An index without anything on it yet."""
    server = IndexServer()
    yield server
    server.close()


@pytest.fixture
def stage(tmp_path: Path, index: IndexServer) -> Stage:
    """An empty stage."""
    python = inspect_python(inspect_python(sys.executable).base_executable)
    tool = find_tool(os.environ, python.with_pip)
    made = Stage(tmp_path / "machine", tmp_path / "env", python, tool, index)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").mkdir()
    tools = Path(tool.uv or "").parent
    made.environ = {
        "PATH": f"{made.environment}/bin:{tools}:/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        "USER": "user",
        "TMPDIR": str(tmp_path / "tmp"),
        "VIRTUAL_ENV": str(made.environment),
        "FA_DOCTOR_PYTORCH_INDEX": f"{index.url}/whl",
        "FLASH_ATTENTION_TRITON_AMD_ENABLE": "TRUE",
        "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE": "TRUE",
        "LANG": "C.UTF-8",
    }
    return made


@pytest.fixture
def healthy(stage: Stage) -> Stage:
    """An MI300X, torch and Triton as they should be, in a real environment; the same wheels are on the index."""
    machine = mi300x(1)
    stage.put_machine(machine)
    stage.put_packages(
        rocm_torch(machine), rocm_triton(machine), attention(machine), wheels.plain("setuptools", "80.9.0")
    )
    for wheel in (rocm_torch(machine), rocm_triton(machine)):
        stage.index.offer("whl/rocm6.4", wheel)
    return stage
