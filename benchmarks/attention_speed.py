"""Speed of attention on one GPU: these kernels beside what PyTorch offers, in one run.

    python benchmarks/attention_speed.py [--tokens 16384] [--hidden 2048] [--dtype bf16] [--json FILE]

Providers: unfused (matmul, softmax, matmul), SDPA's flash and cuDNN backends, flex_attention compiled, and ours. The batch is
tokens / length, the number of heads hidden / head dimension. TFLOP/s count 4 B H N^2 D for the forward pass and 2.5 times
that for the backward pass, half of it when causal. Each figure is the median over repeated runs after warm-up; the ratios
are geometric means over the shapes that both ran.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config
import torch.nn.functional as F
import triton
from torch.nn.attention import SDPBackend, sdpa_kernel

try:
    from fa_doctor.kernels import flash_attn_func
except ImportError:  # a checkout that is not installed
    import importlib.util

    _init = Path(__file__).resolve().parent.parent / "kernels" / "__init__.py"
    _spec = importlib.util.spec_from_file_location("fa_kernels", _init, submodule_search_locations=[str(_init.parent)])
    assert _spec is not None
    assert _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["fa_kernels"] = _module
    _spec.loader.exec_module(_module)
    flash_attn_func = _module.flash_attn_func

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)


def unfused(causal: bool) -> Attention:
    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(hidden, float("-inf"))
        return scores.softmax(-1) @ v

    return run


def sdpa(backend: SDPBackend, causal: bool) -> Attention:
    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return run


def flex(causal: bool, length: int) -> Attention:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._functorch.config.donated_buffer = False  # the backward pass is run many times on one graph
    compiled = torch.compile(flex_attention, dynamic=False)
    mask = None
    if causal:
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, length, length, device="cuda")
    return lambda q, k, v: compiled(q, k, v, block_mask=mask)


def providers(causal: bool, length: int, names: list[str]) -> dict[str, tuple[Attention, bool]]:
    """Name -> the function, and whether it wants heads before tokens."""
    every: dict[str, Callable[[], tuple[Attention, bool]]] = {
        "unfused": lambda: (unfused(causal), True),
        "flash2": lambda: (sdpa(SDPBackend.FLASH_ATTENTION, causal), True),
        "cudnn": lambda: (sdpa(SDPBackend.CUDNN_ATTENTION, causal), True),
        "flex": lambda: (flex(causal, length), True),
        "ours": lambda: (lambda q, k, v: flash_attn_func(q, k, v, causal=causal), False),
    }
    return {name: every[name]() for name in names}


def warm(run: Attention, heads_first: bool, batch: int, length: int, heads: int, dim: int, **kind: Any) -> None:
    """Runs once, forward and backward."""
    shape = (batch, heads, length, dim) if heads_first else (batch, length, heads, dim)
    q, k, v = (torch.randn(shape, **kind).requires_grad_() for _ in range(3))
    run(q.detach(), k.detach(), v.detach())
    run(q, k, v).sum().backward()


def measure(
    run: Attention, heads_first: bool, batch: int, length: int, heads: int, dim: int, **kind: Any
) -> list[float]:
    """[forward, backward] in milliseconds; nothing where the memory of the GPU does not suffice."""
    try:
        return _measure(run, heads_first, batch, length, heads, dim, **kind)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return []


def _measure(
    run: Attention, heads_first: bool, batch: int, length: int, heads: int, dim: int, **kind: Any
) -> list[float]:
    shape = (batch, heads, length, dim) if heads_first else (batch, length, heads, dim)
    q, k, v = (torch.randn(shape, **kind).requires_grad_() for _ in range(3))
    with torch.no_grad():
        forward = triton.testing.do_bench(lambda: run(q, k, v), warmup=25, rep=80, return_mode="median")
    out = run(q, k, v)
    grad = torch.randn_like(out)
    backward = triton.testing.do_bench(
        lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True), warmup=25, rep=100, return_mode="median"
    )
    return [forward, backward]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--head-dims", type=int, nargs="+", default=(64, 128))
    parser.add_argument("--providers", nargs="+", default=["flash2", "cudnn", "flex", "unfused", "ours"])
    parser.add_argument("--warm-only", action="store_true", help="compile, time nothing: fills the compilers' caches")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no GPU is visible to PyTorch")
    names = options.providers
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}, {options.dtype}")
    print("TFLOP/s forward/backward")
    print(f"{'dim':>4}{'causal':>7}{'length':>7}" + "".join(f"{name:>12}" for name in names))
    rows = []
    for dim in options.head_dims:
        for causal in (False, True):
            for length in options.lengths:
                batch, heads = options.tokens // length, options.hidden // dim
                work = 4 * batch * heads * length**2 * dim * (0.5 if causal else 1.0) * 1e-9
                row: dict[str, Any] = {"dim": dim, "causal": causal, "length": length}
                for name, (run, heads_first) in providers(causal, length, names).items():
                    kind = {"device": "cuda", "dtype": DTYPES[options.dtype]}
                    if options.warm_only:
                        warm(run, heads_first, batch, length, heads, dim, **kind)
                        continue
                    times = measure(run, heads_first, batch, length, heads, dim, **kind)
                    if times:
                        row[name] = [work / times[0], 2.5 * work / times[1]]
                rows.append(row)
                cells = (f"{row[n][0]:.0f}/{row[n][1]:.0f}" if n in row else "-" for n in names)
                print(f"{dim:>4}{causal!s:>7}{length:>7}" + "".join(f"{cell:>12}" for cell in cells), flush=True)
                torch._dynamo.reset()
    for other in names:
        both = [row for row in rows if other in row and "ours" in row]
        if other == "ours" or not both:
            continue
        line = []
        for part in (0, 1):
            ratios = [row["ours"][part] / row[other][part] for row in both]
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            line.append(f"{('forward', 'backward')[part]} {mean:.2f} (lowest {min(ratios):.2f})")
        print(f"ours / {other}: " + ", ".join(line))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
