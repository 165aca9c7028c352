"""Launches of calls that were made before, held against the launches that Triton itself makes of them.

`python launch_cases.py ARCH`: a driver stands in for the GPU, so every launch shows the arguments that the launcher of the
compiled kernel is given. Prints a line for each case that holds; an assertion says which does not.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["FA_DOCTOR_KERNELS"] = "triton"
os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton

import fa_doctor.kernels as api
from fa_doctor.kernels import launching, standin, tuning

Given = list[tuple[Any, ...]]
given: Given = []


def note(self: Any, *arguments: Any, **options: Any) -> None:
    """Takes the place of the stand-in's launcher."""
    programs, options, metadata, hooks = arguments[0], *arguments[5:7], arguments[7:9]
    for hook in hooks:
        if hook is not None:
            hook(metadata)
    given.append((self.launch.function, programs, options, *arguments[9:]))


standin._Launcher.__call__ = note  # type: ignore[method-assign]


def plainly(x: Any) -> Any:
    """An argument in a form that can be compared: tensors are addresses, descriptors too, with shape and strides."""
    if hasattr(x, "base"):
        return (x.base.data_ptr(), tuple(x.shape), tuple(x.strides))
    return x.data_ptr() if hasattr(x, "data_ptr") else x


def launched(call: Any, inputs: tuple[Any, ...], plans: bool) -> Given:
    """What the launchers are given in a call; an address that is no input's reads "made"."""
    launching.plans_for_cpu = plans
    given.clear()
    call(*inputs)
    places = {x.data_ptr() for x in inputs if x is not None}

    def say(x: Any) -> Any:
        x = plainly(x)
        where = x[0] if isinstance(x, tuple) else x
        if isinstance(where, int) and where > 2**32 and where not in places:
            return "made"
        return x

    return [(*row[:3], *map(say, row[3:])) for row in given]


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> tuple[torch.Tensor, ...]:
    return tuple(torch.zeros(shape, dtype=dtype) for shape in shapes)


def numbers(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def backward_of(**options: Any) -> Any:
    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dout: torch.Tensor) -> None:
        inputs = [x.detach().requires_grad_() for x in (q, k, v)]
        torch.autograd.grad(api.flash_attn_func(*inputs, **options), inputs, dout)

    return run


def packed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: torch.Tensor) -> None:
    api.flash_attn_varlen_func(q, k, v, cu, cu, 40, 40, window_size=(7, 0))


def decode(splits: int) -> Any:
    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor, table: torch.Tensor) -> None:
        api.flash_attn_with_kvcache(q, k, v, cache_seqlens=lengths, block_table=table, num_splits=splits)

    return run


DENSE = ((2, 96, 4, 32), (2, 80, 2, 32), (2, 80, 2, 32))
CASES: dict[str, tuple[Any, Any]] = {
    "forward": (lambda q, k, v: api.flash_attn_func(q, k, v), lambda: tensors(*DENSE)),
    "forward of a transposed batch": (
        lambda q, k, v: api.flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=True),
        lambda: tensors((2, 4, 96, 32), (2, 2, 80, 32), (2, 2, 80, 32)),
    ),
    "forward with slopes": (
        lambda q, k, v, slopes: api.flash_attn_func(q, k, v, softcap=5.0, alibi_slopes=slopes),
        lambda: (*tensors(*DENSE), torch.ones(4)),
    ),
    "backward": (backward_of(causal=True), lambda: tensors(*DENSE, DENSE[0])),
    "backward with dropout": (backward_of(dropout_p=0.1), lambda: tensors(*DENSE, DENSE[0])),
    "backward of one head a key head": (backward_of(), lambda: tensors(*[DENSE[0]] * 4)),
    "packed": (packed, lambda: (*tensors(*[(60, 4, 32)] * 3), numbers(0, 20, 60))),
    "decode": (
        decode(1),
        lambda: (*tensors((2, 1, 4, 32), *[(4, 64, 2, 32)] * 2), numbers(9, 80), numbers(0, 1, 2, 3).view(2, 2)),
    ),
    "decode in splits": (
        decode(2),
        lambda: (*tensors((2, 1, 4, 32), *[(4, 64, 2, 32)] * 2), numbers(9, 80), numbers(0, 1, 2, 3).view(2, 2)),
    ),
}


def same_launches(name: str) -> None:
    call, make = CASES[name]
    first, second = make(), make()
    expected = launched(call, second, plans=False)
    assert expected, "nothing was launched"
    launched(call, first, plans=True)
    kept = len(launching._plans)
    assert kept
    assert launched(call, second, plans=True) == expected
    assert len(launching._plans) == kept  # so this time Triton was not asked


def long_way(change: Any) -> bool:
    """Whether a call goes Triton's long way, which sees tensors, not addresses, although a like call was made before."""
    launching._plans.clear()
    launching.plans_for_cpu = True
    q, k, v = tensors(*DENSE)
    api.flash_attn_func(q, k, v)
    given.clear()
    change(q, k, v)
    return any(hasattr(x, "data_ptr") and not hasattr(x, "base") for x in given[0][3:])


def other_calls() -> None:
    """Whatever may end at another kernel or other numbers is another call."""
    assert not long_way(lambda q, k, v: api.flash_attn_func(q, k, v))
    assert not long_way(lambda q, k, v: api.flash_attn_func(q, k, v, softmax_scale=None, deterministic=True))
    for options in (
        {"causal": True}, {"softcap": 1.0}, {"window_size": (3, 3)}, {"softmax_scale": 0.5}, {"dropout_p": 0.5},
        {"alibi_slopes": torch.ones(4)}, {"softmax_scale": -0.5},
    ):  # fmt: skip
        assert long_way(lambda q, k, v, o=options: api.flash_attn_func(q, k, v, **o)), options
    for name, change in {
        "dtype": lambda q, k, v: api.flash_attn_func(q.half(), k.half(), v.half()),
        "shape": lambda q, k, v: api.flash_attn_func(q, k[:, 1:], v[:, 1:]),
        "strides": lambda q, k, v: api.flash_attn_func(q.transpose(1, 2).contiguous().transpose(1, 2), k, v),
        "address": lambda q, k, v: api.flash_attn_func(torch.zeros(q.numel() + 1).to(q)[1:].view_as(q), k, v),
    }.items():
        assert long_way(change), name

    def with_search(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        tuning._found += 1  # another configuration may be the best one now
        api.flash_attn_func(q, k, v)

    assert long_way(with_search)


def wrong_calls() -> None:
    """An argument that does not fit is refused, however many calls like it but for that were made."""
    launching.plans_for_cpu = True
    q, k, v = tensors(*DENSE)
    for _ in range(2):
        api.flash_attn_func(q, k, v)
    for arguments, options in (
        ((q, k.half(), v), {}), ((q, k, v[:, :1]), {}), ((q, k, [1]), {}), ((q, k, v), {"dropout_p": 2.0}),
        ((q, k, v), {"softcap": float("nan")}), ((q, k, v), {"alibi_slopes": torch.ones(3)}),
        ((q[0], k[0], v[0]), {}),
    ):  # fmt: skip
        try:
            api.flash_attn_func(*arguments, **options)
        except ValueError:
            continue
        raise AssertionError(f"taken: {options}")


def profilers() -> None:
    """A profiler that hooks itself into Triton's launches hears of these too."""
    launching.plans_for_cpu = True
    q, k, v = tensors(*DENSE)
    api.flash_attn_func(q, k, v)
    heard: list[Any] = []
    runtime = getattr(getattr(triton, "knobs", None), "runtime", triton.compiler.CompiledKernel)
    chain = runtime.launch_enter_hook
    if hasattr(chain, "add"):
        chain.add(heard.append)
    else:
        runtime.launch_enter_hook = heard.append
    api.flash_attn_func(q, k, v)
    assert [launch.get()["name"] for launch in heard] == ["forward_kernel"]
    if hasattr(chain, "add"):
        chain.remove(heard.append)
    else:
        runtime.launch_enter_hook = chain
    api.flash_attn_func(q, k, v)
    assert len(heard) == 1, heard


def main() -> None:
    with standin.standing_in(sys.argv[1]):
        for name in CASES:
            same_launches(name)
            print("ok", name, flush=True)
        for check in (other_calls, wrong_calls, profilers):
            check()
            print("ok", check.__name__, flush=True)


if __name__ == "__main__":
    main()
