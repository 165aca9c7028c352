"""How long the processor is busy with one attention call, from Python to the launch of the last kernel.

    python benchmarks/host_time.py [--arch gfx942] [--against FOLDER] [--rounds N]

With a GPU (and no --arch) the kernels are launched there, on tensors so small that the GPU is always done first; PyTorch's
scaled_dot_product_attention stands beside them. Without one, a driver stands in for --arch: everything is done but the
launch itself, which does nothing, so what the C code of Triton's launcher takes is not in these figures. --against: another
copy of the kernels folder, measured in turns with this one. Microseconds, the least of many rounds: the machine's other work
only ever adds to it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CALLS = 40  # a round


def load(folder: Path, name: str) -> Any:
    """A copy of the kernels as a package of its own."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None or not (folder / "interface.py").is_file():
        raise SystemExit(f"{folder} is no folder of kernels")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def calls(api: Any, device: str) -> dict[str, Callable[[], object]]:
    """What is measured. Each is the call that a model makes, with ordinary arguments."""
    import torch

    def random(*shape: int) -> Any:
        return torch.zeros(shape, device=device, dtype=torch.bfloat16)

    q, k, v, dout = (random(1, 128, 4, 64) for _ in range(4))
    grads = [x.clone().requires_grad_() for x in (q, k, v)]
    packed = [x[0] for x in (q, k, v)]
    cu = torch.tensor([0, 64, 128], dtype=torch.int32, device=device)
    cache = [random(1, 256, 4, 64) for _ in range(2)]
    lengths = torch.tensor([100], dtype=torch.int32, device=device)
    one = random(1, 1, 4, 64)

    def train() -> None:
        out = api.flash_attn_func(*grads, causal=True)
        torch.autograd.grad(out, grads, dout)

    return {
        "forward": lambda: api.flash_attn_func(q, k, v, causal=True),
        "forward, gradients recorded": lambda: api.flash_attn_func(*grads, causal=True),
        "forward and backward": train,
        "varlen forward": lambda: api.flash_attn_varlen_func(*packed, cu, cu, 64, 64, causal=True),
        "decode": lambda: api.flash_attn_with_kvcache(one, *cache, cache_seqlens=lengths, causal=True, num_splits=1),
    }


def sdpa(device: str) -> dict[str, Callable[[], object]]:
    import torch

    q, k, v, dout = (torch.zeros(1, 4, 128, 64, device=device, dtype=torch.bfloat16) for _ in range(4))
    grads = [x.clone().requires_grad_() for x in (q, k, v)]
    attend = torch.nn.functional.scaled_dot_product_attention

    def train() -> None:
        torch.autograd.grad(attend(*grads, is_causal=True), grads, dout)

    return {
        "forward": lambda: attend(q, k, v, is_causal=True),
        "forward, gradients recorded": lambda: attend(*grads, is_causal=True),
        "forward and backward": train,
    }


def backward_of_nothing(device: str) -> Callable[[], object]:
    """An autograd.Function that computes nothing, there and back: what PyTorch itself takes of "forward and backward"."""
    import torch

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any) -> Any:
            ctx.save_for_backward(q, k, v)
            return q.detach()

        @staticmethod
        def backward(ctx: Any, dout: Any) -> Any:
            return dout, dout, dout

    q, k, v, dout = (torch.zeros(1, 128, 4, 64, device=device, requires_grad=True) for _ in range(4))
    return lambda: torch.autograd.grad(Nothing.apply(q, k, v), (q, k, v), dout)


def measure(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Microseconds a call of each, in turns."""
    import torch

    settle = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    least = dict.fromkeys(works, float("inf"))
    for work in works.values():
        work()
        work()
    for _ in range(rounds):
        for name, work in works.items():
            settle()
            begin = time.perf_counter()
            for _ in range(CALLS):
                work()
            least[name] = min(least[name], (time.perf_counter() - begin) / CALLS * 1e6)
    return least


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", help="measure without a GPU, as if this one were there (default without one: gfx942)")
    parser.add_argument("--against", type=Path, help="another copy of the kernels folder")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    import torch

    stands_in = bool(options.arch) or not torch.cuda.is_available()
    if stands_in:
        os.environ["FA_DOCTOR_KERNELS"] = "triton"
    os.environ.pop("TRITON_INTERPRET", None)
    folders = {"these": ROOT / "kernels"} | ({"against": options.against.resolve()} if options.against else {})
    works: dict[tuple[str, str], Callable[[], object]] = {}
    device = "cpu" if stands_in else "cuda"
    with contextlib.ExitStack() as stack:
        for number, (name, folder) in enumerate(folders.items()):
            api = load(folder, f"measured_{number}")
            works |= {(name, what): work for what, work in calls(api, device).items()}
            if stands_in:
                importlib.import_module(f"measured_{number}.launching").plans_for_cpu = True
        if stands_in:
            standin = importlib.import_module("measured_0.standin")
            driver = stack.enter_context(standin.standing_in(options.arch or "gfx942"))
            driver.launches = _Forgetful()
        else:
            works |= {("SDPA", what): work for what, work in sdpa(device).items()}
        works["an empty autograd.Function", "forward and backward"] = backward_of_nothing(device)
        found = measure({f"{who}: {what}": work for (who, what), work in works.items()}, options.rounds)
    where = f"launches on {options.arch or 'gfx942'} that do nothing" if stands_in else torch.cuda.get_device_name()
    print(f"microseconds a call; {where}; torch {torch.__version__}, Python {sys.version.split()[0]}")
    for name, least in found.items():
        print(f"{name:<60} {least:7.1f}")
    return 0


class _Forgetful(list[Any]):
    def append(self, _: Any) -> None:
        """Nothing is kept of the launches."""


if __name__ == "__main__":
    sys.exit(main())
