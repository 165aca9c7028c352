"""What the verification of an environment finds: on environments that borrow the torch and Triton of the tests."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from fa_doctor.installer.flash_attn_package import build_wheel
from fa_doctor.installer.package import Package, RemoteFile
from fa_doctor.installer.plan import Plan
from fa_doctor.installer.verify import verify


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """An environment with the kernels' wheel, and the plan that it came from."""
    torch = pytest.importorskip("torch", reason="there is no torch to verify with")
    folder = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    zipfile.ZipFile(io.BytesIO(build_wheel().content)).extractall(site(folder))
    borrowed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site(folder) / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))
    kept = Package("triton", metadata.version("triton"), None, None)
    return Plan(
        environment=folder,
        exists=False,
        base_python=sys.executable,
        python_version="3.11.0",
        stack="cpu",
        torch=torch.__version__,
        hip=None,
        attention="bundled",
        targets=(),
        packages=(),
        kept=(kept,),
        remove=(),
        kernels=None,
        upstream=None,
        variables={},
    )


def site(folder: Path) -> Path:
    return next(folder.glob("lib/python*/site-packages"))


def problem(plan: Plan) -> str:
    found = verify(plan, plan.environment / "bin/python", os.environ)
    assert not found.ok
    return found.problem or ""


def distribution(plan: Plan, name: str, version: str, record: str = "") -> None:
    info = site(plan.environment) / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(record)


def test_an_environment_that_computes_attention(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the user's shell says must not decide what is verified.
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("FA_DOCTOR_KERNELS", "triton")
    found = verify(plan, plan.environment / "bin/python", os.environ)
    assert found.ok, found.problem
    assert "attention agrees with float64 on the CPU" in found.passed
    assert "dropout, causal and softcap hold in one call" in found.passed


def test_attention_that_is_wrong(plan: Plan) -> None:
    interface = site(plan.environment) / "flash_attn" / "__init__.py"
    interface.write_text(
        interface.read_text() + "\n_right = flash_attn_func\n"
        "def flash_attn_func(*tensors, softcap=0.0, **options):\n    return _right(*tensors, **options)\n"
    )
    assert problem(plan).startswith("attention forward: AssertionError")


def test_a_kernel_package_that_does_not_import(plan: Plan) -> None:
    (site(plan.environment) / "flash_attn" / "flash_attn_interface.py").write_text("import no_such_module\n")
    said = problem(plan)
    assert "ModuleNotFoundError" in said
    assert "flash_attn_interface.py" in said


def test_a_torch_that_kills_its_process(plan: Plan) -> None:
    (site(plan.environment) / "torch.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n")
    said = problem(plan)
    assert said.startswith("import torch")
    assert "SIGSEGV" in said


def test_another_torch_than_planned(plan: Plan) -> None:
    assert "wanted is 2.6.0+rocm6.2.4" in problem(dataclasses.replace(plan, torch="2.6.0+rocm6.2.4", attention="none"))
    assert "no ROCm build" in problem(dataclasses.replace(plan, stack="classic", hip="6.2.4", attention="none"))


def test_packages_are_held_against_the_plan(plan: Plan) -> None:
    def wanting(name: str, version: str) -> Plan:
        file = RemoteFile(f"{name}-{version}-py3-none-any.whl", "https://example.invalid/x.whl")
        return dataclasses.replace(plan, packages=(Package(name, version, file, None),))

    assert "einops-x 1.0 is not installed" in problem(wanting("einops-x", "1.0"))
    distribution(plan, "einops-x", "1.1", "einops_x.py,sha256=abc,12\n")
    assert "is 1.1, wanted is 1.0" in problem(wanting("einops-x", "1.0"))
    assert "1 files of einops-x are missing" in problem(wanting("einops-x", "1.1"))
    distribution(plan, "pytorch-triton-rocm", "3.2.0")
    assert "both own triton/" in problem(plan)


def test_without_attention_no_flash_attn_is_wanted(plan: Plan) -> None:
    (site(plan.environment) / "flash_attn" / "__init__.py").write_text("raise ImportError('never asked for')\n")
    found = verify(dataclasses.replace(plan, attention="none"), plan.environment / "bin/python", os.environ)
    assert found.ok, found.problem
    assert not any("attention" in line for line in found.passed)


def test_flash_attn_itself_is_imported_and_without_a_gpu_not_called(plan: Plan) -> None:
    module = site(plan.environment) / "flash_attn" / "__init__.py"
    module.write_text("__version__ = '2.8.3'\ndef flash_attn_func(*tensors): raise RuntimeError('needs a GPU')\n")
    upstream = dataclasses.replace(plan, attention="upstream")
    found = verify(upstream, plan.environment / "bin/python", os.environ)
    assert found.ok, found.problem
    assert "flash_attn 2.8.3 imports" in found.passed
    module.write_text("import flash_attn_2_cuda\n")
    assert "flash_attn_2_cuda" in problem(upstream)
