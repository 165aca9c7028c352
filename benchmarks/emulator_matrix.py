"""Runs the kernels' machine code for AMD GPUs on an emulator, over their features, against the reference in float64.

    python benchmarks/emulator_matrix.py [--emulator FOLDER] [--arch GFX ...] [--case NAME ...] [--order ORDER]

No GPU is needed. Registers, LDS and scratch are filled with NaN patterns first, and the waves of a workgroup take turns in
reverse or random order (--order reverse, or a seed), so that a read of what was never written, or a missing barrier, shows.
The error may be at most twice that of plain PyTorch attention in the same type (flash-attn's criterion). One line a case; ends
with status 1 where one is wrong. FOLDER holds `triton_driver.py`; default ../shared/emulator.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["FA_DOCTOR_KERNELS"] = "triton"
os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton

from fa_doctor import kernels
from fa_doctor.kernels import reference

ARCHS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
ROOT = Path(__file__).resolve().parent.parent
HALF, BF16 = torch.float16, torch.bfloat16

# name -> (dtype, batch, queries, keys, heads, key heads, head dimension, backward too, options)
DENSE: dict[str, tuple[torch.dtype, int, int, int, int, int, int, bool, dict[str, Any]]] = {
    "plain": (HALF, 1, 128, 128, 1, 1, 64, True, {}),
    "plain 128": (HALF, 1, 128, 128, 1, 1, 128, True, {}),
    "causal": (HALF, 1, 100, 100, 2, 1, 64, True, {"causal": True}),
    "causal 128": (BF16, 1, 130, 130, 1, 1, 128, True, {"causal": True}),
    "fewer queries": (HALF, 2, 33, 150, 2, 2, 64, True, {"causal": True}),
    "fewer keys": (HALF, 1, 150, 33, 1, 1, 64, True, {"causal": True}),
    "bf16": (BF16, 1, 96, 160, 2, 1, 64, True, {}),
    "odd dimension": (HALF, 1, 70, 90, 1, 1, 40, True, {"causal": True}),
    "dimension 96": (BF16, 1, 70, 90, 1, 1, 96, True, {}),
    "dimension 256": (HALF, 1, 64, 64, 1, 1, 256, True, {"causal": True}),
    "softcap": (HALF, 1, 96, 96, 1, 1, 64, True, {"softcap": 15.0}),
    "window": (HALF, 1, 200, 200, 1, 1, 64, True, {"window_size": (40, 10)}),
    "causal window": (BF16, 1, 200, 200, 1, 1, 128, True, {"window_size": (64, 0), "causal": True}),
    "alibi": (HALF, 1, 96, 128, 2, 2, 64, True, {"alibi_slopes": True, "causal": True}),
    "dropout": (HALF, 1, 96, 128, 2, 1, 64, True, {"dropout_p": 0.25}),
    "everything": (BF16, 2, 90, 120, 4, 2, 64, True,
                   {"dropout_p": 0.1, "causal": True, "softcap": 16.0, "window_size": (70, 0), "alibi_slopes": True}),
    "fp32": (torch.float32, 1, 64, 64, 1, 1, 64, False, {"causal": True}),
}  # fmt: skip


def plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor,
    softcap: float,
    kept: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention as PyTorch users write it, every step in the type of the inputs. kept: factors of the probabilities."""
    group = q.shape[2] // k.shape[2]
    kr, vr = (x.repeat_interleave(group, dim=2).transpose(1, 2) for x in (k, v))
    scores = (q * q.shape[-1] ** -0.5).transpose(1, 2) @ kr.transpose(-1, -2)
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    blind = bias.isneginf().all(-1, keepdim=True)
    probs = torch.softmax(scores + bias.masked_fill(blind, 0.0).to(scores.dtype), -1).masked_fill(blind, 0.0)
    if kept is not None:
        probs = probs * kept.to(probs.dtype)
    return (probs @ vr).transpose(1, 2)


def compare(got: list[torch.Tensor], exact: list[torch.Tensor], yardstick: list[torch.Tensor]) -> tuple[float, bool]:
    """The worst of error / allowed error over the results, and whether all are within."""
    worst = 0.0
    for a, b, c in zip(got, exact, yardstick, strict=True):
        allowed = 2 * (c.double() - b).abs().max().item() + torch.finfo(a.dtype).eps * b.abs().max().item()
        error = (a.double() - b).abs().max().item()
        worst = max(worst, float("inf") if error != error else error / max(allowed, 1e-30))
    return worst, worst <= 1.0


def run_dense(name: str) -> tuple[float, bool]:
    dtype, batch, sq, sk, heads, heads_k, dim, backward, options = DENSE[name]
    options = dict(options)
    torch.manual_seed(5)
    q = torch.randn(batch, sq, heads, dim).to(dtype)
    k, v = (torch.randn(batch, sk, heads_k, dim).to(dtype) for _ in range(2))
    g = torch.randn(batch, sq, heads, dim).to(dtype)
    if options.get("alibi_slopes"):
        options["alibi_slopes"] = torch.rand(heads) * 0.3
    dropout = options.get("dropout_p", 0.0)
    inputs = [x.requires_grad_(backward) for x in (q, k, v)]
    got = kernels.flash_attn_func(*inputs, return_attn_probs=dropout > 0, **options)
    keep = None
    if dropout:
        got, _, mask = got
        keep = (mask >= 0)[..., :sq, :sk] / (1 - dropout)
    results = [got.detach()]
    if backward:
        results += torch.autograd.grad(got, inputs, g)

    seen = reference.visible(
        sq, sk, causal=options.get("causal", False), window_size=options.get("window_size", (-1, -1))
    )
    bias = torch.zeros(sq, sk, dtype=torch.float64).masked_fill(~seen, float("-inf")).expand(batch, heads, sq, sk)
    if options.get("alibi_slopes") is not None:
        bias = bias + reference.alibi_bias(options["alibi_slopes"], sq, sk)

    def other(dtype: torch.dtype) -> list[torch.Tensor]:
        inputs = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
        out = plain(*inputs, bias, options.get("softcap", 0.0), keep)
        return [out.detach(), *(torch.autograd.grad(out, inputs, g.to(dtype)) if backward else ())]

    return compare(results, other(torch.float64), other(dtype))


def run_varlen() -> tuple[float, bool]:
    """Packed sequences, one of them empty, against each by itself."""
    torch.manual_seed(6)
    lengths_q, lengths_k = (50, 0, 70), (64, 30, 90)
    q = torch.randn(sum(lengths_q), 2, 64).half().requires_grad_()
    k, v = (torch.randn(sum(lengths_k), 1, 64).half().requires_grad_() for _ in range(2))
    g = torch.randn_like(q)
    cu_q, cu_k = (torch.tensor([0, *torch.tensor(n).cumsum(0)], dtype=torch.int32) for n in (lengths_q, lengths_k))
    out = kernels.flash_attn_varlen_func(q, k, v, cu_q, cu_k, max(lengths_q), max(lengths_k), causal=True)
    got = [out.detach(), *torch.autograd.grad(out, (q, k, v), g)]

    def other(dtype: torch.dtype) -> list[torch.Tensor]:
        inputs = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
        outs = []
        for i in range(len(lengths_q)):
            a, b = slice(int(cu_q[i]), int(cu_q[i + 1])), slice(int(cu_k[i]), int(cu_k[i + 1]))
            seen = reference.visible(lengths_q[i], lengths_k[i], causal=True, window_size=(-1, -1))
            bias = torch.zeros(*seen.shape, dtype=torch.float64).masked_fill(~seen, float("-inf"))
            bias = bias.view(1, 1, *bias.shape[-2:])
            outs.append(plain(inputs[0][a][None], inputs[1][b][None], inputs[2][b][None], bias, 0.0)[0])
        out = torch.cat(outs)
        return [out.detach(), *torch.autograd.grad(out, inputs, g.to(dtype))]

    return compare(got, other(torch.float64), other(torch.float16))


def run_decode(paged: bool) -> tuple[float, bool]:
    """One query against a cache, with new keys appended, against plain attention over what the cache then holds."""
    torch.manual_seed(7)
    batch, heads, heads_k, dim, capacity, page = 2, 4, 1, 64, 512, 256
    lengths = torch.tensor([130, 300], dtype=torch.int32)
    q = torch.randn(batch, 1, heads, dim).half()
    new_k, new_v = (torch.randn(batch, 1, heads_k, dim).half() for _ in range(2))
    k, v = (torch.randn(batch, capacity, heads_k, dim).half() for _ in range(2))
    table = None
    caches = [k.clone(), v.clone()]
    if paged:
        order = torch.tensor([2, 0, 3, 1])
        caches = [torch.empty(4, page, heads_k, dim).half() for _ in range(2)]
        for cache, dense in zip(caches, (k, v), strict=True):
            cache[order] = dense.view(4, page, heads_k, dim)
        table = order.to(torch.int32).view(batch, 2)
    out = kernels.flash_attn_with_kvcache(
        q, *caches, new_k, new_v, cache_seqlens=lengths, causal=True, block_table=table, num_splits=2
    )
    for i in range(batch):
        k[i, lengths[i]], v[i, lengths[i]] = new_k[i, 0], new_v[i, 0]
    seen = torch.arange(capacity)[None, :] <= lengths[:, None]
    bias = torch.zeros(batch, 1, 1, capacity, dtype=torch.float64).masked_fill(~seen[:, None, None], float("-inf"))
    other = [[plain(q.to(t), k.to(t), v.to(t), bias, 0.0)] for t in (torch.float64, torch.float16)]
    return compare([out], *other)


CASES: dict[str, Callable[[], tuple[float, bool]]] = {
    **{name: (lambda name=name: run_dense(name)) for name in DENSE},
    "varlen": run_varlen,
    "decode": lambda: run_decode(False),
    "decode paged": lambda: run_decode(True),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulator", type=Path, default=ROOT.parent / "shared" / "emulator")
    parser.add_argument("--arch", nargs="+", default=ARCHS)
    parser.add_argument("--case", nargs="+", default=list(CASES), metavar="NAME")
    parser.add_argument("--forward-only", action="store_true", help="leave the backward pass out")
    parser.add_argument("--order", default="1", help="reverse, or a seed for random turns [1]")
    options = parser.parse_args()
    if not (options.emulator / "triton_driver.py").is_file():
        print(f"no emulator at {options.emulator}", file=sys.stderr)
        return 2
    sys.path.insert(0, str(options.emulator))
    import triton_driver

    if options.forward_only:
        for name, (*shape, _, keywords) in DENSE.items():
            DENSE[name] = (*shape, False, keywords)  # type: ignore[assignment]
    print(f"Triton {triton.__version__}", flush=True)
    wrong = 0
    for arch in options.arch:
        order = options.order if options.order == "reverse" else int(options.order)
        triton_driver.install(arch, workers=1, poison=True, order=order)
        for name in options.case:
            start = time.perf_counter()
            try:
                worst, fine = CASES[name]()
                said = f"error {worst:.2f} of what is allowed"
            except Exception as error:  # noqa: BLE001 - a fault of the emulated machine is a result as well
                fine, said = False, f"{type(error).__name__}: {str(error).splitlines()[0]}"
            wrong += not fine
            print(
                f"{arch:<8} {name:<16} {'ok   ' if fine else 'WRONG'} {said}  {time.perf_counter() - start:.1f} s",
                flush=True,
            )
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
