"""Trains a small GPT with one kind of attention: speed, memory, the longest sequence that fits, the losses."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

from .measure import provider
from .reporter import Reporter
from .stopwatch import Stopwatch, stopwatch

__all__ = ["run"]

_CHARACTERS = "0123456789+= \n"
_LIMIT = 1 << 18  # the longest sequence that is tried


def run(request: dict[str, Any], report: Reporter, load_kernels: Callable[[], Any]) -> None:
    """{"provider", "length", "batch", "layers", "heads", "head_dim", "steps", "seed", "longest": bool, "dtype", "device"}.

    The same seed gives the same weights and the same text to every provider, so that their losses can be laid on top
    of each other.
    """
    import torch

    watch = stopwatch(torch, request["device"])
    kernels = functools.cache(load_kernels)
    with report.step("train") as details:
        details["machine"] = {"name": watch.name(), "torch": torch.__version__}
        details.update(_train(torch, watch, kernels, request))
    # Where memory is shared with everything else on the machine, nobody wants to know how much of it can be filled.
    if request.get("longest") and watch.device == "cuda":
        with report.step("longest") as details:
            details["length"] = _longest(torch, watch, kernels, request)
            details["at_limit"] = details["length"] == _LIMIT  # a longer one was not tried


def text_of(torch: Any, seed: int, count: int) -> Any:
    """`count` character codes of sums like "417+96=513", one a line: to predict the result is to learn to add."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(0, 1000, (count // 6 + 2, 2), generator=generator).tolist()
    text = "".join(f"{a}+{b}={a + b}\n" for a, b in numbers)
    return torch.tensor([_CHARACTERS.index(letter) for letter in text[: count + 1]])


def _model(torch: Any, watch: Stopwatch, kernels: Callable[[], Any], request: dict[str, Any], length: int) -> Any:
    nn = torch.nn
    heads, head_dim = request["heads"], request["head_dim"]
    width = heads * head_dim
    point = {"provider": request["provider"], "causal": True, "length": length}
    attention, heads_first = provider(torch, torch.device(watch.device), kernels, point)

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm_a, self.norm_b = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Any) -> Any:  # (batch, length, width)
            qkv = self.qkv(self.norm_a(x)).view(*x.shape[:2], 3, heads, head_dim)
            q, k, v = qkv.unbind(2)  # each (batch, length, heads, head_dim)
            if heads_first:
                y = attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
            else:
                y = attention(q, k, v)
            x = x + self.out(y.reshape(x.shape))
            return x + self.mlp(self.norm_b(x))

    class GPT(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(len(_CHARACTERS), width), nn.Embedding(length, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(request["layers"])))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(_CHARACTERS))

        def forward(self, ids: Any, targets: Any) -> Any:
            x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
            logits = self.head(self.norm(self.blocks(x)))
            return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    torch.manual_seed(request["seed"])
    return GPT().to(watch.device)


def _train(torch: Any, watch: Stopwatch, kernels: Callable[[], Any], request: dict[str, Any]) -> dict[str, Any]:
    length, batch, steps = request["length"], request["batch"], request["steps"]
    watch.start_memory()
    model = _model(torch, watch, kernels, request, length)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4)
    text = text_of(torch, request["seed"], steps * batch * length).to(watch.device)
    losses, marks = [], []
    for step in range(steps):
        start = step * batch * length
        ids = text[start : start + batch * length].view(batch, length)
        targets = text[start + 1 : start + batch * length + 1].view(batch, length)
        with torch.autocast(watch.device, dtype=getattr(torch, request["dtype"])):
            loss = model(ids, targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
        if step >= min(10, steps // 4):  # the first steps compile kernels and fill the allocator
            watch.wait()
            marks.append(time.perf_counter())
    values = [float(value) for value in losses]
    if not all(math.isfinite(value) for value in values):
        raise AssertionError("the loss is not finite")
    seconds = marks[-1] - marks[0]
    return {
        "losses": [round(value, 5) for value in values],
        "samples_per_s": batch * (len(marks) - 1) / seconds if seconds > 0 else None,
        "peak_bytes": watch.peak_bytes(),
    }


def _longest(torch: Any, watch: Stopwatch, kernels: Callable[[], Any], request: dict[str, Any]) -> int:
    """The longest sequence (a power of two, at most _LIMIT) of which one training step with batch 1 fits."""
    fits, length = 0, 512
    while length <= _LIMIT:
        try:
            model = _model(torch, watch, kernels, request, length)
            ids = torch.zeros(1, length, dtype=torch.int64, device=watch.device)
            with torch.autocast(watch.device, dtype=getattr(torch, request["dtype"])):
                loss = model(ids, ids)
            loss.backward()
            watch.wait()
        except torch.OutOfMemoryError:
            break
        finally:
            model = ids = loss = None
            watch.free()
        fits, length = length, length * 2
    return fits
