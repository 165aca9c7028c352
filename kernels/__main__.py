"""`python FOLDER compile|tune REQUEST`: the entry point by which another process has kernels compiled or tuned.

FOLDER is this package's folder or, where it is installed, `-m` and its name. REQUEST is JSON; the answer is JSON, one object
a line, on standard output. The package is imported from its folder whatever it is named where it is installed, so a
Python that has torch and Triton but not this package will do.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_FOLDER = Path(__file__).resolve().parent


def load_package() -> ModuleType:
    """This folder as a package, under a name of its own; its folder is taken off sys.path, where modules would shadow."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _FOLDER]
    name = "fa_doctor_kernels"
    spec = importlib.util.spec_from_file_location(
        name, _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def _compile(request: dict[str, Any]) -> None:
    """{"arch", "head_dims", "dtypes", "passes", "features", "first": n, "step": n, "shims": bool,
    "hip_library": where libamdhip64.so will lie on the machine with the GPU}; see variants.select and standin.

    Says which variants there are, then of each, from number `first` on, that it begins and what came of it: a caller that
    sees this process die knows in which, and starts another one behind it.
    """
    # The calls are made with CPU tensors, which otherwise go to the reference; no real GPU may be asked.
    os.environ["FA_DOCTOR_KERNELS"] = "triton"
    os.environ.pop("TRITON_INTERPRET", None)
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        os.environ[name] = ""
    package = load_package()
    aot = importlib.import_module(f"{package.__name__}.aot")
    variants = importlib.import_module(f"{package.__name__}.variants")
    import triton

    arch = request["arch"]
    try:
        chosen = variants.select(
            request.get("head_dims", ()), request.get("dtypes", ()), request.get("passes", ()), request.get("features")
        )
        standing_in = aot.standing_in(arch, bool(request.get("shims")), request.get("hip_library"))
    except ValueError as error:
        _say(event="refused", message=str(error))
        return
    _say(
        event="plan",
        triton=triton.__version__,
        cache=str(aot.cache_folder()),
        variants=[{"kind": v.kind, "head_dim": v.head_dim, "dtype": v.dtype, "features": v.features} for v in chosen],
    )
    with standing_in as driver:
        if not request.get("first"):  # of several processes that share the work, one
            driver.build_driver_shim()
        for number in range(int(request.get("first", 0)), len(chosen), int(request.get("step", 1))):
            _say(event="begin", number=number)
            _say(event="rows", number=number, rows=aot.compile_variant(arch, chosen[number], package, driver))
        _say(event="end", shim_problem=driver.shim_problem)


def _tune(request: dict[str, Any]) -> None:
    """{"shapes": [{"batch", "heads", "kv_heads", "seqlen_q", "seqlen_k", "head_dim", "dtype", "causal", "backward"}]}"""
    os.environ.pop("TRITON_INTERPRET", None)
    package = load_package()
    tuning = importlib.import_module(f"{package.__name__}.tuning")
    variants = importlib.import_module(f"{package.__name__}.variants")
    compat = importlib.import_module(f"{package.__name__}.compat")
    import torch
    import triton

    if not torch.cuda.is_available():
        built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
        built_for = f"ROCm {torch.version.hip}" if torch.version.hip else built_for
        _say(
            event="no_gpu", message=f"this Python sees no GPU; its torch is {torch.__version__}, built for {built_for}"
        )
        return
    target = compat.target_name(torch.empty(1, device="cuda"))
    _say(event="plan", device=torch.cuda.get_device_name(), target=target, triton=triton.__version__,
         store=str(tuning.store_path(target)))  # fmt: skip

    def progress(kind: str, number: int, count: int, config: Any, outcome: float | str) -> None:
        _say(event="candidate", kind=kind, number=number, count=count, config=vars(config), outcome=outcome)

    for number, shape in enumerate(request["shapes"]):
        _say(event="begin", number=number)
        dtype = variants.DTYPES[shape["dtype"]]

        def random(length: int, heads: int, shape: dict[str, Any] = shape, dtype: Any = dtype) -> Any:
            return torch.randn(shape["batch"], length, heads, shape["head_dim"], device="cuda", dtype=dtype)

        try:
            q = random(shape["seqlen_q"], shape["heads"]).requires_grad_(shape["backward"])
            k, v = (random(shape["seqlen_k"], shape["kv_heads"]).requires_grad_(shape["backward"]) for _ in range(2))
            with tuning.searching(progress):
                out = package.flash_attn_func(q, k, v, causal=shape["causal"])
                if shape["backward"]:
                    torch.autograd.grad(out, (q, k, v), torch.randn_like(out))
        except (ValueError, torch.cuda.OutOfMemoryError) as error:
            _say(event="failed", number=number, message=str(error).splitlines()[0])
            continue
        _say(event="done", number=number)


def main(argv: list[str]) -> int:
    commands = {"compile": _compile, "tune": _tune}
    if len(argv) != 2 or argv[0] not in commands:
        print(f"usage: {sys.executable} {_FOLDER} {'|'.join(commands)} REQUEST", file=sys.stderr)
        return 2
    commands[argv[0]](json.loads(argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
