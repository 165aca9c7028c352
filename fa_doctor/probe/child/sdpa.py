"""PyTorch's own scaled_dot_product_attention, put to the same proof: each of its fused kernels, feature by feature."""

from __future__ import annotations

import importlib
from typing import Any

from .outcome import outcome
from .prepare import Reference
from .reference import Case, budget, compare, differentiate, math_attention

__all__ = ["BACKENDS", "reference_of", "try_sdpa"]

# By the name that torch.nn.attention.SDPBackend has for it; "chosen" is what PyTorch takes by itself.
BACKENDS = {"chosen": None, "flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION"}
_SIZE: dict[str, Any] = {"rows": 150, "cols": 150, "batch": 1, "heads": 4, "kv_heads": 4, "head_dim": 64}


def reference_of(torch: Any, seed: int) -> Reference:
    """{feature: (case, inputs, exact results, allowed errors)}, computed on the CPU."""
    features = {
        "plain": Case("plain", **_SIZE),
        "causal": Case("causal", causal=True, **_SIZE),
        "mask": Case("window by a mask", window=(40, 8), **_SIZE),
        "grouped queries": Case("grouped queries", **{**_SIZE, "kv_heads": 2}),
    }

    def prepare(case: Case) -> tuple[Any, ...]:
        *tensors, _ = case.inputs(torch, seed + 5)
        exact = math_attention(torch, tensors, case, None, torch.float64)
        rounded = math_attention(torch, tensors, case, None, torch.float16)
        return case, tensors, exact, budget(exact, rounded)

    return Reference(lambda: {name: prepare(case) for name, case in features.items()})


def try_sdpa(torch: Any, device: Any, seed: int, reference: Reference) -> dict[str, dict[str, dict[str, str]]]:
    """{backend: {feature: {"state": "right"|"wrong"|"raises", "text"}}}; `reference` is `reference_of` the same seed.

    A backend that refuses says so with an error (RuntimeError "No available kernel"): that is "raises".
    """
    found: dict[str, dict[str, dict[str, str]]] = {}
    for backend in BACKENDS:
        results = {
            name: outcome(lambda b=backend, given=given: _right(torch, b, device, *given))  # type: ignore[misc]
            for name, given in reference.get().items()
        }
        results["dropout"] = outcome(lambda b=backend: _dropout(torch, b, device, seed))  # type: ignore[misc]
        found[backend] = results
    return found


def _attend(torch: Any, backend: str, q: Any, k: Any, v: Any, **options: Any) -> Any:
    """(batch, length, heads, head_dim) in and out."""
    function = torch.nn.functional.scaled_dot_product_attention
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]
    member = BACKENDS[backend]
    if member is None:
        return function(*heads_first, **options).transpose(1, 2)
    module = importlib.import_module("torch.nn.attention")
    with module.sdpa_kernel(getattr(module.SDPBackend, member)):
        return function(*heads_first, **options).transpose(1, 2)


def _right(torch: Any, backend: str, device: Any, case: Case, tensors: Any, exact: Any, allowed: Any) -> str:
    """Output and gradients against float64."""
    options: dict[str, Any] = {"is_causal": True} if case.causal else {}
    if case.window != (-1, -1):
        distance = torch.arange(case.rows)[:, None] - torch.arange(case.cols)[None, :]
        options["attn_mask"] = ((distance <= case.window[0]) & (distance >= -case.window[1])).to(device)
    if case.kv_heads != case.heads:
        options["enable_gqa"] = True
    leaves = [x.detach().clone().to(device).requires_grad_() for x in tensors[:3]]
    out = _attend(torch, backend, *leaves, **options)
    errors = [compare(torch, f"{case.name}: output", out, exact[0], allowed["out"])]
    differentiate(out, tensors[3].to(device))
    for name, leaf, truth in zip(("dq", "dk", "dv"), leaves, exact[1:], strict=True):
        errors.append(compare(torch, f"{case.name}: gradient {name}", leaf.grad, truth, allowed[name]))
    return f"largest errors of output and gradients {', '.join(f'{error:.3g}' for error in errors)}"


def _dropout(torch: Any, backend: str, device: Any, seed: int) -> str:
    """With v = 1 an output element is the sum of the probabilities kept, over 1 - p: 1 on average, and not always."""
    case = Case("dropout", **_SIZE)
    q, k, v, _, _ = case.inputs(torch, seed + 6)
    torch.manual_seed(seed)
    out = _attend(torch, backend, q.to(device), k.to(device), torch.ones_like(v).to(device), dropout_p=0.3)
    out = out.to("cpu").double()
    if float((out - 1).abs().max()) < 1e-2:
        raise AssertionError("nothing is dropped")
    if not abs(float(out.mean()) - 1) < 0.05:
        raise AssertionError(f"the mean of what dropout leaves is {float(out.mean()):.3f} in place of 1")
    return f"mean {float(out.mean()):.3f}"
