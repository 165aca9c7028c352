"""Attention by its definition, on the CPU in float64: what the GPU's answers are held against.

Written apart from the kernels' own reference, and never run on the device under test: a GPU that computes wrongly
must not be asked whether it does.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["Case", "attention", "budget", "compare", "differentiate", "math_attention"]


class Case:
    """One attention problem: sizes, dtype and features. Sequences are (batch, length, heads, head_dim)."""

    def __init__(
        self,
        name: str,
        *,
        rows: int = 65,
        cols: int = 81,
        heads: int = 4,
        kv_heads: int = 4,
        head_dim: int = 64,
        batch: int = 2,
        dtype: str = "float16",
        causal: bool = False,
        window: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi: bool = False,
    ) -> None:
        self.name = name
        self.rows, self.cols = rows, cols
        self.heads, self.kv_heads, self.head_dim, self.batch = heads, kv_heads, head_dim, batch
        self.dtype = dtype
        self.causal, self.window, self.softcap, self.alibi = causal, window, softcap, alibi

    def inputs(self, torch: Any, seed: int) -> tuple[Any, Any, Any, Any, Any]:
        """Fresh q, k, v, the gradient of the output, and ALiBi slopes (or None), on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        dtype = getattr(torch, self.dtype)

        def draw(length: int, heads: int) -> Any:
            shape = (self.batch, length, heads, self.head_dim)
            return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)

        q, k, v = draw(self.rows, self.heads), draw(self.cols, self.kv_heads), draw(self.cols, self.kv_heads)
        if self.softcap:
            # Scores of the softcap's own size: with small ones the cap would do next to nothing, and go unnoticed.
            q = q * 4
        slopes = torch.rand(self.batch, self.heads, generator=generator) * 0.5 + 0.1 if self.alibi else None
        return q, k, v, draw(self.rows, self.heads), slopes

    def arguments(self, slopes: Any) -> dict[str, Any]:
        """The features as flash_attn_func takes them."""
        return {"causal": self.causal, "window_size": self.window, "softcap": self.softcap, "alibi_slopes": slopes}


def attention(
    torch: Any, q: Any, k: Any, v: Any, case: Case, slopes: Any, keep: Any = None, dropout_p: float = 0.0
) -> Any:
    """softmax(cap(q k^T / sqrt(d)) + bias) v by the definition, in the dtype of its inputs; a row without keys gives 0.

    `keep`: bool (batch, heads, rows, cols), True where dropout keeps. Query i stands at key i + cols - rows.
    """
    rows, cols = q.shape[1], k.shape[1]
    groups = q.shape[2] // k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (batch, heads, length, head_dim)
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if case.softcap > 0:
        scores = case.softcap * torch.tanh(scores / case.softcap)
    distance = torch.arange(rows)[:, None] + cols - rows - torch.arange(cols)[None, :]
    if slopes is not None:
        scores = scores - slopes[:, :, None, None].to(scores.dtype) * distance.abs().to(scores.dtype)
    left, right = case.window
    right = 0 if case.causal else right
    seen = torch.ones(rows, cols, dtype=torch.bool)
    if left >= 0:
        seen &= distance <= left
    if right >= 0:
        seen &= distance >= -right
    scores = scores.masked_fill(~seen, float("-inf"))
    probabilities = torch.softmax(scores, -1).nan_to_num(0.0)
    if keep is not None:
        probabilities = probabilities * keep / (1 - dropout_p)
    return (probabilities @ v).transpose(1, 2)


def differentiate(out: Any, gradient: Any) -> None:
    """out.backward(gradient) by way of a scalar, whose gradient is exactly the same.

    Torch imports sympy (480 modules, half a second) to compare the shapes of a gradient that is handed to it.
    """
    (out * gradient).sum().backward()


def math_attention(torch: Any, tensors: Any, case: Case, slopes: Any, dtype: Any, **drop: Any) -> list[Any]:
    """Output and the gradients of q, k, v in `dtype`, as float64 tensors. `tensors`: q, k, v and the output's gradient."""
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in tensors[:3])
    out = attention(torch, q, k, v, case, slopes, **drop)
    differentiate(out, tensors[3].to(dtype))
    return [out.detach().double(), q.grad.double(), k.grad.double(), v.grad.double()]


def budget(
    exact: list[Any], rounded: list[Any], names: tuple[str, ...] = ("out", "dq", "dk", "dv")
) -> dict[str, float]:
    """The largest error that each result may have: twice that of the plain computation in the same dtype (the criterion
    of flash-attn's own tests), and no less than a thousandth of the largest value, below which inputs' rounding hides."""
    return {
        name: max(2 * float((b - a).abs().max()), 1e-3 * float(a.abs().max()))
        for name, a, b in zip(names, exact, rounded, strict=True)
    }


def compare(torch: Any, name: str, actual: Any, exact: Any, allowed: float) -> float:
    """The largest error; raises AssertionError that names the worst element if one is off by more than `allowed`.

    Every element counts: a single wrong one among millions is a fault. NaN is never within any bound.
    """
    actual = actual.detach().to("cpu").double()
    if actual.shape != exact.shape:
        raise AssertionError(f"{name} has the shape {tuple(actual.shape)} in place of {tuple(exact.shape)}")
    error = (actual - exact).abs()
    wrong = ~(error <= allowed)
    count = int(wrong.sum())
    if count:
        order = error.nan_to_num(nan=float("inf")) * wrong
        place = tuple(int(i) for i in torch.unravel_index(order.argmax(), order.shape))
        raise AssertionError(
            f"{name}: {count} of {error.numel()} elements are wrong; the worst, at {list(place)}, is "
            f"{float(actual[place]):.6g} in place of {float(exact[place]):.6g} (allowed error {allowed:.3g})"
        )
    return float(error.max()) if error.numel() else 0.0
