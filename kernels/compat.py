"""What differs between Triton releases 3.2 and 3.9, and where a kernel is about to run."""

from __future__ import annotations

import functools
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl

__all__ = [
    "FUSED",
    "INTERPRETED",
    "LAUNCHES_WITH_CONSTANTS",
    "RUNS_COMPILED",
    "TRITON_VERSION",
    "device_guard",
    "interpreting",
    "launches_are_watched",
    "target_name",
    "tile_descriptors",
    "use_kernels",
    "variable",
]

TRITON_VERSION: tuple[int, ...] = tuple(int(part) for part in triton.__version__.split("+")[0].split(".")[:2])


def interpreting() -> bool:
    """Whether Triton was told to run kernels in its Python interpreter (read when the kernels are imported)."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


# An option of every launch: a product and a sum become one instruction with one rounding. It was the default up to
# Triton 3.9, which warns that the next release will turn it off.
FUSED = {"enable_fp_fusion": True}

# Whether launches end at a compiled kernel, which can be launched again by itself; and whether it is then given the
# constants too, which Triton 3.2 leaves out.
RUNS_COMPILED = not interpreting()
LAUNCHES_WITH_CONSTANTS = TRITON_VERSION >= (3, 3)

# Triton's interpreter keeps bfloat16 as bit patterns and would multiply those: kernels ask this first.
INTERPRETED = tl.constexpr(interpreting())


def _read_bounds_of_loops() -> None:
    """Lets the interpreter of Triton before 3.7 run loops with NumPy 2.4.

    It hands a bound of a loop to Python as int() of an array of one element, which that NumPy takes only where the array
    has no dimension: "only 0-dimensional arrays can be converted to Python scalars".
    """
    from triton.runtime import interpreter

    prepare = interpreter._patch_lang_tensor

    def prepared(tensor: Any, *scope: Any) -> None:
        prepare(tensor, *scope)  # at each launch; 3.6 takes back with the scope what is set here too
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = prepared


if interpreting() and TRITON_VERSION < (3, 7):
    _read_bounds_of_loops()


_ENVIRONMENT: dict[bytes, bytes] | None = getattr(os.environ, "_data", None)


def variable(name: str) -> str:
    """A variable of the environment as it is now, "" where it is not set.

    os.environ.get raises and catches an error where it is not set, which every call of a kernel would wait for; what it
    looks into is asked directly, where it is the dictionary that CPython has there.
    """
    if type(_ENVIRONMENT) is not dict:
        return os.environ.get(name, "")
    value = _ENVIRONMENT.get(name.encode())
    return "" if value is None else os.fsdecode(value)


def use_kernels(tensor: torch.Tensor) -> bool:
    """Whether a call on this tensor goes to the Triton kernels or to the reference in plain PyTorch.

    FA_DOCTOR_KERNELS=triton or reference decides; unset, a GPU tensor goes to the kernels, a CPU tensor only in
    Triton's interpreter.
    """
    choice = variable("FA_DOCTOR_KERNELS")
    if choice not in ("", "triton", "reference"):
        raise ValueError(f"FA_DOCTOR_KERNELS is {choice!r}; it may be 'triton', 'reference' or unset")
    if tensor.dtype == torch.float64:
        if choice == "triton":
            raise ValueError("the Triton kernels compute in float16, bfloat16 and float32; float64 is the reference's")
        return False
    if choice:
        return choice == "triton"
    return tensor.is_cuda or interpreting()


_HOOKS: Any = triton.knobs.runtime if TRITON_VERSION >= (3, 4) else triton.compiler.CompiledKernel


def launches_are_watched() -> bool:
    """Whether a profiler has hooked itself before or behind Triton's launches."""
    before, behind = _HOOKS.launch_enter_hook, _HOOKS.launch_exit_hook
    # A function or None; from Triton 3.5 on a chain of functions, unless somebody has put a function in its place.
    return bool(getattr(before, "calls", before) or getattr(behind, "calls", behind))


def tile_descriptors(target: str, block: int, block_d: int, *tensors: torch.Tensor) -> list[Any]:
    """Descriptors through which the copy engine of a Hopper or newer GPU fetches tiles (block rows, 1 head, block_d).

    The tensors are (B, S, H, D) or packed (total, H, D); what lies outside of one reads as 0. None for each of them
    where the target, Triton, the type or the strides of one do not allow it.
    """
    none = [None] * len(tensors)
    if TRITON_VERSION < (3, 4) or not target.startswith("sm_") or int(target[3:]) < 90:
        return none
    from triton.tools.tensor_descriptor import TensorDescriptor

    tensors = tuple(x if x.dim() == 4 else x[None] for x in tensors)
    for x in tensors:
        b, s, h, _ = x.stride()
        if x.itemsize != 2 or x.data_ptr() % 16 or (b | s | h) % 8 or x.numel() == 0:
            return none
    return [TensorDescriptor(x, list(x.shape), list(x.stride()), [1, block, 1, block_d]) for x in tensors]


def device_guard(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device; this makes the tensor's device the current one."""
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return nullcontext()
    guard: AbstractContextManager[Any] = torch.cuda.device(tensor.device)
    return guard


def target_name(tensor: torch.Tensor) -> str:
    """The GPU target that a kernel on this tensor is compiled for: "gfx942", "sm_90", or "interpreter"."""
    if interpreting():
        return "interpreter"
    active = triton.runtime.driver.active
    return _target_name(tensor.device.index if tensor.is_cuda else None, id(active))


@functools.cache
def _target_name(device_index: int | None, driver: int) -> str:
    del device_index, driver  # only the keys of the cache
    target = triton.runtime.driver.active.get_current_target()
    return f"sm_{target.arch}" if target.backend == "cuda" else str(target.arch).split(":")[0]
