"""The wheel that stands in for flash-attn: the same bytes each time, what programs import, and right results."""

from __future__ import annotations

import csv
import importlib
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from packaging.metadata import Metadata
from packaging.version import Version

from fa_doctor.installer.flash_attn_package import build_wheel

# What programs import, as they write it: transformers, diffusers, vLLM, axolotl, ring-flash-attention, verl, ...
IMPORTS = """
from flash_attn import flash_attn_func, flash_attn_varlen_func
from flash_attn import flash_attn_with_kvcache, __version__ as flash_attn_version
from flash_attn.flash_attn_interface import flash_attn_varlen_func
from flash_attn.flash_attn_interface import flash_attn_kvpacked_func, flash_attn_varlen_kvpacked_func
from flash_attn.flash_attn_interface import flash_attn_qkvpacked_func, flash_attn_varlen_qkvpacked_func
from flash_attn.flash_attn_interface import _flash_attn_forward, _flash_attn_backward
from flash_attn.flash_attn_interface import _flash_attn_varlen_forward, _flash_attn_varlen_backward
from flash_attn.flash_attn_interface import _wrapped_flash_attn_backward, _wrapped_flash_attn_forward
from flash_attn.bert_padding import index_first_axis, pad_input, unpad_input
from flash_attn.bert_padding import index_first_axis, pad_input, rearrange, unpad_input
from flash_attn.bert_padding import IndexFirstAxis, index_put_first_axis
from flash_attn.bert_padding import unpad_input_for_concatenated_sequences
from flash_attn.layers.rotary import apply_rotary_emb, RotaryEmbedding
from flash_attn.layers.rotary import apply_rotary_emb_func, apply_rotary_emb_qkv_, apply_rotary_emb_kv_
from flash_attn.ops.triton.rotary import apply_rotary
from flash_attn.ops.triton.layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn
from flash_attn.ops.rms_norm import RMSNorm, rms_norm
from flash_attn.ops.activations import swiglu
from flash_attn.ops.triton.cross_entropy import cross_entropy_loss
from flash_attn.losses.cross_entropy import CrossEntropyLoss
"""


@pytest.fixture(scope="module")
def flash_attn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package, imported from an unpacked wheel."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(io.BytesIO(build_wheel().content)).extractall(folder)
    sys.path.insert(0, str(folder))
    module = importlib.import_module("flash_attn")
    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(folder)
    yield module
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "flash_attn"]:
        del sys.modules[name]


def qkv(*lengths: int, heads: int = 2, dim: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    shape = (2, lengths[0], heads, dim)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float32) for _ in range(3))
    return q, k[:, : lengths[-1]], v[:, : lengths[-1]]


def test_the_same_files_give_the_same_bytes() -> None:
    first, second = build_wheel(), build_wheel()
    assert first.content == second.content
    assert first.filename == "flash_attn-2.8.3+fadoctor.1-py3-none-any.whl"


def test_the_wheel_is_a_wheel() -> None:
    archive = zipfile.ZipFile(io.BytesIO(build_wheel().content))
    info = "flash_attn-2.8.3+fadoctor.1.dist-info"
    metadata = Metadata.from_email(archive.read(f"{info}/METADATA"))
    assert metadata.name == "flash_attn"
    assert Version("2.8.3") <= metadata.version < Version("2.8.4")
    rows = list(csv.reader(io.StringIO(archive.read(f"{info}/RECORD").decode())))
    assert {row[0] for row in rows} == set(archive.namelist())
    assert all(name.startswith(("flash_attn/", info)) for name in archive.namelist())
    assert any(name.startswith("flash_attn/kernels/configs/") for name in archive.namelist())


@pytest.mark.parametrize("line", IMPORTS.strip().splitlines())
def test_what_programs_import_is_there(line: str, flash_attn: ModuleType) -> None:
    exec(compile(line, "program", "exec"), {})


def test_version_is_the_one_of_the_wheel(flash_attn: ModuleType) -> None:
    assert flash_attn.__version__ == build_wheel().version


def test_attention_agrees_with_torch(flash_attn: ModuleType) -> None:
    q, k, v = qkv(33)
    out = flash_attn.flash_attn_func(q, k, v, causal=True)
    wanted = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True).transpose(1, 2)
    torch.testing.assert_close(out, wanted)


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_inner_functions_give_what_autograd_gives(dropout_p: float, flash_attn: ModuleType) -> None:
    inner = importlib.import_module("flash_attn.flash_attn_interface")
    q, k, v = (x.clone().requires_grad_() for x in qkv(24))
    torch.manual_seed(3)
    out, lse, probabilities, rng_state = inner._flash_attn_forward(
        q, k, v, dropout_p, None, True, -1, -1, 5.0, None, dropout_p > 0
    )
    torch.manual_seed(3)
    wanted, wanted_lse, wanted_probabilities = flash_attn.flash_attn_func(
        q, k, v, dropout_p, causal=True, softcap=5.0, return_attn_probs=True
    )
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(lse, wanted_lse)
    torch.testing.assert_close(probabilities, wanted_probabilities)
    dout = torch.randn_like(out)
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    row_sums = inner._wrapped_flash_attn_backward(
        dout, q, k, v, out, lse, dq, dk, dv, dropout_p, None, True, -1, -1, 5.0, None, False, rng_state
    )
    for got, right in zip((dq, dk, dv), torch.autograd.grad(wanted, (q, k, v), dout), strict=True):
        torch.testing.assert_close(got, right)
    torch.testing.assert_close(row_sums, (dout * out).sum(-1).transpose(1, 2))


def test_inner_functions_over_packed_sequences(flash_attn: ModuleType) -> None:
    inner = importlib.import_module("flash_attn.flash_attn_interface")
    q, k, v = (x.flatten(0, 1).clone().requires_grad_() for x in qkv(20))
    starts = torch.tensor([0, 7, 40], dtype=torch.int32)
    out, lse, _, _ = inner._flash_attn_varlen_forward(q, k, v, starts, starts, 33, 33, 0.0, None, True)
    wanted = flash_attn.flash_attn_varlen_func(q, k, v, starts, starts, 33, 33, causal=True)
    torch.testing.assert_close(out, wanted)
    assert lse.shape == (2, 40)
    dout = torch.randn_like(out)
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    inner._flash_attn_varlen_backward(dout, q, k, v, out, lse, dq, dk, dv, starts, starts, 33, 33, 0.0, None, True)
    for got, right in zip((dq, dk, dv), torch.autograd.grad(wanted, (q, k, v), dout), strict=True):
        torch.testing.assert_close(got, right)
    with pytest.raises(ValueError, match="seqused_k"):
        inner._flash_attn_varlen_forward(q, k, v, starts, starts, 33, 33, 0.0, None, True, seqused_k=starts)


def test_partial_results_combine_as_ring_attention_does_it(flash_attn: ModuleType) -> None:
    inner = importlib.import_module("flash_attn.flash_attn_interface")
    q, k, v = qkv(32)
    whole, _, _, _ = inner._flash_attn_forward(q, k, v, 0.0, None, False)
    parts = [
        inner._flash_attn_forward(q, a, b, 0.0, None, False)[:2]
        for a, b in zip(k.chunk(2, 1), v.chunk(2, 1), strict=True)
    ]
    total = torch.logsumexp(torch.stack([lse for _, lse in parts]), 0)
    combined = sum(out * (lse - total).exp().transpose(1, 2)[..., None] for out, lse in parts)
    torch.testing.assert_close(combined, whole)


def test_tokens_are_packed_and_padded_again(flash_attn: ModuleType) -> None:
    padding = importlib.import_module("flash_attn.bert_padding")
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1]])
    states = torch.randn(3, 4, 2, 5, requires_grad=True)
    tokens, indices, starts, longest, used = padding.unpad_input(states, mask)
    assert tokens.shape == (6, 2, 5)
    assert starts.tolist() == [0, 3, 3, 6]
    assert starts.dtype == torch.int32
    assert (longest, used.tolist()) == (3, [3, 0, 3])
    torch.testing.assert_close(padding.pad_input(tokens, indices, 3, 4), states * mask[..., None, None])
    (grad,) = torch.autograd.grad(tokens.sum(), states)
    torch.testing.assert_close(grad, mask[..., None, None].expand_as(grad).float())


def test_rows_of_several_sequences_are_packed(flash_attn: ModuleType) -> None:
    padding = importlib.import_module("flash_attn.bert_padding")
    lengths = torch.tensor([[2, 3, 0, 0, 0, 0], [6, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    states = torch.arange(18).view(3, 6, 1)
    tokens, indices, starts, longest = padding.unpad_input_for_concatenated_sequences(states, lengths)
    assert starts.tolist() == [0, 2, 5, 11, 12]
    assert longest == 6
    assert indices.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    assert tokens.flatten().tolist() == indices.tolist()


def test_norms_agree_with_torch(flash_attn: ModuleType) -> None:
    norms = importlib.import_module("flash_attn.ops.triton.layer_norm")
    x, residual, weight, bias = torch.randn(3, 7, 16), torch.randn(3, 7, 16), torch.randn(16), torch.randn(16)
    torch.testing.assert_close(
        norms.layer_norm_fn(x, weight, bias, eps=1e-5), F.layer_norm(x, (16,), weight, bias, 1e-5)
    )
    out, summed = norms.rms_norm_fn(x, weight, None, residual=residual, prenorm=True, eps=1e-5)
    torch.testing.assert_close(summed, x + residual)
    torch.testing.assert_close(out, F.rms_norm(x + residual, (16,), weight, 1e-5))
    module = norms.RMSNorm(16)
    torch.testing.assert_close(module(x), F.rms_norm(x, (16,), None, 1e-5))
    half = norms.rms_norm_fn(
        x.bfloat16(), weight.bfloat16(), None, residual=residual, residual_in_fp32=True, prenorm=True
    )
    assert [part.dtype for part in half] == [torch.bfloat16, torch.float32]


def test_cross_entropy_agrees_with_torch(flash_attn: ModuleType) -> None:
    losses = importlib.import_module("flash_attn.losses.cross_entropy")
    logits, labels = torch.randn(9, 11, requires_grad=True), torch.randint(0, 11, (9,))
    labels[2] = -100
    for smoothing in (0.0, 0.2):
        got = losses.CrossEntropyLoss(label_smoothing=smoothing)(logits, labels)
        wanted = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(got, wanted)
        torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (got, wanted)))
    total, z_loss = losses.CrossEntropyLoss(lse_square_scale=0.1, return_z_loss=True)(logits, labels)
    torch.testing.assert_close(total, F.cross_entropy(logits, labels) + z_loss)


def test_rotary_is_the_one_of_the_kernels(flash_attn: ModuleType) -> None:
    rotary = importlib.import_module("flash_attn.layers.rotary")
    x = torch.randn(1, 6, 2, 8)
    angles = torch.arange(6)[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001])
    cos, sin = angles.cos(), angles.sin()
    full = torch.cat((cos, cos), -1)[:, None], torch.cat((sin, sin), -1)[:, None]
    torch.testing.assert_close(rotary.apply_rotary_emb(x, cos, sin), x * full[0] + rotary.rotate_half(x) * full[1])
