"""flash_attn_with_kvcache refuses what does not fit, before anything is written, and says what it got."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fa_doctor.kernels.kvcache import flash_attn_with_kvcache


def integers(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


ROTARY = {"rotary_cos": torch.zeros(16, 8), "rotary_sin": torch.zeros(16, 8)}
NEW = {"k": torch.ones(2, 1, 2, 32), "v": torch.ones(2, 1, 2, 32)}

BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "q-dimensions": ("q must have 4 dimensions", {"q": torch.zeros(2, 4, 32)}),
    "dtype": ("q must be float16", {"q": torch.zeros(2, 1, 4, 32, dtype=torch.int32)}),
    "head-dim": ("head_dim", {"q": torch.zeros(2, 1, 4, 300), "k_cache": torch.zeros(2, 16, 2, 300)}),
    "head-dims-differ": ("one shape", {"q": torch.zeros(2, 1, 4, 64)}),
    "heads": ("multiple of heads of the cache", {"q": torch.zeros(2, 1, 5, 32)}),
    "caches-differ": ("one shape", {"v_cache": torch.zeros(2, 17, 2, 32)}),
    "cache-dtype": ("k_cache must have q's dtype", {"k_cache": torch.zeros(2, 16, 2, 32, dtype=torch.float16)}),
    "cache-stride": ("contiguous last", {"k_cache": torch.zeros(2, 16, 32, 2).transpose(2, 3)}),
    "cache-rows": (
        "1 rows for a batch of 2",
        {"k_cache": torch.zeros(1, 16, 2, 32), "v_cache": torch.zeros(1, 16, 2, 32)},
    ),
    "k-without-v": ("given together", {"k": torch.zeros(2, 1, 2, 32)}),
    "k-shape": ("k and v must be", {**NEW, "k": torch.zeros(2, 1, 4, 32)}),
    "k-dtype": ("k must have q's dtype", {**NEW, "k": torch.zeros(2, 1, 2, 32, dtype=torch.float64)}),
    "new-without-lengths": ("cache_seqlens must be given", {**NEW, "cache_seqlens": None}),
    "new-beyond-cache": ("cache_seqlens must be 0 to 15", {**NEW, "cache_seqlens": integers(3, 16)}),
    "int-beyond-cache": ("cache_seqlens must be 0 to 16", {"cache_seqlens": 17}),
    "negative-length": ("cache_seqlens", {"cache_seqlens": -1}),
    "too-many-new": ("holds 16 tokens", {"k": torch.zeros(2, 17, 2, 32), "v": torch.zeros(2, 17, 2, 32)}),
    "lengths-dtype": ("cache_seqlens must be a contiguous int32", {"cache_seqlens": torch.tensor([1, 2])}),
    "lengths-shape": ("cache_seqlens must be a contiguous int32", {"cache_seqlens": integers(1, 2, 3)}),
    "leftpad-dtype": ("cache_leftpad", {"cache_leftpad": torch.tensor([1, 2])}),
    "batch-idx-range": ("cache_batch_idx must be 0 to 1", {"cache_batch_idx": integers(0, 2)}),
    "batch-idx-paged": ("block_table", {"cache_batch_idx": integers(0, 1), "block_table": integers(0, 1).view(2, 1)}),
    "table-dtype": ("block_table must be int32", {"block_table": torch.zeros(2, 1)}),
    "table-shape": ("block_table must be int32", {"block_table": integers(0, 1, 1).view(3, 1)}),
    "slopes-dtype": ("alibi_slopes", {"alibi_slopes": torch.zeros(4, dtype=torch.float16)}),
    "slopes-shape": ("alibi_slopes", {"alibi_slopes": torch.zeros(3)}),
    "rotary-without-new": ("need new keys", ROTARY),
    "rotary-one-table": ("given together", {**NEW, "rotary_cos": torch.zeros(16, 8)}),
    "rotary-dim": ("multiple of 16", {**NEW, "rotary_cos": torch.zeros(16, 4), "rotary_sin": torch.zeros(16, 4)}),
    "rotary-too-wide": ("at most 32", {**NEW, "rotary_cos": torch.zeros(16, 24), "rotary_sin": torch.zeros(16, 24)}),
    "rotary-too-short": ("16 positions", {**NEW, "rotary_cos": torch.zeros(15, 8), "rotary_sin": torch.zeros(15, 8)}),
    "rotary-dtype": ("rotary_cos must be", {**NEW, **ROTARY, "rotary_cos": torch.zeros(16, 8).half()}),
    "q-no-tensor": ("q must be a torch.Tensor", {"q": [1.0]}),
    "table-no-tensor": ("block_table must be a torch.Tensor", {"block_table": [[0], [1]]}),
    "lengths-no-tensor": ("cache_seqlens must be a torch.Tensor", {"cache_seqlens": [3, 4]}),
    "window": ("window_size must be two", {"window_size": (1, 2, 3)}),
    "splits": ("num_splits must be 0 to 128", {"num_splits": 129}),
    "softcap": ("softcap", {"softcap": float("nan")}),
}


@pytest.mark.parametrize(("words", "change"), BAD.values(), ids=BAD.keys())
def test_refused(words: str, change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "q": torch.ones(2, 1, 4, 32),
        "k_cache": torch.zeros(2, 16, 2, 32),
        "v_cache": torch.zeros(2, 16, 2, 32),
        "cache_seqlens": integers(3, 4),
        **change,
    }
    if change.get("k_cache") is not None and change["k_cache"].shape[-1] == 300:
        arguments["v_cache"] = arguments["k_cache"].clone()
    before = arguments["k_cache"].clone()
    with pytest.raises(ValueError, match=words):
        flash_attn_with_kvcache(**arguments)
    assert torch.equal(arguments["k_cache"], before)
