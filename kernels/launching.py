"""Launching a kernel again without finding out again how.

`kernel[grid](...)` looks at each of some sixty arguments to find the compiled kernel that fits, and what stands before it here
chooses a configuration and derives flags: together as long as a short attention takes. A call of the same shapes, strides and
options ends at the same compiled kernels with the same numbers, so a `Plan` keeps these; only tensors are new.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch

from . import compat, tuning

__all__ = ["Plan", "known", "plan_key", "remember"]

_LIMIT = 4096  # plans kept; a program that meets more shapes than this starts over
_plans: dict[Hashable, Plan] = {}


class _Tile:
    """What Triton reads of a TensorDescriptor when it launches, without the checks of making one."""

    __slots__ = ("base", "padding", "round_f32_to_tf32", "shape", "strides")

    def __init__(self, base: torch.Tensor, model: Any) -> None:
        self.base, self.shape, self.strides, self.padding = base, model.shape, model.strides, model.padding
        self.round_f32_to_tf32 = getattr(model, "round_f32_to_tf32", False)


class Plan:
    """The launches of one call: for each the runner of the compiled kernel, where its tensors come from, its numbers.

    tensors: by name, in the order in which `again` is given others.
    """

    def __init__(self, **tensors: torch.Tensor | None) -> None:
        self._tensors = tensors
        self._launches: list[tuple[Any, list[tuple[int, Any]], tuple[Any, ...]]] = []

    def launch(
        self,
        kernel: Any,
        programs: int,
        pointers: Sequence[str | tuple[str, Any]],
        numbers: Sequence[Any],
        constants: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        """Launches kernel[(programs,)], whose arguments are pointers, numbers, then constants, and notes how.

        pointers: names of the plan's tensors; (name, descriptor) for one that goes in as a descriptor, or as None where
        that is None. constants: by name; options: the compiler's.
        """
        sources: list[tuple[int, Any]] = []
        values: list[Any] = []
        places = {name: place for place, name in enumerate(self._tensors)}
        for pointer in pointers:
            if isinstance(pointer, str):
                value, model = self._tensors[pointer], None
                place = -1 if value is None else places[pointer]
            else:
                value = model = pointer[1]
                place = -1 if value is None else places[pointer[0]]
            sources.append((place, model))
            values.append(value)
        compiled = kernel[(programs,)](*values, *numbers, **constants, **compat.FUSED, **options)
        if compat.RUNS_COMPILED:
            rest = (*numbers, *(constants[name] for name in kernel.arg_names[len(pointers) + len(numbers) :]))
            self._launches.append((compiled[(programs, 1, 1)], sources, rest))

    def forget_tensors(self) -> None:
        """Lets go of the tensors that the plan was made with."""
        self._tensors = {}

    def again(self, tensors: Sequence[torch.Tensor | None]) -> None:
        """The same launches with other tensors, in the order of those that the plan was made with."""
        for run, sources, rest in self._launches:
            pointers = [
                None if place < 0 else tensors[place] if model is None else _Tile(tensors[place], model)
                for place, model in sources
            ]
            run(*pointers, *rest)


def plan_key(kind: str, call: Hashable, *tensors: torch.Tensor | None) -> Hashable:
    """What two calls must share to share a plan; None for a call that none is kept for.

    Triton compiles for pointers that are multiples of 16 bytes, or not; the rare call with one that is not goes the long
    way, as does whatever runs on no GPU or in the course of a search.
    """
    first = tensors[0]
    assert first is not None
    if not first.is_cuda or not compat.RUNS_COMPILED or tuning.in_progress():
        return None
    key: list[Hashable] = [kind, call, first.dtype, first.device.index]
    addresses = 0
    for x in tensors:
        if x is None:
            key.append(None)
        else:
            addresses |= x.data_ptr()
            key.append(x.shape)
            key.append(x.stride())
    return None if addresses % 16 else tuple(key)


def known(key: Hashable) -> Plan | None:
    return _plans.get(key) if key is not None else None


def remember(key: Hashable, plan: Plan) -> None:
    if key is not None:
        if len(_plans) >= _LIMIT:
            _plans.clear()
        plan.forget_tensors()
        _plans[key] = plan
