"""How calls are timed and their memory is taken, on a GPU and on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["CpuStopwatch", "GpuStopwatch", "Stopwatch", "stopwatch"]

_FLUSH_BYTES = 512 << 20  # more than any last-level cache there is (256 MB of Infinity Cache on MI300X)


class GpuStopwatch:
    """Device events; the peak of PyTorch's allocator."""

    device = "cuda"

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def name(self) -> str:
        return str(self._torch.cuda.get_device_properties(0).name)

    def wait(self) -> None:
        """Until everything that was asked for is done."""
        self._torch.cuda.synchronize()

    def start_memory(self) -> None:
        """From here on the peak is taken."""
        self.wait()
        self._torch.cuda.reset_peak_memory_stats()
        self._held = self._torch.cuda.memory_allocated()

    def peak_bytes(self) -> int | None:
        """The peak since `start_memory`, above what was held then."""
        self.wait()
        return int(self._torch.cuda.max_memory_allocated() - self._held)

    def free(self) -> None:
        """Gives the allocator's spare memory back."""
        self._torch.cuda.empty_cache()

    def times_ms(self, call: Callable[[], Any], count: int, flush: bool = True) -> list[float]:
        """Milliseconds of `count` single calls, caches flushed before each if `flush`."""
        torch = self._torch
        spare = torch.empty(_FLUSH_BYTES // 4, dtype=torch.int32, device="cuda") if flush else None
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for first, last in marks:
            if spare is not None:
                spare.zero_()
            first.record()
            call()
            last.record()
        self.wait()
        return [first.elapsed_time(last) for first, last in marks]


class CpuStopwatch:
    """The clock on the wall. PyTorch's allocator of the CPU keeps no count of memory."""

    device = "cpu"

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def name(self) -> str:
        return f"the CPU ({self._torch.get_num_threads()} threads)"

    def wait(self) -> None:
        """Calls return when they are done."""

    def start_memory(self) -> None:
        """No peak is taken."""

    def peak_bytes(self) -> int | None:
        return None

    def free(self) -> None:
        """There is no cache to empty."""

    def times_ms(self, call: Callable[[], Any], count: int, flush: bool = True) -> list[float]:
        """Milliseconds of `count` single calls. Caches are left as they are."""
        samples = []
        for _ in range(count):
            begin = time.perf_counter()
            call()
            samples.append(1e3 * (time.perf_counter() - begin))
        return samples


Stopwatch = GpuStopwatch | CpuStopwatch


def stopwatch(torch: Any, device: str) -> Stopwatch:
    """The one for "cuda" or "cpu"."""
    return GpuStopwatch(torch) if device == "cuda" else CpuStopwatch(torch)
