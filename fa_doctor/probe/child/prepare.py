"""What the smoke test does ahead and side by side, so that a person waits for less."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["Reference", "compile_side_by_side", "in_background"]

_THREADS = 16  # more find nothing to do: the trials have about as many kernels


class Reference:
    """What a result is held against: computed once, on whichever thread comes first to it."""

    def __init__(self, compute: Callable[[], Any]) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._value: Future[Any] = Future()

    def prepare(self) -> None:
        """Computes it unless that was done; what is raised then is raised by `get`."""
        with self._lock:
            if not self._value.done():
                try:
                    self._value.set_result(self._compute())
                except Exception as error:  # noqa: BLE001 - handed to whoever needs the value
                    self._value.set_exception(error)

    def get(self) -> Any:
        """The value; waits while another thread computes it."""
        self.prepare()
        return self._value.result()


def in_background(references: Iterable[Reference]) -> ThreadPoolExecutor:
    """Computes the references one after the other on a thread of their own."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="reference")
    for reference in references:
        pool.submit(reference.prepare)
    return pool


@contextlib.contextmanager
def _without_plans(kernels: Any) -> Iterator[None]:
    """Keeps our kernels from noting how they were launched, for the next call of the same shapes: they are not launched here."""
    package = kernels.flash_attn_func.__module__.rpartition(".")[0]
    compat: Any = sys.modules.get(f"{package}.compat")
    if compat is None:  # somebody else's kernels
        yield
        return
    kept, compat.RUNS_COMPILED = compat.RUNS_COMPILED, False
    try:
        yield
    finally:
        compat.RUNS_COMPILED = kept


def compile_side_by_side(torch: Any, kernels: Any, device: Any, trials: Sequence[Any]) -> dict[str, Any]:
    """Compiles every kernel of the trials' calls, each on a thread, and launches none: {"threads", "kernels", "failed"}.

    A compiler spends nearly all of its time outside of Python, so threads help: what is waited for is the kernel that
    takes longest. What is raised here is not an error yet: the same call is made again, alone, in the step whose name
    says what it is for.
    """
    from triton.runtime.jit import JITFunction

    threads = min(_THREADS, len(os.sched_getaffinity(0)))
    if threads < 2:
        return {"threads": 1, "kernels": 0, "failed": []}
    launching = JITFunction.run
    started: list[Future[None]] = []

    def ready(kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        compiled = launching(kernel, *args, **{**options, "warmup": True})
        # Before 3.7 Triton has a C compiler build a launcher for each kernel, when it is first launched: done here too. What
        # this raises is met again by the launch.
        with contextlib.suppress(Exception):
            compiled._init_handles()

    def called(trial: Any) -> BaseException | None:
        try:
            trial.call(kernels, device)
        except Exception as error:  # noqa: BLE001 - told in the step that makes the call for its result
            return error
        return None

    with ThreadPoolExecutor(threads, thread_name_prefix="compile") as pool:

        def compiling(self: Any, *args: Any, **options: Any) -> None:
            started.append(pool.submit(ready, self, args, options))

        JITFunction.run = compiling
        try:
            # A backward pass runs on this thread too, not on the one that autograd has for the device.
            with torch.autograd.set_multithreading_enabled(False), _without_plans(kernels):
                errors = [called(trial) for trial in trials]
        finally:
            JITFunction.run = launching
        errors += [one.exception() for one in started]
    failed = [f"{type(error).__name__}: {str(error)[:200]}" for error in errors if error is not None]
    return {"threads": threads, "kernels": len(started), "failed": failed}
