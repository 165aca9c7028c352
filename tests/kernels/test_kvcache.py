"""flash_attn_with_kvcache against float64: feature by feature, then random mixtures of them.

The criterion is flash-attn's own: the error is at most twice that of PyTorch's plain attention in the same dtype. Runs
on the GPU if there is one, else in Triton's interpreter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fa_doctor.kernels.compat import interpreting
from fa_doctor.kernels.decode import MAX_SPLITS, choose_splits
from fa_doctor.kernels.kvcache import flash_attn_with_kvcache

# On a machine with a GPU: TRITON_INTERPRET=0 pytest tests/kernels
DEVICE = "cuda" if torch.cuda.is_available() and not interpreting() else "cpu"
HALF, BFLOAT, FLOAT = torch.float16, torch.bfloat16, torch.float32


@dataclass(frozen=True)
class Case:
    """One call. lengths: keys in the cache before the call; new: tokens appended (None: no append)."""

    lengths: tuple[int, ...] | None = (70, 33)
    seqlen_q: int = 1
    new: int | None = None
    capacity: int = 96
    heads: int = 4
    heads_k: int = 2
    head_dim: int = 64
    dtype: torch.dtype = HALF
    rotary_dim: int = 0
    interleaved: bool = True
    page_size: int | None = None
    batch_idx: bool = False
    leftpad: tuple[int, ...] | None = None
    alibi: bool = False
    options: dict[str, Any] = field(default_factory=dict)  # passed on as they are
    seed: int = 0

    @property
    def batch(self) -> int:
        return len(self.lengths) if self.lengths is not None else 2


def build(case: Case) -> dict[str, Any]:
    """Arguments of flash_attn_with_kvcache. What no query may read is NaN."""
    random = torch.Generator().manual_seed(case.seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random).to(DEVICE, case.dtype)

    def integers(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=DEVICE)

    batch, shape = case.batch, (case.heads_k, case.head_dim)
    pages = None if case.page_size is None else math.ceil(case.capacity / case.page_size)
    if pages is None or case.page_size is None:
        rows = batch * 2 if case.batch_idx else batch
        k_cache, v_cache = randn(rows, case.capacity, *shape), randn(rows, case.capacity, *shape)
        table = None
    else:
        rows = pages * batch + 3
        k_cache, v_cache = randn(rows, case.page_size, *shape), randn(rows, case.page_size, *shape)
        table = integers(torch.randperm(rows, generator=random)[: pages * batch].view(batch, pages).tolist())
    idx = integers(torch.randperm(rows, generator=random)[:batch].tolist()) if case.batch_idx else None
    capacity = case.capacity if pages is None or case.page_size is None else pages * case.page_size
    cos = sin = None
    if case.rotary_dim:
        angle = torch.rand(capacity, case.rotary_dim // 2, generator=random) * 2 * math.pi
        cos, sin = angle.cos().to(DEVICE, case.dtype), angle.sin().to(DEVICE, case.dtype)
    slopes = torch.rand(batch, case.heads, generator=random).to(DEVICE) * 0.3 if case.alibi else None
    arguments: dict[str, Any] = {
        "q": randn(batch, case.seqlen_q, case.heads, case.head_dim),
        "k_cache": k_cache,
        "v_cache": v_cache,
        "k": None if case.new is None else randn(batch, case.new, *shape),
        "v": None if case.new is None else randn(batch, case.new, *shape),
        "rotary_cos": cos,
        "rotary_sin": sin,
        "rotary_interleaved": case.interleaved,
        "cache_seqlens": None if case.lengths is None else integers(case.lengths),
        "cache_batch_idx": idx,
        "cache_leftpad": None if case.leftpad is None else integers(case.leftpad),
        "block_table": table,
        "alibi_slopes": slopes,
        **case.options,
    }
    for b in range(batch):
        used = capacity if case.lengths is None else case.lengths[b]
        for cache in (k_cache, v_cache):
            places(arguments, cache, b, used, capacity, math.nan)
            places(arguments, cache, b, 0, 0 if case.leftpad is None else case.leftpad[b], math.nan)
    return arguments


def places(
    arguments: dict[str, Any],
    cache: torch.Tensor,
    b: int,
    first: int,
    last: int,
    write: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Positions first ... last - 1 of sequence b: (last - first, heads_k, head_dim); written first, if asked."""
    positions = torch.arange(first, last, device=cache.device)
    table, idx = arguments["block_table"], arguments["cache_batch_idx"]
    if table is not None:
        rows, slots = table[b].long()[positions // cache.shape[1]], positions % cache.shape[1]
    else:
        rows, slots = torch.full_like(positions, b if idx is None else int(idx[b])), positions
    if write is not None:
        cache[rows, slots] = write
    return cache[rows, slots]


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, at: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """x (tokens, heads, head_dim) as complex numbers times e^(i angle), at the positions `at`."""
    half = cos.shape[1]
    y = x.double().clone()
    first = slice(0, 2 * half, 2) if interleaved else slice(0, half)
    second = slice(1, 2 * half, 2) if interleaved else slice(half, 2 * half)
    turned = torch.complex(y[..., first], y[..., second]) * torch.complex(cos.double(), sin.double())[at][:, None]
    y[..., first], y[..., second] = turned.real, turned.imag
    return y.to(x.dtype)


def plain(case: Case, arguments: dict[str, Any], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Out and log-sum-exp by textbook attention in `dtype`, from the cache as the call left it."""
    q = arguments["q"]
    causal = bool(arguments.get("causal", False))
    left, right = arguments.get("window_size", (-1, -1))
    right = 0 if causal else right
    capacity = case.capacity
    outs, lses = [], []
    for b in range(case.batch):
        before = capacity if case.lengths is None else case.lengths[b]
        total = before + (case.new or 0)
        start = 0 if case.leftpad is None else case.leftpad[b]
        k, v = (places(arguments, arguments[name], b, start, total).to(dtype) for name in ("k_cache", "v_cache"))
        q_b = q[b]
        if case.rotary_dim:
            at = torch.full((case.seqlen_q,), before, device=q.device)
            if left >= 0 or right >= 0:
                at = at + torch.arange(case.seqlen_q, device=q.device)
            q_b = turn(q_b, arguments["rotary_cos"], arguments["rotary_sin"], at, case.interleaved)
        k, v = (x.repeat_interleave(case.heads // case.heads_k, dim=1).transpose(0, 1) for x in (k, v))
        scale = arguments.get("softmax_scale", case.head_dim**-0.5)
        scores = q_b.to(dtype).transpose(0, 1) @ k.transpose(1, 2) * scale  # (heads, seqlen_q, keys)
        softcap = arguments.get("softcap", 0.0)
        if softcap:
            scores = torch.tanh(scores / softcap) * softcap
        position = torch.arange(total - case.seqlen_q, total, device=q.device)[:, None]
        key = torch.arange(start, total, device=q.device)[None, :]
        if case.alibi:
            scores = scores - arguments["alibi_slopes"][b][:, None, None].to(dtype) * (position - key).abs()
        hidden = torch.zeros_like(position - key, dtype=torch.bool)
        if left >= 0:
            hidden |= key < position - left
        if right >= 0:
            hidden |= key > position + right
        scores = scores.masked_fill(hidden, -math.inf)
        outs.append((torch.softmax(scores, -1).nan_to_num(0.0) @ v).transpose(0, 1))
        lse = torch.logsumexp(scores.double(), -1)
        lses.append(torch.where(lse == -math.inf, math.inf, lse))
    return torch.stack(outs), torch.stack(lses)


def check(case: Case) -> None:
    """The call's output, log-sum-exp and cache are what they must be."""
    arguments = build(case)
    before = {name: arguments[name].clone() for name in ("q", "k_cache", "v_cache")}
    out, lse = flash_attn_with_kvcache(**arguments, return_softmax_lse=True)
    assert out.shape == arguments["q"].shape
    assert out.dtype == case.dtype
    assert lse.shape == (case.batch, case.heads, case.seqlen_q)
    assert torch.equal(arguments["q"], before["q"])

    # -- the cache: new tokens at their places, the keys turned, everything else untouched --
    for name, new in (("k_cache", arguments["k"]), ("v_cache", arguments["v"])):
        if new is not None and case.lengths is not None:
            for b, length in enumerate(case.lengths):
                value = new[b]
                if name == "k_cache" and case.rotary_dim:
                    at = torch.arange(length, length + new.shape[1], device=new.device)
                    value = turn(value, arguments["rotary_cos"], arguments["rotary_sin"], at, case.interleaved)
                places(arguments, before[name], b, length, length + new.shape[1], value)
        tolerance = (
            {"rtol": 2 * torch.finfo(case.dtype).eps, "atol": 1e-6} if case.rotary_dim else {"rtol": 0, "atol": 0}
        )
        torch.testing.assert_close(arguments[name], before[name], equal_nan=True, **tolerance)

    # -- the numbers --
    exact, exact_lse = plain(case, arguments, torch.float64)
    math_out, _ = plain(case, arguments, case.dtype)
    assert torch.isfinite(out).all()
    # Beyond twice the error of PyTorch: the last rounding of the output, and of rotated queries and keys, which may go
    # another way from float32 than from the float64 of `turn`.
    ulp = torch.finfo(case.dtype).eps * exact.abs().max()
    allowed = 2 * (math_out.double() - exact).abs().max() + (2 if case.rotary_dim else 0.5) * ulp
    assert (out.double() - exact).abs().max() <= allowed
    torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-5, atol=2e-3 if case.dtype != FLOAT else 1e-5)


FEATURES = {
    "plain": Case(),
    "full-cache": Case(lengths=None),
    "float32": Case(dtype=FLOAT),
    "bfloat16": Case(dtype=BFLOAT),
    "mha": Case(heads_k=4),
    "mqa": Case(heads=8, heads_k=1),
    "group3": Case(heads=6, heads_k=2),
    "head-dim-59": Case(head_dim=59),
    "head-dim-80": Case(head_dim=80, dtype=FLOAT),
    "head-dim-256": Case(head_dim=256, new=1, rotary_dim=128),
    "head-dim-8": Case(head_dim=8),
    "append": Case(new=1),
    "append-many": Case(new=5, seqlen_q=5, options={"causal": True}),
    "append-fewer-than-queries": Case(new=2, seqlen_q=7, options={"causal": True}),
    "append-to-empty": Case(lengths=(0, 0), new=3, seqlen_q=3, options={"causal": True}),
    "append-fills-cache": Case(lengths=(92, 95), new=1, capacity=96),
    "empty": Case(lengths=(0, 40)),
    "more-queries-than-keys": Case(lengths=(2, 30), seqlen_q=9, options={"causal": True}),
    "rotary-interleaved": Case(new=1, rotary_dim=32, dtype=FLOAT),
    "rotary-halves": Case(new=1, rotary_dim=64, interleaved=False),
    "rotary-causal": Case(new=4, seqlen_q=4, rotary_dim=16, interleaved=False, options={"causal": True}),
    "rotary-window": Case(new=4, seqlen_q=4, rotary_dim=64, options={"window_size": (20, 3)}),
    "rotary-not-causal": Case(new=4, seqlen_q=4, rotary_dim=32, dtype=FLOAT),
    "rotary-head-dim-80": Case(new=2, seqlen_q=2, head_dim=80, rotary_dim=48, interleaved=False),
    "paged-64": Case(page_size=64, capacity=192, lengths=(150, 40), new=3, seqlen_q=3, options={"causal": True}),
    "paged-16": Case(page_size=16, new=1, rotary_dim=64),
    "paged-24": Case(page_size=24, new=30, seqlen_q=30, lengths=(65, 7), options={"causal": True}),
    "paged-1": Case(page_size=1, capacity=40, lengths=(39, 11), dtype=FLOAT),
    "paged-256": Case(page_size=256, capacity=512, lengths=(300, 17), new=1),
    "paged-leftpad": Case(page_size=32, leftpad=(5, 30)),
    "batch-idx": Case(batch_idx=True, new=1),
    "leftpad": Case(leftpad=(69, 10), new=1),
    "leftpad-all": Case(leftpad=(70, 33)),
    "causal": Case(seqlen_q=5, options={"causal": True}),
    "window": Case(seqlen_q=3, options={"window_size": (10, 0)}),
    "window-right": Case(seqlen_q=6, dtype=FLOAT, options={"window_size": (-1, 2)}),
    "window-left-open-right": Case(seqlen_q=6, options={"window_size": (4, -1)}),
    "window-one-query": Case(options={"window_size": (7, 7), "causal": True}),
    "softcap": Case(seqlen_q=2, options={"softcap": 3.0}),
    "softcap-float32": Case(seqlen_q=2, dtype=FLOAT, options={"softcap": 15.0}),
    "alibi": Case(seqlen_q=3, alibi=True, dtype=FLOAT),
    "alibi-causal-leftpad": Case(seqlen_q=3, alibi=True, leftpad=(3, 9), options={"causal": True}),
    "scale-negative": Case(options={"softmax_scale": -0.2}),
    "scale-zero": Case(lengths=(40, 0), dtype=FLOAT, options={"softmax_scale": 0.0}),
    "splits-2": Case(options={"num_splits": 2}),
    "splits-beyond-tiles": Case(options={"num_splits": 7}, lengths=(90, 1), dtype=FLOAT),
    "splits-not-cut": Case(options={"num_splits": 1}, capacity=300, lengths=(299, 130)),
    "splits-window": Case(
        seqlen_q=2, lengths=(250, 131), capacity=256, options={"num_splits": 3, "window_size": (99, 0)}
    ),
    "splits-128": Case(lengths=(70,), heads=2, heads_k=1, options={"num_splits": 128}),
    "rows-64": Case(seqlen_q=33, heads=6, heads_k=3, new=33, capacity=128, options={"causal": True}),
    "everything": Case(
        new=4, seqlen_q=4, heads=6, heads_k=2, head_dim=72, dtype=BFLOAT, rotary_dim=48, batch_idx=True,
        leftpad=(11, 2), alibi=True, options={"window_size": (40, 1), "softcap": 8.0, "num_splits": 2},
    ),
}  # fmt: skip


# What test_amd_decoding.py runs elsewhere.
EMULATED = {name: (lambda case=case: check(case)) for name, case in FEATURES.items()}  # type: ignore[misc]


@pytest.mark.parametrize("case", FEATURES.values(), ids=FEATURES.keys())
def test_feature(case: Case) -> None:
    check(case)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    batch = draw(st.integers(1, 3))
    capacity = draw(st.integers(1, 100))
    new = draw(st.none() | st.integers(1, min(capacity, 20)))
    room = capacity - (new or 0)
    lengths = tuple(draw(st.integers(0, room)) for _ in range(batch))
    page_size = draw(st.none() | st.sampled_from([1, 7, 16, 32, 64]))
    head_dim = draw(st.sampled_from([8, 16, 33, 64, 128]))
    group, heads_k = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    window = draw(st.sampled_from([(-1, -1), (0, 0), (5, -1), (-1, 3), (30, 2)]))
    return Case(
        lengths=lengths,
        seqlen_q=draw(st.integers(1, min(capacity, 20))),
        new=new,
        capacity=capacity,
        heads=group * heads_k,
        heads_k=heads_k,
        head_dim=head_dim,
        dtype=draw(st.sampled_from([HALF, BFLOAT, FLOAT])),
        rotary_dim=draw(st.sampled_from([0, 16])) if new and head_dim >= 16 else 0,
        interleaved=draw(st.booleans()),
        page_size=page_size,
        batch_idx=page_size is None and draw(st.booleans()),
        leftpad=tuple(draw(st.integers(0, n)) for n in lengths) if draw(st.booleans()) else None,
        alibi=draw(st.booleans()),
        options={
            "causal": draw(st.booleans()),
            "window_size": window,
            "softcap": draw(st.sampled_from([0.0, 4.0])),
            "num_splits": draw(st.sampled_from([0, 0, 1, 2, 5])),
        },
        seed=draw(st.integers(0, 1000)),
    )


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases())
def test_mixture(case: Case) -> None:
    if case.rotary_dim and case.page_size is None and case.seqlen_q > case.capacity:
        case = replace(case, rotary_dim=0)
    check(case)


def test_length_as_int_is_the_same_as_a_tensor_of_it() -> None:
    arguments = build(Case(lengths=(41, 41), new=1))
    as_tensor = flash_attn_with_kvcache(**arguments)
    assert torch.equal(flash_attn_with_kvcache(**{**arguments, "cache_seqlens": 41}), as_tensor)


def test_same_bits_from_run_to_run() -> None:
    arguments = build(Case(options={"num_splits": 3}))
    assert torch.equal(flash_attn_with_kvcache(**arguments), flash_attn_with_kvcache(**arguments))


def test_strided_queries_and_cache() -> None:
    """Views of wider tensors: q and the caches as slices of one packed buffer, heads before tokens."""
    arguments = build(Case(new=1))
    plain_out = flash_attn_with_kvcache(**arguments)
    for name in ("q", "k_cache", "v_cache", "k", "v"):
        x = arguments[name]
        wide = torch.full(
            (x.shape[2], x.shape[0], x.shape[1], x.shape[3] + 5), math.nan, dtype=x.dtype, device=x.device
        )
        view = wide.permute(1, 2, 0, 3)[..., 2:-3]
        view.copy_(x)
        arguments[name] = view
    assert torch.equal(flash_attn_with_kvcache(**arguments), plain_out)


def test_backward_raises_rather_than_giving_no_gradient() -> None:
    arguments = build(Case())
    arguments["q"].requires_grad_()
    out = flash_attn_with_kvcache(**arguments)
    with pytest.raises((RuntimeError, NotImplementedError)):
        out.sum().backward()


def test_compiled_with_fullgraph() -> None:
    """The registered operator: one graph, and the cache still changes in place."""
    arguments = build(Case(new=1))
    expected_cache = {name: arguments[name].clone() for name in ("k_cache", "v_cache")}
    expected = flash_attn_with_kvcache(**{**arguments, **expected_cache})
    compiled = torch.compile(flash_attn_with_kvcache, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(**arguments), expected)
    for name, cache in expected_cache.items():
        assert torch.equal(arguments[name].nan_to_num(7.0), cache.nan_to_num(7.0))


@pytest.mark.parametrize("case", [Case(), Case(seqlen_q=4, new=4, rotary_dim=16, alibi=True, page_size=32)])
def test_reference_agrees(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain PyTorch definition passes the same check as the kernels."""
    monkeypatch.setenv("FA_DOCTOR_KERNELS", "reference")
    check(case)


@given(st.integers(1, 5000), st.integers(0, 8000), st.sampled_from([1, 16, 60, 132, 304]))
def test_number_of_splits(programs: int, tiles: int, units: int) -> None:
    splits = choose_splits(programs, tiles, units)
    assert 1 <= splits <= max(1, min(MAX_SPLITS, tiles))
    # Few programs and many tiles: most of the GPU has something to do. Not all of it: what more splits would save is
    # less than what combining them costs, where a split has only a few tiles.
    if tiles >= 2 * units:
        assert programs * splits >= min(units, MAX_SPLITS * programs) * 0.4


def test_splits_of_known_shapes() -> None:
    """132 compute units, tiles of 32 keys: what was fastest on an H100 of those tried."""
    assert choose_splits(8, 8192 // 32, 132) in (24, 32, 33)
    assert choose_splits(16, 8192 // 32, 132) == 16
    assert choose_splits(8, 131072 // 32, 132) >= 32
    assert choose_splits(512, 131072 // 32, 132) >= 32  # a split has at most 128 tiles
