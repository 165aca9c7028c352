"""A driver that stands in for a GPU that is not here, so that Triton compiles for it when kernels are launched as usual.

A launch through this driver goes the whole ordinary way (argument specialisation, options, cache key, compilation, storing
in Triton's cache) and stops where the GPU would be asked. So what lies in the cache afterwards has, by construction, the
keys that the same call on that GPU looks for.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import unittest.mock
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel

from .assembly import target_limits

__all__ = ["Launch", "StandIn", "gpu_target", "standing_in"]


def gpu_target(arch: str) -> GPUTarget:
    """ "gfx942" or "sm_90" -> Triton's name for it. ValueError for anything else."""
    if arch.startswith("gfx") and len(arch) >= 6:
        limits = target_limits(arch)
        return GPUTarget("hip", arch, limits.wave if limits else 64 if arch.startswith("gfx9") else 32)
    if arch.startswith("sm_") and arch[3:].isdigit():
        return GPUTarget("cuda", int(arch[3:]), 32)
    raise ValueError(f"no GPU target: {arch!r} (expected gfx942, gfx1100, ..., or sm_90)")


class Launch:
    """A launch that went through the stand-in: the compiled kernel's metadata and its compile-time constants."""

    def __init__(self, src: Any, metadata: Any) -> None:
        self.metadata = metadata
        self.function: str = src.fn.__name__
        names = src.fn.arg_names
        constants = getattr(src, "constants", None) or {}
        self.constants: dict[str, Any] = {}
        for key, value in constants.items():
            index = key[0] if isinstance(key, tuple) else key
            self.constants[names[index] if isinstance(index, int) else str(index)] = value


class _Launcher:
    """Takes the place of the compiled launch function of a kernel; notes that it was called."""

    def __init__(self, src: Any, metadata: Any) -> None:
        self.launch = Launch(src, metadata)
        driver = triton.runtime.driver.active
        assert isinstance(driver, StandIn)
        driver.build_shim(src, metadata)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        driver = triton.runtime.driver.active
        assert isinstance(driver, StandIn)
        driver.launches.append(self.launch)


class _Utilities:
    """What Triton asks a driver's C module for."""

    _fields = 5 if "n_max_threads" in inspect.getsource(CompiledKernel) else 4

    def __init__(self, arch: str) -> None:
        limits = target_limits(arch)
        self.max_shared = limits.workgroup_lds if limits else 232448 if arch == "sm_90" else 65536
        self.arch = arch

    def get_device_properties(self, device: int = 0) -> dict[str, Any]:
        # The LDS limit is not enforced here: a kernel that exceeds it is compiled, and reported as what it is.
        return {
            "max_shared_mem": 1 << 30,
            "multiprocessor_count": 64,
            "arch": self.arch,
            "warpSize": gpu_target(self.arch).warp_size,
            "max_num_regs": 65536,
            "sm_clock_rate": 1,
            "mem_clock_rate": 1,
            "mem_bus_width": 1,
        }

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[Any, ...]:
        return (self, name, 0, 0, 1024)[: self._fields]  # None, for a module, would be loaded at every launch

    def unload_module(self, module: Any) -> None:
        """Nothing was loaded."""

    def launch(self, *args: Any) -> None:
        """Only stored by launchers that are built ahead; never called."""

    def build_signature_metadata(self, signature: Any) -> Any:
        return tuple(signature)


_devices: dict[str, int] = {}


class StandIn:
    """Triton's driver interface for `arch`. launches: what was launched, in order."""

    def __init__(self, arch: str, shims: bool = False, hip_library: str | None = None) -> None:
        self.arch = arch
        self.target = gpu_target(arch)
        self.utils = _Utilities(arch)
        self.launcher_cls = _Launcher
        self.launches: list[Launch] = []
        self.shims = shims
        self.hip_library = hip_library
        self.shim_problem: str | None = None
        # Triton keeps compiled kernels per device number: each target has its own.
        self.device = _devices.setdefault(arch, len(_devices))

    @staticmethod
    def is_active() -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.device

    def set_current_device(self, device: int) -> None:
        """There is only the one."""

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_device_capability(self, device: int | None = None) -> tuple[int, int]:
        return divmod(self.target.arch, 10) if isinstance(self.target.arch, int) else (0, 0)

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        import torch

        return torch.cpu

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def build_shim(self, src: Any, metadata: Any) -> None:
        """Builds the C launch function that Triton before 3.7 makes for each kernel, into the same cache.

        Its source does not depend on a GPU, only on a C compiler and Python's headers. NVIDIA's is linked with libcuda, which
        a machine without its driver lacks. Where it cannot be built the first call on the GPU builds it: 0.3 s a kernel.
        """
        if not self.shims or self.shim_problem:
            return
        try:
            module = self._backend()
            if hasattr(module, "make_launcher"):
                with _loading_nothing():
                    (module.HIPLauncher if self.target.backend == "hip" else module.CudaLauncher)(src, metadata)
        except Exception as error:  # noqa: BLE001 - the shim is a convenience; any obstacle is reported, none stops the work
            self.shim_problem = f"{type(error).__name__}: {error}"

    def build_driver_shim(self) -> None:
        """Builds the C module through which Triton talks to the driver, into the same cache: one for all kernels.

        On the GPU it is looked up before the first launch; where it is missing, a C compiler and Python's headers are needed.
        """
        if not self.shims:
            return
        build = "HIPUtils" if self.target.backend == "hip" else "CudaUtils"
        try:
            with _loading_nothing():
                getattr(self._backend(), build)()
        except Exception as error:  # noqa: BLE001 - as above
            self.shim_problem = f"{type(error).__name__}: {error}"

    def _backend(self) -> Any:
        """Triton's own driver module for the target. The path of HIP's library stands in the source of what it builds, and
        so in its key: `hip_library` is where that library will lie when the GPU is used."""
        if self.target.backend != "hip":
            from triton.backends.nvidia import driver as module

            return module
        from triton.backends.amd import driver as module

        if self.hip_library:
            module._get_path_to_hip_runtime_dylib = lambda: self.hip_library
        return module


def standing_in(arch: str, shims: bool = False, hip_library: str | None = None) -> AbstractContextManager[StandIn]:
    """Makes Triton compile for `arch` inside of the with block; afterwards it uses what it used before.

    Raises ValueError for a name that is no GPU target.
    """
    return _activated(StandIn(arch, shims, hip_library))


class _Unloaded(importlib.abc.Loader):
    """Gives a module that has every attribute and does nothing."""

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        module.__getattr__ = lambda name: None


@contextlib.contextmanager
def _loading_nothing() -> Iterator[None]:
    """What Triton builds inside of the with block is stored and not loaded: loading it opens the GPU's own library, and
    dies where that is not here."""

    def unloaded(name: str, *arguments: Any, **options: Any) -> Any:
        return importlib.machinery.ModuleSpec(name, _Unloaded())

    with unittest.mock.patch.object(importlib.util, "spec_from_file_location", unloaded):
        yield


@contextlib.contextmanager
def _activated(driver: StandIn) -> Iterator[StandIn]:
    config = triton.runtime.driver
    # Set as an attribute, never read: reading `active` would start the real driver, which fails where there is no GPU.
    field = "_active" if "_active" in vars(config) else "active"
    before = vars(config)[field]
    config.set_active(driver)
    try:
        yield driver
    finally:
        setattr(config, field, before)
