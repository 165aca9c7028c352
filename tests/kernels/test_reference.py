"""The reference itself: against attention written out in loops, against finite differences, against known random bits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fa_doctor.kernels import reference


def looped(
    q: Any, k: Any, v: Any, scale: float, causal: bool, window: tuple[int, int], softcap: float, slope: Any
) -> Any:
    """One query, one head, one score at a time, as the documentation says it."""
    batch, sq, heads, _ = q.shape
    sk, group = k.shape[1], heads // k.shape[2]
    out = torch.zeros_like(q)
    for b in range(batch):
        for h in range(heads):
            for i in range(sq):
                position, weights, total = i + sk - sq, {}, 0.0
                for j in range(sk):
                    hidden = (causal and j > position) or (window[0] >= 0 and j < position - window[0])
                    if hidden or (window[1] >= 0 and j > position + window[1]):
                        continue
                    score = float(q[b, i, h] @ k[b, j, h // group]) * scale
                    if softcap > 0:
                        score = softcap * math.tanh(score / softcap)
                    if slope is not None:
                        score -= float(slope[h]) * abs(position - j)
                    weights[j] = math.exp(score)
                    total += weights[j]
                for j, weight in weights.items():
                    out[b, i, h] += weight / total * v[b, j, h // group]
    return out


@pytest.mark.parametrize("lengths", [(4, 7), (7, 4), (1, 5), (5, 5)], ids=str)
@pytest.mark.parametrize(
    ("causal", "window", "softcap", "alibi"),
    [
        (False, (-1, -1), 0.0, False),
        (True, (-1, -1), 0.0, True),
        (False, (2, 1), 1.5, False),
        (True, (1, -1), 0.0, False),
        (False, (-1, 0), 0.7, True),
    ],
)
def test_reference_is_the_definition(
    lengths: tuple[int, int], causal: bool, window: tuple[int, int], softcap: float, alibi: bool
) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, lengths[0], 4, 3, dtype=torch.float64)
    k, v = (torch.randn(2, lengths[1], 2, 3, dtype=torch.float64) for _ in range(2))
    slopes = torch.tensor([0.5, 0.25, 1.0, 0.125]) if alibi else None
    out, lse, probs = reference.attention(
        q, k, v, softmax_scale=0.6, causal=causal, window_size=window, softcap=softcap, alibi_slopes=slopes
    )
    torch.testing.assert_close(out, looped(q, k, v, 0.6, causal, window, softcap, slopes), rtol=1e-6, atol=1e-7)
    seen = probs.sum(-1)  # 1, or 0 for a row that sees nothing; there the logarithm is +inf
    assert torch.equal(seen < 0.5, lse.isinf())
    torch.testing.assert_close(seen[seen > 0.5], torch.ones_like(seen[seen > 0.5]))


OPTIONS: list[dict[str, Any]] = [
    {},
    {"causal": True},
    {"window_size": (1, 2), "softcap": 0.8},
    {"alibi_slopes": torch.tensor([0.3, 0.1]), "softmax_scale": -0.4, "dropout_p": 0.4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
def test_gradients_of_the_reference(options: dict[str, Any]) -> None:
    """Autograd through the reference against finite differences, and the written formulas against autograd."""
    torch.manual_seed(0)
    q = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(1, 4, 1, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    keep = None
    if "dropout_p" in options:
        keep = torch.rand(1, 2, 3, 4) > 0.4

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return reference.attention(*tensors, keep=keep, **options)[:2]

    assert torch.autograd.gradcheck(run, (q, k, v))
    out, lse = run(q, k, v)
    dout, dlse = torch.randn_like(out), torch.randn_like(lse)
    automatic = torch.autograd.grad((out, lse), (q, k, v), (dout, dlse))
    written = reference.attention_grads(dout, dlse, q.detach(), k.detach(), v.detach(), keep=keep, **options)
    for a, b in zip(automatic, written, strict=True):
        torch.testing.assert_close(a, b)


def test_philox_gives_the_published_numbers() -> None:
    """The known-answer vectors of Random123 for Philox-4x32 with 10 rounds."""
    word = 0xFFFFFFFF
    cases = {
        (0, 0): [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        (word, word): [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    }
    for (counter, key), expected in cases.items():
        bits = reference._philox([torch.tensor([counter])] * 4, [torch.tensor([key])] * 2)
        assert [int(x) for x in bits] == expected


def test_dropout_bits_look_random() -> None:
    """Frequencies of the whole, of rows, columns, neighbours and heads stay within what chance allows."""
    n, p = 512, 0.3
    keep = reference.dropout_keep(torch.tensor([1234567, 89]), p, 2, 2, n, n).double()
    sigma = (p * (1 - p)) ** 0.5
    assert abs(keep.mean().item() - (1 - p)) < 5 * sigma / (4 * n * n) ** 0.5
    for dim in (-1, -2):  # means of single rows, of single columns: their spread as that of independent bits
        spread = keep.mean(dim).sub(1 - p).std().item() / (sigma / n**0.5)
        assert 0.93 < spread < 1.07
    centred = keep - (1 - p)
    pairs = [
        (centred[..., 1:], centred[..., :-1]),
        (centred[..., 1:, :], centred[..., :-1, :]),
        (centred[..., 8:, 8:], centred[..., :-8, :-8]),
        (centred[0], centred[1]),
        (centred[:, 0], centred[:, 1]),
    ]
    for a, b in pairs:
        assert abs((a * b).mean().item()) < 5 * sigma**2 / a.numel() ** 0.5
    squares = centred[..., 1:, 1:] * centred[..., :-1, 1:] * centred[..., 1:, :-1] * centred[..., :-1, :-1]
    assert abs(squares.mean().item()) < 5 * sigma**4 / squares.numel() ** 0.5


def test_dropout_bits_depend_on_seed_and_offset() -> None:
    def bits(seed: int, offset: int) -> torch.Tensor:
        return reference.dropout_keep(torch.tensor([seed, offset]), 0.5, 1, 1, 64, 64)

    assert torch.equal(bits(1, 2), bits(1, 2))
    for other in (bits(2, 2), bits(1, 3), bits(1, 2 + 2**32), bits(1 + 2**32, 2)):
        assert 0.4 < (bits(1, 2) == other).double().mean().item() < 0.6
