"""Run by the Python that is verified, as a program of its own: imports nothing of fa-doctor.

Prints one JSON object a line: {"passed": ...} for each thing that works, {"problem": ...} for the first that does not,
{"end": true} when it is through.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import traceback
from typing import Any


class Wrong(Exception):
    """Something is not as it should be; the text says what."""


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def check_packages(packages: dict[str, str]) -> None:
    for name, version in packages.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise Wrong(f"{name} {version} is not installed") from None
        if found != version:
            raise Wrong(f"{name} is {found}, wanted is {version}")
    say(passed=f"{len(packages)} packages have their exact versions")


def check_torch(version: str, build: str) -> Any:
    torch = importlib.import_module("torch")
    if str(torch.__version__) != version:
        raise Wrong(f"import torch gives {torch.__version__} from {torch.__file__}, wanted is {version}")
    if build == "rocm" and not getattr(torch.version, "hip", None):
        raise Wrong(f"torch {version} is no ROCm build: torch.version.hip is {torch.version.hip!r}")
    if build == "cpu" and getattr(torch.version, "cuda", None):
        raise Wrong(f"torch {version} is a CUDA build: torch.version.cuda is {torch.version.cuda!r}")
    say(passed=f"torch {version} imports")
    return torch


def check_triton() -> None:
    triton = importlib.import_module("triton")
    from importlib.metadata import packages_distributions

    owners = sorted(set(packages_distributions().get("triton", ())))
    if len(owners) > 1:
        raise Wrong(f"{' and '.join(owners)} both own triton/")
    say(passed=f"triton {triton.__version__} imports, owned by {', '.join(owners) or 'nobody'}")


def check_attention(torch: Any) -> None:
    flash_attn = importlib.import_module("flash_attn")
    generator = torch.Generator().manual_seed(0)
    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.float16) if gpu else ("cpu", torch.float32)
    shape = (2, 40, 4, 32)  # batch, length, heads, head dimension
    q, k, v = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
    got = flash_attn.flash_attn_func(q, k, v, causal=True, softcap=16.0)
    wanted = reference(torch, q.double(), k.double(), v.double(), 16.0)
    # Errors of float16 inputs are below 1e-3 here; a kernel that ignores softcap or the mask is off by 0.1 and more.
    error = (got.double() - wanted).abs().max().item()
    if not error < (5e-3 if gpu else 1e-4):
        raise Wrong(f"flash_attn_func (causal, softcap 16) is off by {error:.2g} from the reference on {device}")
    say(passed=f"flash_attn_func agrees with the reference on {device} (largest error {error:.1e})")


def reference(torch: Any, q: Any, k: Any, v: Any, softcap: float) -> Any:
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    scores = softcap * torch.tanh(scores / softcap)
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), v)


def main() -> int:
    wanted = json.loads(os.environ["FA_DOCTOR_VERIFY"])
    try:
        check_packages(wanted["packages"])
        torch = check_torch(wanted["torch"], wanted["build"])
        check_triton()
        if wanted["attention"] != "none":
            check_attention(torch)
    except Wrong as error:
        say(problem=str(error))
        return 1
    except BaseException as error:  # noqa: BLE001 - whatever an import raises is the verdict
        last = traceback.extract_tb(error.__traceback__)[-1]
        say(problem=f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})")
        return 1
    say(end=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
