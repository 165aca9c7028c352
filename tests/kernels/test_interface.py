"""The public functions: flash-attn 2.8's arguments and returns, odd inputs, autograd, torch.compile; kernels interpreted."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import fa_doctor.kernels as kernels
from fa_doctor.kernels import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
    ops,
    reference,
)

OPTIONS = [
    "dropout_p=0.0",
    "softmax_scale=None",
    "causal=False",
    "window_size=(-1,-1)",
    "softcap=0.0",
    "alibi_slopes=None",
]
TAIL = ["deterministic=False", "return_attn_probs=False"]
LENGTHS = ["cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k"]
# The signatures of flash-attn 2.8.3.
SIGNATURES = {
    "flash_attn_func": ["q", "k", "v", *OPTIONS, *TAIL],
    "flash_attn_kvpacked_func": ["q", "kv", *OPTIONS, *TAIL],
    "flash_attn_qkvpacked_func": ["qkv", *OPTIONS, *TAIL],
    "flash_attn_varlen_func": ["q", "k", "v", *LENGTHS, *OPTIONS, *TAIL, "block_table=None"],
    "flash_attn_varlen_kvpacked_func": ["q", "kv", *LENGTHS, *OPTIONS, *TAIL],
    "flash_attn_varlen_qkvpacked_func": ["qkv", "cu_seqlens", "max_seqlen", *OPTIONS, *TAIL],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name: str) -> None:
    parameters = inspect.signature(getattr(kernels, name)).parameters.values()
    got = [p.name if p.default is p.empty else f"{p.name}={p.default!r}".replace(" ", "") for p in parameters]
    assert got == SIGNATURES[name]


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32, grad: bool = False) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    made = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return [x.requires_grad_() for x in made] if grad else made


def cumulative(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def test_packed_forms_agree() -> None:
    (qkv,) = tensors((1, 20, 3, 2, 16), grad=True)
    q, k, v = qkv.unbind(2)
    out = flash_attn_func(q, k, v, causal=True)
    for other in (
        flash_attn_qkvpacked_func(qkv, causal=True),
        flash_attn_kvpacked_func(q, qkv[:, :, 1:], causal=True),
    ):
        assert torch.equal(out, other)
        assert torch.equal(
            torch.autograd.grad(out.sum(), qkv, retain_graph=True)[0], torch.autograd.grad(other.sum(), qkv)[0]
        )
    cu = cumulative([20])
    packed = flash_attn_varlen_qkvpacked_func(qkv[0], cu, 20, causal=True)
    assert torch.equal(packed, flash_attn_varlen_kvpacked_func(q[0], qkv[0, :, 1:], cu, cu, 20, 20, causal=True))
    torch.testing.assert_close(packed, out[0])


@pytest.mark.parametrize("options", [{}, {"causal": True, "dropout_p": 0.3}, {"window_size": (9, 4)}], ids=str)
def test_varlen_with_empty_sequences(options: dict[str, Any]) -> None:
    lengths_q, lengths_k = [17, 0, 1, 40, 6], [17, 5, 33, 25, 0]
    q, k, v, g = tensors((64, 4, 16), (80, 2, 16), (80, 2, 16), (64, 4, 16), grad=True)
    cu_q, cu_k = cumulative(lengths_q), cumulative(lengths_k)
    torch.manual_seed(2)
    out, lse, _ = flash_attn_varlen_func(q, k, v, cu_q, cu_k, 40, 33, return_attn_probs=True, **options)
    got = torch.autograd.grad(out, (q, k, v), g)
    keep = None
    if "dropout_p" in options:
        torch.manual_seed(2)
        keep = reference.dropout_keep(torch.randint(0, 2**62, (2,)), options["dropout_p"], 5, 4, 40, 33)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out64, lse64 = reference.attention_varlen(*exact, cu_q, cu_k, keep=keep, **options)
    torch.testing.assert_close(out.double(), out64, rtol=0, atol=3e-6)
    torch.testing.assert_close(lse.double(), lse64.double(), rtol=0, atol=3e-6)
    assert not out[58:].any()  # the last sequence has no keys
    for a, b in zip(got, torch.autograd.grad(out64, exact, g.double()), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5)


def test_paged_keys() -> None:
    q, k, v = tensors((11, 4, 16), (6, 16, 2, 16), (6, 16, 2, 16))
    table = torch.tensor([[3, 0, 5], [1, 4, 2]], dtype=torch.int32)
    cu_q, cu_k = cumulative([4, 7]), cumulative([40, 21])
    out = flash_attn_varlen_func(q, k, v, cu_q, cu_k, 7, 40, causal=True, block_table=table)
    exact, _ = reference.attention_varlen(
        q.double(), k.double(), v.double(), cu_q, cu_k, causal=True, block_table=table
    )
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=3e-6)
    out = flash_attn_varlen_func(q.requires_grad_(), k, v, cu_q, cu_k, 7, 40, block_table=table)
    with pytest.raises(RuntimeError, match="no backward"):
        out.sum().backward()


@pytest.mark.parametrize(("sq", "sk"), [(0, 5), (5, 0), (0, 0), (20, 3)])
def test_rows_without_keys_are_zero(sq: int, sk: int) -> None:
    q, k, v = tensors((2, sq, 2, 16), (2, sk, 2, 16), (2, sk, 2, 16), grad=True)
    out, lse, _ = flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
    blind = max(sq - sk, 0)
    assert not out[:, :blind].any()
    assert lse[:, :, :blind].isposinf().all()
    assert lse[:, :, blind:].isfinite().all()
    grads = torch.autograd.grad(out.sum(), (q, k, v))
    assert all(g.isfinite().all() for g in grads)
    assert not grads[0][:, :blind].any()


def test_probabilities_show_what_dropout_dropped() -> None:
    """As flash-attn's tests read them: rounded up to 128, the sign is the mask, rows divided by their sum the softmax."""
    q, k, v = tensors((1, 30, 2, 16), (1, 45, 2, 16), (1, 45, 2, 16))
    out, lse, signed = flash_attn_func(q, k, v, dropout_p=0.25, return_attn_probs=True)
    assert signed.shape == (1, 2, 128, 128)
    signed = signed[:, :, :30, :45].double()
    probs = signed.abs() / signed.abs().sum(-1, keepdim=True)
    _, exact_lse, exact = reference.attention(q.double(), k.double(), v.double())
    torch.testing.assert_close(probs, exact, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(lse.double(), exact_lse, rtol=0, atol=3e-6)
    kept = probs.masked_fill(signed < 0, 0.0) / 0.75
    expected = (kept @ v.double().transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)
    assert 0.15 < (signed < 0).double().mean().item() < 0.35


def test_dropout_follows_the_torch_generator() -> None:
    q, k, v = tensors((1, 20, 2, 16), (1, 20, 2, 16), (1, 20, 2, 16))
    torch.manual_seed(1)
    first, second = (flash_attn_func(q, k, v, dropout_p=0.5) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(first, flash_attn_func(q, k, v, dropout_p=0.5))
    assert not torch.equal(first, second)


def test_strides_do_not_matter() -> None:
    q, k, v = tensors((2, 3, 40, 20), (2, 3, 40, 20), (2, 40, 3, 25))
    q, k, v = q.transpose(1, 2)[..., 2:18], k.transpose(1, 2)[..., 4:20], v[..., 3:19]
    expected = flash_attn_func(q.contiguous(), k.contiguous(), v.contiguous(), causal=True)
    assert torch.equal(flash_attn_func(q, k, v, causal=True), expected)
    strided = torch.randn(2, 40, 3, 16, 2)[..., 0].copy_(q)  # even the last dimension
    assert torch.equal(flash_attn_func(strided, k, v, causal=True), expected)


def test_gradient_of_the_logarithm() -> None:
    q, k, v = tensors((1, 12, 2, 16), (1, 15, 1, 16), (1, 15, 1, 16), grad=True)
    out, lse, _ = flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
    got = torch.autograd.grad(out.sum() + (lse * lse).sum(), (q, k, v))
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out64, lse64, _ = reference.attention(*exact, causal=True)
    for a, b in zip(got, torch.autograd.grad(out64.sum() + (lse64 * lse64).sum(), exact), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-5)


def test_autocast_and_checkpoint() -> None:
    q, k, v = tensors((1, 20, 2, 16), (1, 20, 2, 16), (1, 20, 2, 16), grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert flash_attn_func(q, k, v).dtype == torch.bfloat16
    grads = []
    for run in (flash_attn_func, lambda *a: checkpoint(flash_attn_func, *a, use_reentrant=False)):
        torch.manual_seed(3)
        grads.append(torch.autograd.grad(run(q, k, v, 0.3).square().sum(), (q, k, v)))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_operators_pass_opcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "FA_DOCTOR_KERNELS", "reference"
    )  # the contract of the operators; the kernels have their own tests
    q, k, v = tensors((1, 6, 2, 8), (1, 7, 1, 8), (1, 7, 1, 8), grad=True)
    options = (6, 7, 0.3, -1, 0, 2.0, 0.2)
    rng_state = torch.tensor([3, 4])
    torch.library.opcheck(ops.attention_forward, (q, k, v, None, None, None, None, rng_state, *options))
    cu_q, cu_k = cumulative([2, 4]), cumulative([7, 0])
    packed = (q[0].detach(), k[0].detach(), v[0].detach())
    torch.library.opcheck(ops.attention_forward, (*packed, cu_q, cu_k, None, None, rng_state, *options))
    out, lse = ops.attention_forward(q.detach(), k.detach(), v.detach(), None, None, None, None, rng_state, *options)
    saved = (q.detach(), k.detach(), v.detach(), out, lse)
    torch.library.opcheck(
        ops.attention_backward,
        (torch.ones_like(out), torch.ones_like(lse), *saved, None, None, None, rng_state, *options),
    )


def test_compiles_without_a_graph_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FA_DOCTOR_KERNELS", "reference")
    q, k, v = tensors((1, 9, 2, 8), (1, 9, 2, 8), (1, 9, 2, 8), grad=True)
    cu = cumulative([4, 5])

    def step(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        dense = flash_attn_func(q, k, v, causal=True, softcap=3.0)
        packed = flash_attn_varlen_func(q[0], k[0], v[0], cu, cu, 5, 5, window_size=(2, 0))
        return dense.square().sum() + packed.sum()

    compiled: Callable[..., torch.Tensor] = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected = step(q, k, v)
    got = compiled(q, k, v)
    torch.testing.assert_close(got, expected)
    for a, b in zip(torch.autograd.grad(got, (q, k, v)), torch.autograd.grad(expected, (q, k, v)), strict=True):
        torch.testing.assert_close(a, b)


def call(**changes: Any) -> Any:
    arguments: dict[str, Any] = dict(zip("qkv", tensors((2, 4, 4, 8), (2, 6, 2, 8), (2, 6, 2, 8)), strict=True))
    return flash_attn_func(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(2, 4, 8)}, "q must be"),
        ({"q": torch.zeros(2, 4, 3, 8)}, "multiple of the number of heads"),
        ({"q": torch.zeros(2, 4, 4, 16)}, "same head dimension"),
        ({"q": torch.zeros(3, 4, 4, 8)}, "same batch size"),
        ({"q": torch.zeros(2, 4, 4, 8, dtype=torch.int32)}, "float16, bfloat16 or float32"),
        ({"k": torch.zeros(2, 6, 2, 8, dtype=torch.float16)}, "same dtype"),
        ({"v": torch.zeros(2, 5, 2, 8)}, "same shape"),
        ({"q": torch.zeros(2, 4, 4, 257), "k": torch.zeros(2, 6, 2, 257), "v": torch.zeros(2, 6, 2, 257)}, "1 to 256"),
        ({"dropout_p": 1.5}, "probability"),
        ({"dropout_p": -0.1}, "probability"),
        ({"softcap": float("inf")}, "softcap"),
        ({"softmax_scale": float("nan")}, "softmax_scale"),
        ({"alibi_slopes": torch.zeros(3)}, "alibi_slopes must be"),
        ({"alibi_slopes": torch.zeros(4, dtype=torch.float16)}, "float32"),
        ({"q": "text"}, "torch.Tensor"),
        ({"k": [1.0]}, "k must be a torch.Tensor"),
        ({"alibi_slopes": [0.5] * 4}, "alibi_slopes must be a torch.Tensor"),
        ({"window_size": (1,)}, "window_size must be two"),
        ({"window_size": 5}, "window_size must be two"),
        ({"dropout_p": None}, "dropout_p must be a number"),
        ({"softcap": "none"}, "softcap must be a number"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(**changes)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (3, torch.tensor([0, 4]), "cu_seqlens_q must be an int32"),
        (3, torch.tensor([0], dtype=torch.int32), "batch >= 1"),
        (4, torch.tensor([0, 3, 6], dtype=torch.int32), "same length"),
        (3, None, "cu_seqlens_q must be an int32"),
        (4, None, "cu_seqlens_k must be an int32"),
        (3, torch.tensor([3, 1], dtype=torch.int32), "must not decrease"),
        (4, torch.tensor([0, 7], dtype=torch.int32), "behind the last of the 6 tokens"),
        (6, 5, "max_seqlen_k is 5, but"),
        (5, -1, "max_seqlen_q"),
        (0, torch.zeros(1, 4, 4, 8), "q must be"),
    ],
)
def test_wrong_lengths_are_named(position: int, value: Any, message: str) -> None:
    arguments: list[Any] = [*tensors((4, 4, 8), (6, 2, 8), (6, 2, 8)), cumulative([4]), cumulative([6]), 4, 6]
    arguments[position] = value
    with pytest.raises(ValueError, match=message):
        flash_attn_varlen_func(*arguments)


def test_unknown_choice_of_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FA_DOCTOR_KERNELS", "fast")
    with pytest.raises(ValueError, match="FA_DOCTOR_KERNELS"):
        call()
