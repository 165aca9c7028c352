"""The smoke test: from `import torch` to the whole attention call, in an order that narrows a fault down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .reference import Case, attention, budget, compare, math_attention
from .reporter import Reporter

__all__ = ["STEPS", "check_case", "check_decode", "check_origin_call", "check_varlen", "run"]

STEPS = (
    "import torch",
    "find the device",
    "allocate, copy and multiply",
    "import Triton",
    "run a one-line kernel",
    "attention forward",
    "attention backward",
    "decoding with a KV cache",
    "dropout, causal and softcap together",
)


def run(request: dict[str, Any], report: Reporter, load_kernels: Callable[[], Any]) -> None:
    """{"device": "cuda"|"cpu", "seed": int}. On "cpu" the kernels run in Triton's interpreter (the caller sets
    TRITON_INTERPRET=1 before Python starts), which says nothing about a GPU."""
    on_gpu = request["device"] == "cuda"
    with report.step("import torch") as details:
        import torch

        details.update(version=torch.__version__, hip=torch.version.hip, cuda=torch.version.cuda)
    with report.step("find the device") as details:
        if on_gpu:
            if not torch.cuda.is_available():
                raise RuntimeError("torch.cuda.is_available() is False: torch sees no GPU")
            properties = torch.cuda.get_device_properties(0)
            details.update(
                name=properties.name,
                gfx=getattr(properties, "gcnArchName", "").split(":")[0],
                memory_bytes=properties.total_memory,
                count=torch.cuda.device_count(),
            )
        device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    with report.step("allocate, copy and multiply") as details:
        generator = torch.Generator().manual_seed(request["seed"])
        a = torch.randint(-4, 5, (256, 192), generator=generator).to(torch.float16)
        b = torch.randint(-4, 5, (192, 320), generator=generator).to(torch.float16)
        # Small whole numbers: the product is exact in float16 with float32 sums, so any difference is a fault.
        product = (a.to(device) @ b.to(device)).to("cpu")
        if not torch.equal(product.double(), a.double() @ b.double()):
            raise AssertionError("a matrix product of small whole numbers came back wrong")
        if on_gpu:
            details["free_bytes"] = torch.cuda.mem_get_info()[0]
    with report.step("import Triton") as details:
        import triton

        details["version"] = triton.__version__
    with report.step("run a one-line kernel"):
        from .one_line import add_one

        x = torch.arange(300, dtype=torch.float32)
        y = torch.full_like(x, float("nan")).to(device)
        add_one[(3,)](x.to(device), y, 300, BLOCK=128)
        if not torch.equal(y.to("cpu"), x + 1):
            raise AssertionError("a Triton kernel that adds one came back wrong")
    big = on_gpu
    seed = int(request["seed"])
    cases = _cases(big)
    with report.step("attention forward") as details:
        kernels = load_kernels()
        details["errors"] = {case.name: check_case(torch, kernels, case, device, seed) for case in cases}
        details["errors"]["varlen"] = check_varlen(torch, kernels, device, seed, big)
    with report.step("attention backward") as details:
        details["errors"] = {
            case.name: check_case(torch, kernels, case, device, seed + 1, backward=True) for case in cases
        }
    with report.step("decoding with a KV cache") as details:
        details["error"] = check_decode(torch, kernels, device, seed, big)
    with report.step("dropout, causal and softcap together") as details:
        details.update(check_origin_call(torch, kernels, device, seed, big))


def _cases(big: bool) -> list[Case]:
    """Few cases, each with several features: every feature is in one, and every loop of the kernels runs.

    On a GPU they are several tiles long in both directions, with ragged ends; in the interpreter just over one tile.
    """
    capped: dict[str, Any] = {"window": (130, 70), "softcap": 8.0, "head_dim": 72, "kv_heads": 1}
    if big:
        # Each case costs a compilation of the kernels when it first runs: few, and each with several features.
        return [
            Case(
                "causal, grouped queries",
                rows=321,
                cols=449,
                kv_heads=2,
                batch=1,
                causal=True,
                head_dim=128,
                dtype="bfloat16",
            ),
            Case("window, softcap, ALiBi, odd head dim", rows=300, cols=420, batch=1, alibi=True, **capped),
        ]
    small: dict[str, Any] = {"batch": 1, "heads": 2}
    return [
        Case("causal, grouped queries", rows=66, cols=83, batch=1, heads=4, kv_heads=2, causal=True, head_dim=32),
        Case("window, softcap", rows=70, cols=90, window=(21, 9), softcap=8.0, head_dim=16, kv_heads=2, **small),
        Case("ALiBi, odd head dim", rows=40, cols=52, alibi=True, head_dim=24, causal=True, kv_heads=1, **small),
    ]


def check_case(torch: Any, kernels: Any, case: Case, device: Any, seed: int, *, backward: bool = False) -> Any:
    """Runs a case and compares with float64: the largest error of the output, or of each gradient. Raises if wrong."""
    q, k, v, dout, slopes = case.inputs(torch, seed)
    exact = math_attention(torch, (q, k, v, dout), case, slopes, torch.float64)
    rounded = math_attention(torch, (q, k, v, dout), case, slopes, getattr(torch, case.dtype))
    allowed = budget(exact, rounded)
    leaves = [_leaf(x, device, backward) for x in (q, k, v)]
    on_device = None if slopes is None else slopes.to(device)
    out = kernels.flash_attn_func(*leaves, **case.arguments(on_device))
    label = f"attention ({case.name})"
    error = compare(torch, label, out, exact[0], allowed["out"])
    if not backward:
        return error
    out.backward(dout.to(device))
    return {
        name: compare(torch, f"{label}: gradient {name}", leaf.grad, truth, allowed[name])
        for name, leaf, truth in zip(("dq", "dk", "dv"), leaves, exact[1:], strict=True)
    }


def _leaf(x: Any, device: Any, wants_gradient: bool) -> Any:
    """A copy of its own on the device: `to` gives the very same tensor where the device is the CPU."""
    return x.detach().clone().to(device).requires_grad_(wants_gradient)


def check_varlen(torch: Any, kernels: Any, device: Any, seed: int, big: bool) -> float:
    """Sequences of different lengths in one call, one of them empty, each compared with a call of its own."""
    lengths = (130, 0, 257, 31) if big else (19, 0, 35)
    dim = 64 if big else 32
    case = Case("varlen", rows=sum(lengths), cols=sum(lengths), batch=1, heads=2, kv_heads=1, causal=True, head_dim=dim)
    q, k, v, dout, _ = case.inputs(torch, seed + 2)
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    out = kernels.flash_attn_varlen_func(
        q[0].to(device),
        k[0].to(device),
        v[0].to(device),
        ends.to(device),
        ends.to(device),
        max(lengths),
        max(lengths),
        causal=True,
    )
    worst = 0.0
    for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        if end == begin:
            continue
        one: Any = [x[:, begin:end] for x in (q, k, v, dout)]
        exact = math_attention(torch, one, case, None, torch.float64)
        rounded = math_attention(torch, one, case, None, torch.float16)
        allowed = budget(exact, rounded)["out"]
        worst = max(worst, compare(torch, "attention (varlen)", out[begin:end][None], exact[0], allowed))
    return worst


def check_decode(torch: Any, kernels: Any, device: Any, seed: int, big: bool) -> float:
    """One new query a sequence against a KV cache that is filled to different lengths, the new key appended."""
    length, used = (1536, (1200, 37)) if big else (300, (270, 3))
    case = Case("decode", rows=1, cols=length, heads=4, kv_heads=2, head_dim=64 if big else 16, causal=True)
    q, k, v, dout, _ = case.inputs(torch, seed + 3)
    new_k, new_v = (x[:, -1:].contiguous() for x in (k, v))
    cache_k, cache_v = _leaf(k, device, False), _leaf(v, device, False)
    lengths = torch.tensor(used, dtype=torch.int32)
    out = kernels.flash_attn_with_kvcache(
        q.to(device),
        cache_k,
        cache_v,
        new_k.to(device),
        new_v.to(device),
        cache_seqlens=lengths.to(device),
        causal=True,
    )
    worst = 0.0
    for number, filled in enumerate(used):
        keys = torch.cat([k[number : number + 1, :filled], new_k[number : number + 1]], 1)
        values = torch.cat([v[number : number + 1, :filled], new_v[number : number + 1]], 1)
        one: Any = (q[number : number + 1], keys, values, dout[number : number + 1])
        exact = math_attention(torch, one, case, None, torch.float64)
        rounded = math_attention(torch, one, case, None, torch.float16)
        allowed = budget(exact, rounded)["out"]
        worst = max(worst, compare(torch, "decoding", out[number : number + 1], exact[0], allowed))
        appended = cache_k[number, filled].to("cpu")
        if not torch.equal(appended, new_k[number, 0]):
            raise AssertionError("decoding: the new key was not appended to the cache")
    return worst


def check_origin_call(torch: Any, kernels: Any, device: Any, seed: int, big: bool) -> dict[str, Any]:
    """flash_attn_func(q, k, v, dropout_p=0.1, causal=True, softcap=16.0), forward and backward.

    The mask that it says it drew is used in the reference; it must drop about a tenth, and the same seed must give the
    same result.
    """
    rows = 300 if big else 50
    case = Case(
        "origin", rows=rows, cols=rows, heads=2, kv_heads=2, causal=True, softcap=16.0, head_dim=64 if big else 16
    )
    q, k, v, dout, _ = case.inputs(torch, seed + 4)

    def call() -> tuple[Any, Any, list[Any]]:
        torch.manual_seed(seed)
        leaves = [_leaf(x, device, True) for x in (q, k, v)]
        out = kernels.flash_attn_func(*leaves, dropout_p=0.1, causal=True, softcap=16.0)
        out.backward(dout.to(device))
        torch.manual_seed(seed)
        _, _, signed = kernels.flash_attn_func(
            *(x.detach() for x in leaves), dropout_p=0.1, causal=True, softcap=16.0, return_attn_probs=True
        )
        return out, signed, [leaf.grad for leaf in leaves]

    out, signed, gradients = call()
    again, _, _ = call()
    if not torch.equal(out, again):
        raise AssertionError("dropout: the same seed gave two different results")
    keep = (signed[:, :, :rows, :rows] >= 0).to("cpu")
    seen = torch.ones(rows, rows, dtype=torch.bool).tril()
    share = 1 - float(keep[:, :, seen].double().mean())
    spread = 5 * (0.1 * 0.9 / keep[:, :, seen].numel()) ** 0.5  # five standard deviations of a fair draw
    if abs(share - 0.1) > spread:
        raise AssertionError(f"dropout: {share:.4f} of the probabilities were dropped in place of 0.1 +- {spread:.4f}")
    drop = {"keep": keep, "dropout_p": 0.1}
    exact = math_attention(torch, (q, k, v, dout), case, None, torch.float64, **drop)
    rounded = math_attention(torch, (q, k, v, dout), case, None, torch.float16, **drop)
    allowed = budget(exact, rounded)
    errors = {"out": compare(torch, "dropout, causal, softcap", out, exact[0], allowed["out"])}
    for name, actual, truth in zip(("dq", "dk", "dv"), gradients, exact[1:], strict=True):
        errors[name] = compare(torch, f"dropout, causal, softcap: gradient {name}", actual, truth, allowed[name])
    plain = attention(torch, q.double(), k.double(), v.double(), Case("", causal=True), None, keep, 0.1)
    if float((plain - exact[0]).abs().max()) < 4 * allowed["out"]:
        raise AssertionError("the softcap makes no difference in this test: it would not be noticed if it were ignored")
    return {"errors": errors, "dropped": share}
