"""Run by test_gpu.py in a process of its own, with Triton's compiler: the kernels on the GPU against float64.

    python gpu_cases.py GROUP

Prints "ok CASE" or "wrong CASE: what" a line. The criterion is flash-attn's: at most twice the error of plain PyTorch
attention in the same type, plus one unit in the last place of the largest value.
"""

import sys
from typing import Any

import torch

from fa_doctor.kernels import flash_attn_func, flash_attn_varlen_func, reference

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window_size": (100, 30)},
    "softcap": {"softcap": 15.0},
    "alibi": {"alibi_slopes": torch.linspace(0.05, 0.5, 4)},
    "dropout": {"dropout_p": 0.17},
    "origin": {"dropout_p": 0.1, "causal": True, "softcap": 16.0},
    "all": {"causal": True, "window_size": (77, -1), "alibi_slopes": torch.linspace(0.05, 0.5, 4), "dropout_p": 0.2},
}
GROUPS: dict[str, list[tuple[torch.dtype, int, int, int, str]]] = {  # type, queries, keys, head dimension, feature
    "features": [(t, 257, 391, d, f) for t in (torch.bfloat16, torch.float16) for d in (64, 128) for f in FEATURES],
    "dimensions": [(torch.float16, 200, 300, d, "causal") for d in (1, 32, 40, 59, 96, 111, 160, 192, 224, 256)],
    "float32": [(torch.float32, 130, 200, d, f) for d in (64, 100) for f in ("causal", "softcap", "origin")],
    "lengths": [
        (torch.bfloat16, sq, sk, 128, "causal")
        for sq, sk in ((1, 300), (300, 3), (113, 203), (1024, 1024), (1023, 1024), (600, 100), (17, 2000))
    ],
}


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keep: Any, **options: Any) -> torch.Tensor:
    """Attention in the type of the inputs, as PyTorch users write it."""
    qh, kh, vh = (x.transpose(1, 2) for x in (q, k.repeat_interleave(2, 2), v.repeat_interleave(2, 2)))
    scores = (qh * q.shape[-1] ** -0.5) @ kh.transpose(-1, -2)
    if options.get("softcap"):
        scores = torch.tanh(scores / options["softcap"]) * options["softcap"]
    if "alibi_slopes" in options:
        scores = scores + reference.alibi_bias(options["alibi_slopes"], q.shape[1], k.shape[1]).to(scores.dtype)
    window, causal = options.get("window_size", (-1, -1)), options.get("causal", False)
    seen = reference.visible(q.shape[1], k.shape[1], causal=causal, window_size=window, device=q.device)
    probs = torch.softmax(scores.masked_fill(~seen, float("-inf")), -1).masked_fill(~seen.any(-1, keepdim=True), 0)
    if keep is not None:
        probs = probs.masked_fill(~keep, 0) / (1 - options["dropout_p"])
    return (probs @ vh).transpose(1, 2)


def check(dtype: torch.dtype, sq: int, sk: int, dim: int, feature: str) -> str:
    """What is wrong with a case; nothing if all is right."""
    options = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in FEATURES[feature].items()}
    made = {"device": "cuda", "dtype": dtype, "requires_grad": True}
    q = torch.randn(2, sq, 4, dim, **made)
    k, v = (torch.randn(2, sk, 2, dim, **made) for _ in range(2))
    grad = torch.randn_like(q)
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        out = flash_attn_func(q, k, v, **options)
        runs.append((out, *torch.autograd.grad(out, (q, k, v), grad)))
    if not all(torch.equal(a, b) for a, b in zip(*runs, strict=True)):
        return "two runs differ"
    keep = None
    if "dropout_p" in options:
        torch.manual_seed(5)
        rng_state = torch.randint(0, 2**62, (2,), device="cuda")
        keep = reference.dropout_keep(rng_state, options["dropout_p"], 2, 4, sq, sk)
    inputs = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out, _, _ = reference.attention(*inputs, keep=keep, **options)
    exact = (out, *torch.autograd.grad(out, inputs, grad.double()))
    out = plain(q, k, v, keep, **options)
    usual = (out, *torch.autograd.grad(out, (q, k, v), grad))
    for name, a, b, c in zip(("out", "dq", "dk", "dv"), runs[0], exact, usual, strict=True):
        error, allowed = ((x.double() - b).abs().max().item() for x in (a, c))
        if not error <= 2 * allowed + torch.finfo(dtype).eps * max(1e-2, b.abs().max().item()):
            return f"{name}: error {error:.2e}, PyTorch's {allowed:.2e}"
    return ""


def check_large() -> str:
    """More than 2^31 elements: the last sequence of the batch must come out as the first, which is equal."""
    shape = (66, 4096, 64, 128)
    q = torch.randn(1, *shape[1:], device="cuda", dtype=torch.float16).expand(shape).contiguous().requires_grad_()
    k = torch.randn(1, 64, 8, 128, device="cuda", dtype=torch.float16).expand(66, 64, 8, 128).contiguous()
    k.requires_grad_()
    out = flash_attn_func(q, k, k)
    grads = torch.autograd.grad(out, (q, k), q.detach())
    same = all(torch.equal(x[0], x[-1]) for x in (out, *grads))
    return "" if same and bool(grads[0][-1].isfinite().all()) else "the last sequence differs from the first"


def check_packed() -> str:
    lengths_q, lengths_k = [130, 0, 1, 257, 64, 0, 300], [130, 5, 17, 100, 64, 0, 511]
    cu_q, cu_k = (torch.tensor([0, *x]).cumsum(0).int().cuda() for x in (lengths_q, lengths_k))
    made = {"device": "cuda", "dtype": torch.bfloat16, "requires_grad": True}
    q = torch.randn(sum(lengths_q), 4, 64, **made)
    k, v = (torch.randn(sum(lengths_k), 2, 64, **made) for _ in range(2))
    out = flash_attn_varlen_func(q, k, v, cu_q, cu_k, 300, 511, causal=True)
    got = (out, *torch.autograd.grad(out, (q, k, v), q.detach()))
    inputs = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out, _ = reference.attention_varlen(*inputs, cu_q, cu_k, causal=True)
    exact = (out, *torch.autograd.grad(out, inputs, q.detach().double()))
    errors = [((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(got, exact, strict=True)]
    return "" if max(errors) < 0.02 else f"relative errors {errors}"


def main(group: str) -> None:
    if group == "packed":
        outcomes = {"packed sequences": check_packed()}
    elif group == "large":
        outcomes = {"beyond 2^31 elements": check_large()}
    else:
        outcomes = {" ".join(str(x) for x in case): check(*case) for case in GROUPS[group]}
    for name, problem in outcomes.items():
        print(f"wrong {name}: {problem}" if problem else f"ok {name}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
