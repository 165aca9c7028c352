"""Launching a kernel again without finding out again how.

`kernel[grid](...)` looks at each of some sixty arguments to find the compiled kernel that fits, and what stands before it here
checks arguments, chooses a configuration and derives flags: together longer than a short attention takes. A call of the same
shapes, strides and options ends at the same compiled kernels with the same numbers, so a `Plan` keeps these; only addresses
are new.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton

from . import compat, tuning

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = ["Found", "Plan", "addresses", "look_up", "remember"]

_LIMIT = 4096  # plans kept; a program that meets more shapes than this starts over
_plans: dict[Hashable, Plan] = {}
# Tests and measurements on a machine without a GPU set this, under a driver that stands in for one (standin.py).
plans_for_cpu = False


class _Tile:
    """What Triton reads of a TensorDescriptor when it launches, without the checks of making one; it is its own base."""

    __slots__ = ("address", "base", "padding", "round_f32_to_tf32", "shape", "strides")

    def __init__(self, address: int, model: Any) -> None:
        self.address, self.base = address, self
        self.shape, self.strides = model.shape, model.strides
        self.padding = getattr(model, "padding", "zero")  # from Triton 3.5 on
        self.round_f32_to_tf32 = getattr(model, "round_f32_to_tf32", False)

    def data_ptr(self) -> int:
        return self.address


class _Launch(NamedTuple):
    """A compiled kernel with its launcher, and what it is launched with besides addresses."""

    compiled: Any
    run: Callable[..., None]
    function: Any
    metadata: Any
    programs: int
    pointers: Callable[[Sequence[int | None]], tuple[int | None, ...]]  # picks the kernel's addresses out of the call's
    tiles: tuple[tuple[int, Any], ...]  # which of them go in as descriptors, each with the descriptor it is made like
    numbers: tuple[Any, ...]


class Plan:
    """The launches of one call, made by `launch`, and again by `again`.

    call: what the call asks for, checked (call.Call, where the kind of call has one). tensors: by name, in the order in which
    `again` is given the addresses of others; they are let go when the plan is kept.
    """

    def __init__(self, call: Any = None, /, **tensors: torch.Tensor | None) -> None:
        self.call = call
        self._tensors = tensors
        self._launches: list[_Launch] = []
        self._device = 0

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
        places: list[int] = []
        tiles: list[tuple[int, Any]] = []
        values: list[Any] = []
        names = list(self._tensors)
        for position, pointer in enumerate(pointers):
            if isinstance(pointer, str):
                name, value = pointer, self._tensors[pointer]
            else:
                name, value = pointer
                if value is not None:
                    tiles.append((position, value))
            places.append(len(names) if value is None else names.index(name))  # behind the last address stands None
            values.append(value)
        compiled = kernel[(programs,)](*values, *numbers, **constants, **compat.FUSED, **options)
        if compat.RUNS_COMPILED:
            rest = tuple(numbers)
            if compat.LAUNCHES_WITH_CONSTANTS:
                rest += tuple(constants[name] for name in kernel.arg_names[len(pointers) + len(numbers) :])
            self._device = triton.runtime.driver.active.get_current_device()
            handles = compiled.run, compiled.function, compiled.packed_metadata
            self._launches.append(_Launch(compiled, *handles, programs, itemgetter(*places), tuple(tiles), rest))

    def forget_tensors(self) -> None:
        self._tensors = {}

    def again(self, addresses: Sequence[int | None]) -> None:
        """The same launches at other addresses (None: no tensor), in the order of the tensors that the plan was made with."""
        stream = triton.runtime.driver.active.get_current_stream(self._device)
        hooked = compat.launches_are_watched()
        given = (*addresses, None)
        for compiled, run, function, metadata, programs, pick, tiles, numbers in self._launches:
            pointers: Sequence[Any] = pick(given)
            if tiles:
                pointers = list(pointers)
                for position, model in tiles:
                    pointers[position] = _Tile(pointers[position], model)
            if hooked:
                compiled[(programs, 1, 1)](*pointers, *numbers)
            else:
                run(programs, 1, 1, stream, function, metadata, None, None, None, *pointers, *numbers)


# What a call is looked up by (None: none is kept for it), and the plan that was found, if any.
Found: TypeAlias = "tuple[Hashable, Plan | None]"


def look_up(kind: str, options: Hashable, tensors: Sequence[torch.Tensor | None]) -> Found:
    """The plan of a call; what two calls must share to share one is the key.

    kind, options: of the call, whatever is no tensor. Besides: of each tensor all but its address and contents; the driver
    that kernels are launched by; and what the choice of a configuration depends on. Triton compiles for pointers that are
    multiples of 16 bytes, or not; the rare call with one that is not goes the long way, as does whatever runs on no GPU, is
    part of a search, or is no tensor after all. (For AMD Triton also compiles for storages beyond 2 GiB. A plan made for a
    smaller one serves them too: the shapes, and so the offsets from the address, are the same.)
    """
    first = tensors[0]
    assert first is not None
    if not (first.is_cuda or plans_for_cpu) or not compat.RUNS_COMPILED or tuning.in_progress():
        return None, None
    places = 0
    key: list[Hashable] = [kind, options, triton.runtime.driver.active, tuning.state()]
    try:
        for x in tensors:
            if x is None:
                key.append(None)
            else:
                places |= x.data_ptr()
                key += (x.shape, x.stride(), x.dtype, x.device)
    except AttributeError:
        return None, None
    if places & 15:
        return None, None
    found = tuple(key)
    return found, _plans.get(found)


def remember(key: Hashable, plan: Plan) -> None:
    """Keeps a plan, unless the search that would have made another one had to be put off."""
    plan.forget_tensors()
    if key is not None and not tuning.put_off():
        if len(_plans) >= _LIMIT:
            _plans.clear()
        _plans[key] = plan


def addresses(*tensors: torch.Tensor | None) -> list[int | None]:
    return [None if x is None else x.data_ptr() for x in tensors]
