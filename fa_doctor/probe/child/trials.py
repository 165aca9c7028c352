"""The attention calls of the smoke test, each with what it is held against.

A trial draws its inputs, and has: `reference` (computed on the CPU, on any thread), `call` (makes the call and looks at
nothing, so that its kernels are compiled), and the methods that make the call and raise if the result is wrong.
"""

from __future__ import annotations

from typing import Any

from .prepare import Reference
from .reference import Case, budget, compare, differentiate, math_attention

__all__ = ["DecodeTrial", "DenseTrial", "OriginTrial", "VarlenTrial", "cases"]

_GRADIENTS = ("dq", "dk", "dv")


def cases(big: bool) -> list[Case]:
    """Few cases, each with several features: every feature is in one, and every loop of the kernels runs.

    Each list has a case whose keys end raggedly with no bound on the right, and one with such a bound: the kernels mask
    these apart. On a GPU they are several tiles long in both directions, with ragged ends; in the interpreter just over one tile.
    """
    if big:
        # Each case costs a compilation of the kernels when it first runs: few, and each with several features. The first
        # has 1.3 million elements in its result: a fault that hits one in a million has to meet one.
        return [
            Case(
                "causal, grouped queries",
                rows=321,
                cols=449,
                heads=8,
                kv_heads=2,
                batch=4,
                causal=True,
                head_dim=128,
                dtype="bfloat16",
            ),
            Case(
                "window, softcap, ALiBi, odd head dim",
                rows=300,
                cols=420,
                batch=1,
                alibi=True,
                window=(130, -1),
                softcap=8.0,
                head_dim=40,
                kv_heads=1,
            ),
        ]
    small: dict[str, Any] = {"batch": 1, "heads": 2}
    return [
        Case("causal, grouped queries", rows=66, cols=83, batch=1, heads=4, kv_heads=2, causal=True, head_dim=32),
        Case("window, softcap", rows=70, cols=90, window=(21, 9), softcap=8.0, head_dim=16, kv_heads=2, **small),
        Case("ALiBi, odd head dim", rows=40, cols=52, alibi=True, head_dim=24, kv_heads=1, **small),
    ]


def _exact_and_allowed(torch: Any, tensors: Any, case: Case, slopes: Any = None, **drop: Any) -> tuple[Any, Any]:
    exact = math_attention(torch, tensors, case, slopes, torch.float64, **drop)
    rounded = math_attention(torch, tensors, case, slopes, getattr(torch, case.dtype), **drop)
    return exact, budget(exact, rounded)


def _leaf(x: Any, device: Any, wants_gradient: bool) -> Any:
    """A copy of its own on the device: `to` gives the very same tensor where the device is the CPU."""
    return x.detach().clone().to(device).requires_grad_(wants_gradient)


class DenseTrial:
    """flash_attn_func with the features of a case: the output, then the gradients of the same call."""

    def __init__(self, torch: Any, case: Case, seed: int) -> None:
        self.torch, self.case = torch, case
        *self.tensors, self.slopes = case.inputs(torch, seed)
        self.reference = Reference(lambda: _exact_and_allowed(torch, self.tensors, case, self.slopes))
        self._pending: tuple[Any, list[Any]] | None = None

    def _forward(self, kernels: Any, device: Any) -> tuple[Any, list[Any]]:
        leaves = [_leaf(x, device, True) for x in self.tensors[:3]]
        slopes = None if self.slopes is None else self.slopes.to(device)
        return kernels.flash_attn_func(*leaves, **self.case.arguments(slopes)), leaves

    def call(self, kernels: Any, device: Any) -> None:
        """Forward and backward, results unseen."""
        out, _ = self._forward(kernels, device)
        differentiate(out, self.tensors[3].to(device))

    def forward(self, kernels: Any, device: Any) -> float:
        """The largest error of the output."""
        self._pending = self._forward(kernels, device)
        exact, allowed = self.reference.get()
        return compare(self.torch, f"attention ({self.case.name})", self._pending[0], exact[0], allowed["out"])

    def backward(self, device: Any) -> dict[str, float]:
        """The largest error of each gradient of the call that `forward` made."""
        assert self._pending is not None, "forward comes first"
        (out, leaves), self._pending = self._pending, None
        differentiate(out, self.tensors[3].to(device))
        exact, allowed = self.reference.get()
        label = f"attention ({self.case.name}): gradient"
        return {
            name: compare(self.torch, f"{label} {name}", leaf.grad, truth, allowed[name])
            for name, leaf, truth in zip(_GRADIENTS, leaves, exact[1:], strict=True)
        }


class VarlenTrial:
    """Sequences of different lengths in one call, one of them empty, each compared with attention of its own."""

    def __init__(self, torch: Any, seed: int, big: bool) -> None:
        self.torch = torch
        self.lengths = (130, 0, 257, 31) if big else (19, 0, 35)
        total, dim = sum(self.lengths), 64 if big else 32
        self.case = Case("varlen", rows=total, cols=total, batch=1, heads=2, kv_heads=1, causal=True, head_dim=dim)
        *self.tensors, _ = self.case.inputs(torch, seed + 2)
        self.ends = torch.tensor([0, *self.lengths]).cumsum(0).to(torch.int32)
        self.reference = Reference(self._refer)

    def _refer(self) -> list[tuple[int, int, Any, float]]:
        found = []
        for begin, end in zip(self.ends[:-1].tolist(), self.ends[1:].tolist(), strict=True):
            if end > begin:
                exact, allowed = _exact_and_allowed(self.torch, [x[:, begin:end] for x in self.tensors], self.case)
                found.append((begin, end, exact[0], allowed["out"]))
        return found

    def call(self, kernels: Any, device: Any) -> Any:
        q, k, v = (x[0].to(device) for x in self.tensors[:3])
        ends, longest = self.ends.to(device), max(self.lengths)
        return kernels.flash_attn_varlen_func(q, k, v, ends, ends, longest, longest, causal=True)

    def forward(self, kernels: Any, device: Any) -> float:
        """The largest error of the output."""
        out = self.call(kernels, device)
        return max(
            compare(self.torch, "attention (varlen)", out[begin:end][None], exact, allowed)
            for begin, end, exact, allowed in self.reference.get()
        )


class DecodeTrial:
    """One new query a sequence against a KV cache that is filled to different lengths, the new key appended."""

    def __init__(self, torch: Any, seed: int, big: bool) -> None:
        self.torch = torch
        length, self.used = (1536, (1200, 37)) if big else (300, (270, 3))
        dim = 64 if big else 16
        self.case = Case("decode", rows=1, cols=length, heads=4, kv_heads=2, head_dim=dim, causal=True)
        self.q, self.k, self.v, self.dout, _ = self.case.inputs(torch, seed + 3)
        self.new_k, self.new_v = (x[:, -1:].contiguous() for x in (self.k, self.v))
        self.reference = Reference(self._refer)

    def _refer(self) -> list[tuple[Any, float]]:
        found = []
        for number, filled in enumerate(self.used):
            one = slice(number, number + 1)
            keys = self.torch.cat([self.k[one, :filled], self.new_k[one]], 1)
            values = self.torch.cat([self.v[one, :filled], self.new_v[one]], 1)
            exact, allowed = _exact_and_allowed(self.torch, (self.q[one], keys, values, self.dout[one]), self.case)
            found.append((exact[0], allowed["out"]))
        return found

    def call(self, kernels: Any, device: Any) -> tuple[Any, Any]:
        """The output and the cache of keys."""
        cache_k, cache_v = _leaf(self.k, device, False), _leaf(self.v, device, False)
        new_k, new_v = self.new_k.to(device), self.new_v.to(device)
        lengths = self.torch.tensor(self.used, dtype=self.torch.int32).to(device)
        out = kernels.flash_attn_with_kvcache(
            self.q.to(device), cache_k, cache_v, new_k, new_v, cache_seqlens=lengths, causal=True
        )
        return out, cache_k

    def forward(self, kernels: Any, device: Any) -> float:
        """The largest error of the output; the cache must hold the new key."""
        out, cache_k = self.call(kernels, device)
        worst = 0.0
        for number, (exact, allowed) in enumerate(self.reference.get()):
            worst = max(worst, compare(self.torch, "decoding", out[number : number + 1], exact, allowed))
            appended = cache_k[number, self.used[number]].to("cpu")
            if not self.torch.equal(appended, self.new_k[number, 0]):
                raise AssertionError("decoding: the new key was not appended to the cache")
        return worst


class OriginTrial:
    """flash_attn_func(q, k, v, dropout_p=0.1, causal=True, softcap=16.0), forward and backward.

    The mask that it says it drew is used in the reference; it must drop about a tenth, and the same seed must give the
    same result.
    """

    def __init__(self, torch: Any, seed: int, big: bool) -> None:
        self.torch, self.seed = torch, seed
        self.rows = 300 if big else 50
        sizes: dict[str, Any] = {"rows": self.rows, "cols": self.rows, "heads": 2, "kv_heads": 2}
        self.case = Case("origin", causal=True, softcap=16.0, head_dim=64 if big else 16, **sizes)
        *self.tensors, _ = self.case.inputs(torch, seed + 4)

    def _call(self, kernels: Any, leaves: list[Any], **more: Any) -> Any:
        self.torch.manual_seed(self.seed)
        return kernels.flash_attn_func(*leaves, dropout_p=0.1, causal=True, softcap=16.0, **more)

    def call(self, kernels: Any, device: Any) -> tuple[Any, Any, list[Any]]:
        """The output, the probabilities with the sign of what was dropped, and the gradients."""
        leaves = [_leaf(x, device, True) for x in self.tensors[:3]]
        out = self._call(kernels, leaves)
        differentiate(out, self.tensors[3].to(device))
        _, _, signed = self._call(kernels, [x.detach() for x in leaves], return_attn_probs=True)
        return out, signed, [leaf.grad for leaf in leaves]

    def forward_and_backward(self, kernels: Any, device: Any) -> dict[str, Any]:
        """{"errors": largest of the output and of each gradient, "dropped": share of the probabilities}."""
        torch, rows = self.torch, self.rows
        out, signed, gradients = self.call(kernels, device)
        again = self._call(kernels, [_leaf(x, device, True) for x in self.tensors[:3]])
        if not torch.equal(out, again):
            raise AssertionError("dropout: the same seed gave two different results")
        keep = (signed[:, :, :rows, :rows] >= 0).to("cpu")
        seen = torch.ones(rows, rows, dtype=torch.bool).tril()
        share = 1 - float(keep[:, :, seen].double().mean())
        spread = 5 * (0.1 * 0.9 / keep[:, :, seen].numel()) ** 0.5  # five standard deviations of a fair draw
        if abs(share - 0.1) > spread:
            raise AssertionError(
                f"dropout: {share:.4f} of the probabilities were dropped in place of 0.1 +- {spread:.4f}"
            )
        drop = {"keep": keep, "dropout_p": 0.1}
        exact, allowed = _exact_and_allowed(torch, self.tensors, self.case, **drop)
        label = "dropout, causal, softcap"
        errors = {"out": compare(torch, label, out, exact[0], allowed["out"])}
        for name, actual, truth in zip(_GRADIENTS, gradients, exact[1:], strict=True):
            errors[name] = compare(torch, f"{label}: gradient {name}", actual, truth, allowed[name])
        return {"errors": errors, "dropped": share}
