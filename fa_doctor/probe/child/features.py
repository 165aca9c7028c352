"""What an installed flash_attn does with each feature: right, wrong, refused, or silently ignored."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .device import uses_gpu
from .outcome import Ignored, Missing, outcome
from .reference import Case, attention, budget, compare, math_attention
from .reporter import Reporter

__all__ = ["STEPS", "run", "try_features"]

STEPS = ("import torch", "find the device", "import flash_attn", "try the features")


def run(request: dict[str, Any], report: Reporter, load_kernels: Callable[[], Any]) -> None:
    """{"device", "seed", "module": name of the module to try (default flash_attn)}.

    Where the device may be any and there is no GPU, the module is imported and not called: others' kernels need one.
    """
    with report.step("import torch") as details:
        import torch

        details["version"] = torch.__version__
    with report.step("find the device") as details:
        on_gpu = uses_gpu(torch, request)
        if on_gpu:
            details["name"] = torch.cuda.get_device_properties(0).name
        device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    with report.step("import flash_attn") as details:
        module = importlib.import_module(request.get("module", "flash_attn"))
        details["version"] = getattr(module, "__version__", None)
    with report.step("try the features") as details:
        if on_gpu or request["device"] != "any":
            details["features"] = try_features(torch, module, device, int(request["seed"]))


def try_features(torch: Any, module: Any, device: Any, seed: int) -> dict[str, dict[str, str]]:
    """{feature: {"state": "right"|"wrong"|"ignored"|"raises"|"missing", "text": ...}} for `module`'s public functions.

    Every feature is tried alone, on sizes at which ignoring it changes the result by far more than rounding.
    """
    size: dict[str, Any] = {"rows": 200, "cols": 264, "batch": 2, "heads": 4, "kv_heads": 4, "head_dim": 64}
    dense = {
        "plain": Case("plain", **size),
        "causal": Case("causal", causal=True, **size),
        "window_size": Case("window", window=(40, 8), **size),
        "softcap": Case("softcap", softcap=4.0, **size),
        "alibi_slopes": Case("alibi", alibi=True, **size),
        "grouped queries": Case("gqa", **{**size, "kv_heads": 2}),
    }
    results = {name: outcome(lambda c=case: _dense(torch, module, c, device, seed)) for name, case in dense.items()}  # type: ignore[misc]
    backward = Case("backward", causal=True, **size)
    results["backward"] = outcome(lambda: _backward(torch, module, backward, device, seed))
    results["varlen"] = outcome(lambda: _varlen(torch, module, device, seed))
    results["dropout"] = outcome(lambda: _dropout(torch, module, Case("dropout", **size), device, seed))
    results["paged KV cache"] = outcome(lambda: _paged(torch, module, device, seed))
    return results


def _function(module: Any, name: str) -> Any:
    found = getattr(module, name, None)
    if found is None:
        raise Missing(f"it has no {name}")
    return found


def _dense(torch: Any, module: Any, case: Case, device: Any, seed: int) -> str:
    q, k, v, dout, slopes = case.inputs(torch, seed)
    exact = math_attention(torch, (q, k, v, dout), case, slopes, torch.float64)
    rounded = math_attention(torch, (q, k, v, dout), case, slopes, torch.float16)
    allowed = budget(exact, rounded)["out"]
    arguments: dict[str, Any] = {}
    if case.causal:
        arguments["causal"] = True
    if case.window != (-1, -1):
        arguments["window_size"] = case.window
    if case.softcap:
        arguments["softcap"] = case.softcap
    if slopes is not None:
        arguments["alibi_slopes"] = slopes.to(device)
    out = _function(module, "flash_attn_func")(q.to(device), k.to(device), v.to(device), **arguments)
    try:
        error = compare(torch, case.name, out, exact[0], allowed)
    except AssertionError:
        without = Case("without", rows=case.rows, cols=case.cols)
        plain = attention(torch, q.double(), k.double(), v.double(), without, None)
        if arguments and _agrees(torch, out, plain, 2 * allowed):
            raise Ignored(f"the result is that without {', '.join(arguments)}") from None
        raise
    return f"largest error {error:.3g}, allowed {allowed:.3g}"


def _backward(torch: Any, module: Any, case: Case, device: Any, seed: int) -> str:
    q, k, v, dout, _ = case.inputs(torch, seed)
    exact = math_attention(torch, (q, k, v, dout), case, None, torch.float64)
    allowed = budget(exact, math_attention(torch, (q, k, v, dout), case, None, torch.float16))
    leaves = [x.detach().clone().to(device).requires_grad_() for x in (q, k, v)]
    _function(module, "flash_attn_func")(*leaves, causal=True).backward(dout.to(device))
    errors = [
        compare(torch, f"gradient {name}", leaf.grad, truth, allowed[name])
        for name, leaf, truth in zip(("dq", "dk", "dv"), leaves, exact[1:], strict=True)
    ]
    return f"largest errors {', '.join(f'{error:.3g}' for error in errors)}"


def _varlen(torch: Any, module: Any, device: Any, seed: int) -> str:
    lengths = (70, 130)
    case = Case("varlen", rows=200, cols=200, batch=1, causal=True)
    q, k, v, dout, _ = case.inputs(torch, seed)
    ends = torch.tensor([0, 70, 200], dtype=torch.int32, device=device)
    packed = [x[0].to(device) for x in (q, k, v)]
    out = _function(module, "flash_attn_varlen_func")(*packed, ends, ends, max(lengths), max(lengths), causal=True)
    worst = 0.0
    for begin, end in ((0, 70), (70, 200)):
        one: Any = [x[:, begin:end] for x in (q, k, v, dout)]
        exact = math_attention(torch, one, case, None, torch.float64)
        allowed = budget(exact, math_attention(torch, one, case, None, torch.float16))["out"]
        worst = max(worst, compare(torch, "varlen", out[begin:end][None], exact[0], allowed))
    return f"largest error {worst:.3g}"


def _dropout(torch: Any, module: Any, case: Case, device: Any, seed: int) -> str:
    """Dropout cannot be held against a mask that a library does not show; its moments can.

    With v = 1 an output element is the sum of the probabilities kept, over 1 - p: 1 on average, and not always.
    """
    q, k, v, _, _ = case.inputs(torch, seed)
    ones = torch.ones_like(v)
    torch.manual_seed(seed)
    out = _function(module, "flash_attn_func")(q.to(device), k.to(device), ones.to(device), dropout_p=0.3)
    out = out.to("cpu").double()
    if float((out - 1).abs().max()) < 1e-2:
        raise Ignored("nothing is dropped")
    mean = float(out.mean())
    if not abs(mean - 1) < 0.05:
        raise AssertionError(f"the mean of what dropout leaves is {mean:.3f} in place of 1")
    return f"mean {mean:.3f}"


def _paged(torch: Any, module: Any, device: Any, seed: int) -> str:
    page, pages, used = 256, 4, 700
    case = Case("paged", rows=1, cols=page * pages, batch=1, heads=4, kv_heads=4)
    q, k, v, dout, _ = case.inputs(torch, seed)
    order = [2, 0, 3, 1]  # page i of the sequence lies at block order[i]
    blocks_k, blocks_v = (torch.empty(pages, page, 4, 64, dtype=k.dtype) for _ in range(2))
    for place, block in enumerate(order):
        blocks_k[block] = k[0, place * page : (place + 1) * page]
        blocks_v[block] = v[0, place * page : (place + 1) * page]
    out = _function(module, "flash_attn_with_kvcache")(
        q.to(device),
        blocks_k.to(device),
        blocks_v.to(device),
        cache_seqlens=torch.tensor([used], dtype=torch.int32, device=device),
        block_table=torch.tensor([order], dtype=torch.int32, device=device),
    )
    one: Any = (q, k[:, :used], v[:, :used], dout)
    exact = math_attention(torch, one, case, None, torch.float64)
    allowed = budget(exact, math_attention(torch, one, case, None, torch.float16))["out"]
    try:
        error = compare(torch, "paged", out, exact[0], allowed)
    except AssertionError:
        # Without its table the cache is read as it lies in memory, or only its first page is.
        for count in (used, page):
            keys, values = [x.flatten(0, 1)[None, :count].double() for x in (blocks_k, blocks_v)]
            if _agrees(torch, out, attention(torch, q.double(), keys, values, case, None), 2 * allowed):
                raise Ignored("the result is that without block_table") from None
        raise
    return f"largest error {error:.3g}"


def _agrees(torch: Any, out: Any, other: Any, allowed: float) -> bool:
    try:
        compare(torch, "", out, other, allowed)
    except AssertionError:
        return False
    return True
