"""Times attention: who can compute it here, how long each takes, how much memory."""

from __future__ import annotations

import importlib
import math
import statistics
from collections.abc import Callable
from typing import Any

from .stopwatch import Stopwatch

__all__ = ["PROVIDERS", "flops", "matrix_product_tflops", "measure", "provider"]

# The providers by name, in the order of tables. "sdpa" is what scaled_dot_product_attention chooses by itself.
PROVIDERS = ("unfused", "sdpa", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "flex", "flash_attn", "bundled")


def flops(point: dict[str, Any]) -> float:
    """Floating-point operations of a point: 4 B H N^2 D forward, 2.5 times that backward, half of it if causal.

    The convention of flash-attn's own benchmarks (two matrix products forward, five backward; softmax not counted).
    """
    forward = 4.0 * point["batch"] * point["heads"] * point["length"] ** 2 * point["head_dim"]
    share = {"forward": 1.0, "backward": 2.5, "both": 3.5}[point["pass"]]
    return float(forward * share * (0.5 if point["causal"] else 1.0))


def measure(
    torch: Any, watch: Stopwatch, load_kernels: Callable[[], Any], point: dict[str, Any], seconds: float = 0.4
) -> dict[str, Any]:
    """Times one point {"provider", "batch", "length", "heads", "head_dim", "causal", "pass", "dtype"}.

    Returns {"ms": median, "low": 10th, "high": 90th percentile, "runs", "tflops", "peak_bytes": memory beyond inputs and
    output of one call, None where nobody counts it}. Raises what the provider raises, torch.OutOfMemoryError among it.
    """
    device = torch.device(watch.device)
    dtype = getattr(torch, point["dtype"])
    function, heads_first = provider(torch, device, load_kernels, point)
    shape = (point["batch"], point["length"], point["heads"], point["head_dim"])
    if heads_first:
        shape = (shape[0], shape[2], shape[1], shape[3])
    wants = point["pass"] != "forward"
    q, k, v = (torch.randn(shape, dtype=dtype, device=device, requires_grad=wants) for _ in range(3))
    grad = torch.randn(shape, dtype=dtype, device=device)

    if point["pass"] == "forward":

        def call() -> Any:
            with torch.no_grad():
                return function(q, k, v)

    elif point["pass"] == "backward":
        out = function(q, k, v)

        def call() -> Any:
            return torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)

    else:

        def call() -> Any:
            return torch.autograd.grad(function(q, k, v), (q, k, v), grad)

    call()
    watch.start_memory()
    results = call()
    peak = watch.peak_bytes()
    outputs = results if isinstance(results, tuple) else (results,)
    if peak is not None:
        peak = max(0, peak - sum(tensor.numel() * tensor.element_size() for tensor in outputs))
    del results, outputs
    samples = sorted(_timed_ms(watch, call, seconds))
    median = statistics.median(samples)
    return {
        "ms": median,
        "low": samples[len(samples) // 10],
        "high": samples[-1 - len(samples) // 10],
        "runs": len(samples),
        "tflops": flops(point) / median / 1e9,
        "peak_bytes": peak,
    }


def _timed_ms(watch: Stopwatch, call: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of single calls, for about `seconds`, at least 5 and at most 200 of them."""
    for _ in range(3):
        call()
    watch.wait()
    (once,) = watch.times_ms(call, 1, flush=False)
    return watch.times_ms(call, int(min(200, max(5, seconds * 1e3 / max(once, 1e-3)))))


def matrix_product_tflops(torch: Any, watch: Stopwatch, dtype: str) -> float:
    """What the device reaches in a large square matrix product: the ceiling that attention is held against."""
    size = 8192
    a, b = (torch.randn(size, size, dtype=getattr(torch, dtype), device=watch.device) for _ in range(2))
    samples = _timed_ms(watch, lambda: a @ b, 0.3)
    return float(2.0 * size**3 / statistics.median(samples) / 1e9)


def provider(
    torch: Any, device: Any, load_kernels: Callable[[], Any], point: dict[str, Any]
) -> tuple[Callable[..., Any], bool]:
    """The function of a point's provider, and whether it wants heads before tokens."""
    name, causal = point["provider"], point["causal"]
    functional = torch.nn.functional
    if name in ("bundled", "flash_attn"):
        if device.type == "cpu":
            raise RuntimeError(f"the kernels of {name} need a GPU")
        module = load_kernels() if name == "bundled" else importlib.import_module("flash_attn")
        return (lambda q, k, v: module.flash_attn_func(q, k, v, causal=causal)), False
    if name == "unfused":
        return _unfused(torch, device, causal, point["length"]), True
    if name == "sdpa":
        return (lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=causal)), True
    if name == "flex":
        attention = importlib.import_module("torch.nn.attention.flex_attention")
        compiled = torch.compile(attention.flex_attention, dynamic=False)
        mask = None
        if causal:
            length = point["length"]
            mask = attention.create_block_mask(
                lambda b, h, i, j: i >= j, None, None, length, length, device=device.type
            )
        return (lambda q, k, v: compiled(q, k, v, block_mask=mask)), True
    backends = importlib.import_module("torch.nn.attention")
    backend = {
        "sdpa-flash": backends.SDPBackend.FLASH_ATTENTION,
        "sdpa-efficient": backends.SDPBackend.EFFICIENT_ATTENTION,
        "sdpa-cudnn": backends.SDPBackend.CUDNN_ATTENTION,
    }[name]

    def chosen(q: Any, k: Any, v: Any) -> Any:
        with backends.sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return chosen, True


def _unfused(torch: Any, device: Any, causal: bool, length: int) -> Callable[..., Any]:
    """Matrix product, softmax, matrix product: what a program without a fused kernel does."""
    hidden = torch.ones(length, length, dtype=torch.bool, device=device).triu(1) if causal else None

    def run(q: Any, k: Any, v: Any) -> Any:
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
        if hidden is not None:
            scores = scores.masked_fill(hidden, float("-inf"))
        return scores.softmax(-1) @ v

    return run
