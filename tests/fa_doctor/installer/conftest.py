"""An index with every recommended stack, an environment to install into, and what an install needs besides."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import wheels
from index_server import IndexServer

from fa_doctor.installer.children import clean_environment, run_child
from fa_doctor.installer.choose import choose
from fa_doctor.installer.destination import Destination, existing
from fa_doctor.installer.index import IndexClient, new_session
from fa_doctor.installer.package_tool import PackageTool, find_tool
from fa_doctor.installer.plan import Plan
from fa_doctor.installer.planner import plan_from_choice
from fa_doctor.installer.situation import Situation, from_targets
from fa_doctor.installer.sources import Sources, index_of_stack
from fa_doctor.installer.target import TargetPython, inspect_python
from fa_doctor.installer.transaction import Transaction
from fa_doctor.installer.tree import manifest
from fa_doctor.installer.verify import Verdict
from fa_doctor.knowledge.stacks import stacks

CUDA = wheels.torch("2.99.0", ("nvidia-cublas-cu12", "triton==9.9.0"), hip=None, cuda="12.8")


def fill(server: IndexServer) -> None:
    """Offers every stack on its own index, the plain packages on the default one, and a CUDA torch there as a trap."""
    for stack in stacks().values():
        if stack.cpu:
            continue
        index = f"whl/{stack.local}" if stack.index == "pytorch" else "amd"
        if stack.index == "pytorch":
            wants: tuple[str, ...] = (f"{stack.triton}=={stack.triton_version} ; platform_system == 'Linux'",)
            server.offer(index, wheels.triton(stack.triton, stack.triton_version))
        else:
            version = f"{stack.triton_version}+{stack.local}"
            devices = tuple(
                f"amd-torch-device-{gfx}=={stack.torch_pin} ; extra == 'device-{gfx}'" for gfx in stack.archs
            )
            wants = (f"triton=={version}", *devices)
            server.offer(index, wheels.triton("triton", version))
            for gfx in stack.archs:
                server.offer(index, wheels.plain(f"amd-torch-device-{gfx}", stack.torch_pin))
        server.offer(index, wheels.torch(stack.torch_pin, wants, hip=stack.rocm))
        for name, version in (("torchvision", stack.torchvision), ("torchaudio", stack.torchaudio)):
            if version:
                full = version if "+" in version else f"{version}+{stack.local}"
                server.offer(
                    index, wheels.Wheel(name, full, (f"torch=={stack.torch_pin}",), {f"{name}.py": "\n"}, wheels.NATIVE)
                )
    for wheel in (
        wheels.plain("filelock", "3.20.0"),
        wheels.plain("typing-extensions", "4.15.0"),
        wheels.plain("einops", "0.8.1"),
        wheels.plain("numpy", "2.3.0"),
        wheels.plain("nvidia-cublas-cu12", "12.8.4"),
        wheels.triton("triton", "9.9.0"),
        CUDA,
        wheels.torch("2.6.0", ("triton==3.2.0",), hip=None, cuda="12.4"),
        wheels.triton("triton", "3.2.0"),
        wheels.plain("pytorch-triton-rocm", "99.0"),
        wheels.plain("triton-rocm", "99.0"),
    ):
        server.offer("default", wheel)


@pytest.fixture
def server() -> Iterator[IndexServer]:
    """The index, filled."""
    index = IndexServer()
    fill(index)
    yield index
    index.close()


@pytest.fixture(scope="session")
def base() -> TargetPython:
    """The Python that environments are made from."""
    python = inspect_python(sys.executable)
    return inspect_python(python.base_executable)


@pytest.fixture(scope="session")
def tool(base: TargetPython) -> PackageTool:
    """uv: the other one, pip, has tests of its own."""
    return find_tool(os.environ, base.with_pip)


def quick_verify(plan: Plan, python: Path, environ: object) -> Verdict:
    """As the real one, for wheels that cannot compute: imports torch and Triton and compares what they say."""
    program = (
        "import torch, triton, importlib.metadata as m\n"
        "print(torch.__version__, torch.version.hip, torch.version.cuda, triton.__version__)\n"
    )
    if plan.kernels:
        program += "print(len(m.files('flash-attn')))\n"
    outcome = run_child([python, "-I", "-c", program], environ=clean_environment(os.environ), deadline_s=30)
    if outcome.returncode != 0:
        return Verdict(False, problem=outcome.output.strip()[-300:])
    said = outcome.output.split()
    if said[0] != plan.torch or said[1] != (plan.hip or "None") or said[2] != "None":
        return Verdict(False, problem=f"torch says {said}")
    return Verdict(True, (" ".join(said),))


@dataclass
class Install:
    """One install against the index, step by step: choose, plan, carry out."""

    server: IndexServer
    base: TargetPython
    tool: PackageTool
    environment: Path
    situation: Situation = field(default_factory=lambda: from_targets(("gfx942",)))
    stack: str = "auto"
    attention: str | None = None
    replace: bool = False
    everything: bool = False
    retries: int = 1

    def plan(self) -> Plan:
        destination = existing(self.environment) or Destination(self.environment, False, self.base, {})
        choice = choose(self.stack, self.situation, [destination.python.minor])
        return plan_from_choice(
            choice,
            destination,
            attention=self.attention,
            replace=self.replace,
            sources=Sources(f"{self.server.url}/default"),
            stack_index=index_of_stack(choice.stack, f"{self.server.url}/whl", f"{self.server.url}/amd"),
            client=IndexClient(new_session(retries=self.retries)),
            everything=self.everything,
        )

    def transaction(self, **options: object) -> Transaction:
        return Transaction(
            **{
                "plan": self.plan(),
                "tool": self.tool,
                "environ": os.environ,
                "session": new_session(retries=self.retries),
                "verifier": quick_verify,
                "compiler": lambda *arguments: (),
                **options,
            }
        )  # type: ignore[arg-type]


@pytest.fixture
def install(server: IndexServer, base: TargetPython, tool: PackageTool, tmp_path: Path) -> Install:
    """An install into an environment that is not there yet."""
    return Install(server, base, tool, tmp_path / "env")


def make_old_environment(folder: Path, base: TargetPython, tool: PackageTool, scratch: Path) -> None:
    """An environment as people have them: a CUDA torch with its Triton, nvidia libraries, and a package of their own."""
    store = scratch / "old-wheels"
    store.mkdir(parents=True, exist_ok=True)
    pins = []
    for wheel in (
        wheels.torch("2.6.0", ("triton==3.2.0", "nvidia-cublas-cu12"), hip=None, cuda="12.4"),
        wheels.triton("triton", "3.2.0"),
        wheels.plain("nvidia-cublas-cu12", "12.4.5"),
        wheels.plain("filelock", "3.16.0"),
        wheels.Wheel("mine", "1.0", ("torch",), {"mine.py": "VALUE = 1\n"}, scripts=("mine",)),
    ):
        (store / wheel.filename).write_bytes(wheel.build())
        pins.append(f"{wheel.name}=={wheel.version}")
    tool.make_environment(folder, base.executable)
    subprocess.run(
        [tool.uv, "pip", "install", "-q", "--python", folder / "bin/python", "--no-config", "--offline", "--no-index",
         "--no-deps", "--find-links", store, *pins],
        check=True,
    )  # fmt: skip
    (folder / "notes.txt").write_text("kept by hand\n")


@pytest.fixture
def old(install: Install, tmp_path: Path) -> Install:
    """An install into an environment that holds a CUDA torch."""
    make_old_environment(install.environment, install.base, install.tool, tmp_path)
    return install


def snapshot(folder: Path) -> dict[str, str] | None:
    """Every file of a tree with its permissions, time and content; None when it is not there."""
    if not folder.exists():
        return None
    found = {}
    for path, entry in manifest(folder).items():
        digest = hashlib.sha256((folder / path).read_bytes()).hexdigest() if entry.kind == "file" else ""
        found[path] = f"{entry} {digest}"
    return found
