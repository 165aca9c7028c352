"""A real virtual environment with small wheels of the real names, beside a staged GPU; and an index on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import wheels
from healthy import mi300x
from index_server import IndexServer
from overlay import OverlayHost
from staged_machine import Staged

from fa_doctor import cli
from fa_doctor.diagnosis.check import all_checks
from fa_doctor.diagnosis.examine import examine
from fa_doctor.diagnosis.model import Finding, Status
from fa_doctor.environment_file import environment_file_of
from fa_doctor.fixing import look
from fa_doctor.fixing.history import History
from fa_doctor.installer.package_tool import PackageTool
from fa_doctor.installer.plan import Paths
from fa_doctor.installer.target import TargetPython
from fa_doctor.level import Level

PROGRAM = Path(__file__).with_name("fix_on_stage.py")
TAG = f"cpython-{sys.version_info[0]}{sys.version_info[1]}"

# A look that is cut short proves nothing, and the machine that tests run on may be a busy one.
ROOM = ("--timeout", "120")


def wheel_of(machine: Staged, name: str, version: str, *folders: str, requires: tuple[str, ...] = ()) -> wheels.Wheel:
    """The staged files of some folders of site-packages as a wheel that can be installed into a real environment."""
    modules = {}
    for path, content in machine.files.items():
        inside = path.removeprefix(f"{machine.site}/")
        if inside != path and inside.partition("/")[0] in folders:
            modules[inside.replace("cpython-312", TAG)] = content
    assert modules, folders
    return wheels.Wheel(name, version, requires, modules, wheels.NATIVE)


@dataclass
class Stage:
    """`environ` is what fa-doctor is started with; `index` offers what fixes install."""

    folder: Path
    environment: Path
    python: TargetPython
    tool: PackageTool
    index: IndexServer
    environ: dict[str, str] = field(default_factory=dict)

    def put_machine(self, machine: Staged) -> None:
        """Stages the GPU, the driver and the system's ROCm of a machine; its variables that concern them are set."""
        machine.open(self.folder)
        for name in ("FLASH_ATTENTION_TRITON_AMD_ENABLE", "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE", "LD_LIBRARY_PATH"):
            if name in machine.environ:
                self.environ[name] = machine.environ[name]

    def put_packages(self, *these: wheels.Wheel) -> None:
        """Makes the environment, and installs wheels in this order, each over those before it."""
        if not self.environment.exists():
            self.tool.make_environment(self.environment, self.python.base_executable)
        store = self.folder.parent / "store"
        store.mkdir(exist_ok=True)
        for wheel in these:
            (store / wheel.filename).write_bytes(wheel.build())
            subprocess.run(
                [self.tool.uv, "pip", "install", "-q", "--python", self.environment / "bin/python", "--no-config",
                 "--offline", "--no-deps", "--no-index", "--link-mode=copy", store / wheel.filename],
                check=True, env={**os.environ, "UV_CACHE_DIR": str(store / "cache")},
            )  # fmt: skip

    def fix(self, *arguments: str) -> int:
        """Runs `fa-doctor fix`, in this process."""
        with (
            mock.patch.dict(os.environ, self.environ, clear=True),
            mock.patch.object(look, "live_host", lambda environ: OverlayHost(self.folder, environ)),
        ):
            return cli.run(["fix", *ROOM, *arguments])

    def start(self, point: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Runs `fa-doctor fix` as a process of its own, which ends or waits at a point (see fix_on_stage.py)."""
        return subprocess.Popen(
            [sys.executable, PROGRAM, self.folder, point, "fix", *ROOM, *arguments],
            env={**self.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **{"stdin": subprocess.DEVNULL, **options},
        )  # fmt: skip

    def findings(self, environ: Mapping[str, str] | None = None) -> list[Finding]:
        """What `check` says of the machine, with these variables (default: those it was started with)."""
        host = OverlayHost(self.folder, dict(self.environ if environ is None else environ))
        return examine(host, all_checks(), Level.QUICK, 60.0)[1]

    def trouble(self, environ: Mapping[str, str] | None = None) -> set[str]:
        """The ids of what fails or warns, as `check` says."""
        return {one.id for one in self.findings(environ) if one.status in (Status.FAIL, Status.WARN)}

    @property
    def kept(self) -> dict[str, str]:
        """The variables of the environment file."""
        file = environment_file_of(str(self.environment), "venv")
        return {name: variable.value for name, variable in file.read().items()}

    @property
    def in_force(self) -> dict[str, str]:
        """The environment of a process that was started with `fa-doctor run`."""
        return {**self.environ, **self.kept}

    @property
    def state(self) -> Path:
        return self.environment.with_name(f".{self.environment.name}.fa-doctor")


TORCH, TRITON = "2.9.1+rocm6.4", "3.5.1"


def rocm_torch(machine: Staged) -> wheels.Wheel:
    """torch of the staged machine."""
    return wheel_of(machine, "torch", TORCH, "torch", requires=(f"pytorch-triton-rocm=={TRITON}",))


def rocm_triton(machine: Staged) -> wheels.Wheel:
    """Its Triton."""
    return wheel_of(machine, "pytorch-triton-rocm", TRITON, "triton")


def attention(machine: Staged) -> wheels.Wheel:
    """The flash_attn that `fa-doctor install` makes."""
    return wheel_of(machine, "flash-attn", "2.8.3+fadoctor.0.1.0", "flash_attn", requires=("torch",))


def states(stage: Stage) -> list[tuple[str, str]]:
    """The journal in short: check and state of each fix."""
    return [(entry.check, entry.state) for entry in History(Paths(stage.environment)).entries()]


def ask_python(stage: Stage, program: str) -> str:
    """What the environment's own Python answers."""
    command = [stage.environment / "bin" / "python", "-I", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def versions(stage: Stage, *names: str) -> list[str | None]:
    """The versions of distributions in the environment."""
    program = (
        "import importlib.metadata as m, json\n"
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    found = json.loads(ask_python(stage, program))
    return [found.get(name) for name in names]


def two_tritons(stage: Stage) -> None:
    """pip wrote another Triton over the one that torch came with."""
    machine = mi300x(1)
    machine_triton = rocm_triton(machine)
    other = wheels.Wheel(
        "triton",
        "3.7.1",
        modules={**machine_triton.modules, "triton/__init__.py": "__version__ = '3.7.1'\n", "triton/new.py": "\n"},
        tag=wheels.NATIVE,
    )
    stage.put_machine(machine)
    stage.put_packages(rocm_torch(machine), machine_triton, attention(machine), wheels.plain("mine", "1.0"), other)
    stage.index.offer("whl/rocm6.4", machine_triton)


def cuda_torch(stage: Stage) -> None:
    """A CUDA torch, as `pip install torch` brings it, beside the bundled kernels."""
    machine = mi300x(1)
    stage.put_machine(machine)
    cuda = wheels.torch("2.9.1", (f"triton=={TRITON}",), hip=None, cuda="12.8")
    stage.put_packages(cuda, wheels.triton("triton", TRITON), attention(machine), wheels.plain("mine", "1.0"))
    for wheel in (rocm_torch(machine), rocm_triton(machine)):
        stage.index.offer("whl/rocm6.4", wheel)
