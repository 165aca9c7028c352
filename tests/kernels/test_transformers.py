"""Transformers models with attn_implementation="flash_attention_2" on these kernels, beside its own sdpa attention.

On a GPU through the Triton kernels; on a CPU through the reference in plain PyTorch, where transformers is told that it may.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

import fa_doctor.kernels  # noqa: E402

PADDING = """
from transformers.modeling_flash_attention_utils import _pad_input as pad_input, _unpad_input as unpad_input
"""
METADATA = "Metadata-Version: 2.1\nName: flash-attn\nVersion: 2.8.3\n"


@pytest.fixture
def flash_attn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution flash-attn 2.8.3 whose module leads to the kernels."""
    package = tmp_path / "flash_attn"
    package.mkdir()
    (package / "__init__.py").write_text("from fa_doctor.kernels import *\n__version__ = '2.8.3'\n")
    (package / "bert_padding.py").write_text(PADDING)
    info = tmp_path / "flash_attn-2.8.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "top_level.txt").write_text("flash_attn\n")
    (info / "RECORD").write_text("flash_attn/__init__.py,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from transformers.utils import import_utils

    def forget() -> None:
        for name in [n for n in sys.modules if n.split(".")[0] == "flash_attn"]:
            del sys.modules[name]
        for value in vars(import_utils).values():
            if callable(getattr(value, "cache_clear", None)):
                value.cache_clear()

    forget()
    if not torch.cuda.is_available():
        # Transformers takes flash attention only with a GPU in sight; the model below is built on the CPU nevertheless.
        monkeypatch.setattr(
            transformers.PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True, raising=False
        )
        monkeypatch.setattr(
            "transformers.modeling_flash_attention_utils.is_flash_attn_2_available", lambda *_, **__: True
        )
    yield
    forget()
    import transformers.modeling_flash_attention_utils as utils

    for name in ("_flash_fn", "_flash_varlen_fn", "_flash_with_kvcache_fn", "_loaded_implementation"):
        if hasattr(utils, name):
            setattr(utils, name, None)


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]),
]


def llama(**options: Any) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM._from_config(config, **options)


def bert(**options: Any) -> Any:
    config = transformers.BertConfig(
        vocab_size=97, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256,
        max_position_embeddings=128, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForMaskedLM._from_config(config, **options)


def pair(make: Callable[..., Any], device: str) -> tuple[Any, Any]:
    """The same random weights twice, with our attention and with sdpa."""
    models = []
    for implementation in ("flash_attention_2", "sdpa"):
        torch.manual_seed(0)
        models.append(make(attn_implementation=implementation, dtype=torch.float32).to(device).eval())
    models[0].load_state_dict(models[1].state_dict())
    assert models[0].config._attn_implementation == "flash_attention_2"
    return models[0], models[1]


def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each call that reaches the kernels' interface, so that a silent fallback shows."""
    calls: list[str] = []
    for name in ("flash_attn_func", "flash_attn_varlen_func"):
        real = getattr(fa_doctor.kernels, name)

        @functools.wraps(real)  # transformers reads the signature
        def noting(*args: Any, _real: Any = real, _name: str = name, **options: Any) -> Any:
            calls.append(_name)
            return _real(*args, **options)

        monkeypatch.setattr(fa_doctor.kernels, name, noting)
    return calls


def close(a: torch.Tensor, b: torch.Tensor, least: float = 0.0) -> None:
    """float32 through two layers: 0.2 % of the largest value, and 0.1 % in the root mean square.

    least: a size below which values are rounding errors (the gradient of a key's bias is 0 in exact arithmetic).
    """
    a, b = a.float(), b.float()
    assert torch.isfinite(a).all()
    error = (a - b).abs()
    assert error.max().item() <= 0.002 * max(b.abs().max().item(), least)
    assert error.square().mean().sqrt().item() <= 0.001 * max(b.square().mean().sqrt().item(), least)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("make", [llama, bert])
def test_logits_and_gradients(
    make: Callable[..., Any], padded: bool, device: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    calls = used(monkeypatch)
    request.getfixturevalue("flash_attn")
    ours, theirs = pair(make, device)
    torch.manual_seed(1)
    tokens = torch.randint(3, 97, (3, 40), device=device)
    mask = torch.ones_like(tokens)
    if padded:
        mask[1, 25:] = 0
        mask[2, 7:] = 0
    results = []
    for model in (ours, theirs):
        logits = model(tokens, attention_mask=mask).logits[mask.bool()]
        loss = torch.nn.functional.cross_entropy(logits.float(), tokens[mask.bool()])
        grads = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        results.append((logits, [g for g in grads if g is not None]))
    assert calls
    assert ("flash_attn_varlen_func" in calls) == padded
    close(results[0][0], results[1][0])
    largest = max(g.abs().max().item() for g in results[1][1])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        close(a, b, 0.1 * largest)


@pytest.mark.parametrize("device", DEVICES)
def test_generation_with_a_cache(device: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A padded batch, greedy; the scores of each step are compared, since near ties may turn a token."""
    calls = used(monkeypatch)
    request.getfixturevalue("flash_attn")
    ours, theirs = pair(llama, device)
    torch.manual_seed(2)
    tokens = torch.randint(3, 97, (2, 20), device=device)
    mask = torch.ones_like(tokens)
    mask[1, :8] = 0
    tokens[1, :8] = 0
    expected = theirs.generate(tokens, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    caches: dict[str, Any] = {}
    for step in range(tokens.shape[1], expected.shape[1]):
        logits = {}
        for name, model in (("ours", ours), ("theirs", theirs)):
            cache = caches.get(name)
            seen = torch.cat([mask, mask.new_ones(2, step - tokens.shape[1])], 1)
            positions = (seen.cumsum(-1) - 1).clamp(min=0)
            inputs = expected[:, :step] if cache is None else expected[:, step - 1 : step]
            out = model(
                inputs, attention_mask=seen, position_ids=positions[:, -inputs.shape[1] :], past_key_values=cache,
                use_cache=True,
            )  # fmt: skip
            caches[name] = out.past_key_values
            logits[name] = out.logits[:, -1]
        close(logits["ours"], logits["theirs"])
    assert calls
    generated = ours.generate(tokens, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert generated.shape == expected.shape
    assert (generated == expected).float().mean() > 0.8
