"""What the smoke test does ahead and side by side, so that a person waits for less."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["Reference", "compile_side_by_side", "in_background"]

_THREADS = 8  # more find nothing to do: the longest chain is one backward pass


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


def compile_side_by_side(torch: Any, kernels: Any, device: Any, trials: Sequence[Any]) -> dict[str, Any]:
    """Compiles the kernels of the trials' calls on several threads and launches none: {"threads", "failed": [...]}.

    A compiler spends most of its time outside of Python, so threads help. What a call raises here is not an error yet:
    the same call is made again, alone, in the step whose name says what it is for.
    """
    from triton.runtime.jit import JITFunction

    threads = min(_THREADS, len(trials), len(os.sched_getaffinity(0)))
    if threads < 2:
        return {"threads": 1, "failed": []}
    launching = JITFunction.run

    def compiling(self: Any, *args: Any, **options: Any) -> Any:
        return launching(self, *args, **{**options, "warmup": True})

    def attempt(trial: Any) -> str | None:
        try:
            # The backward pass runs on this thread too, not on the one that autograd has for the device.
            with torch.autograd.set_multithreading_enabled(False):
                trial.call(kernels, device)
        except Exception as error:  # noqa: BLE001 - told in the step that makes the call for its result
            return f"{type(error).__name__}: {str(error)[:200]}"
        return None

    JITFunction.run = compiling
    try:
        with ThreadPoolExecutor(threads) as pool:
            failed = [words for words in pool.map(attempt, trials) if words]
    finally:
        JITFunction.run = launching
    return {"threads": threads, "failed": failed}
