"""One key for a kernel in Triton's cache, whichever kernel a process uses first.

Triton names a compiled kernel in its cache by a hash of its source, of the functions that it calls and of the constants that
these use. Triton 3.7 (3.2 and 3.9 do not) looks at a called function's constants before it has found them, unless another
kernel that calls the function was there before. A process that decodes first would then compile again what another, which
began with a forward pass or compiled ahead of time, had left in the cache; and kernels that are compiled on several threads
would be compiled again at times.
"""

from __future__ import annotations

import sys

from triton.runtime.jit import JITFunction

__all__ = ["settle"]


def settle(package: str) -> None:
    """Has Triton hash the functions of every module of `package` that is imported, each after those that it calls.

    A module's functions stand in the order in which it defines them or imported them. Takes 0.03 s; nothing in the
    interpreter, whose functions have no key.
    """
    for name in sorted(sys.modules):
        if name.startswith(f"{package}."):
            for value in list(vars(sys.modules[name]).values()):
                if isinstance(value, JITFunction):
                    value.cache_key  # noqa: B018 - computed when asked for, and kept
