"""A GPU that is not there, for the probe's real child: put this folder on PYTHONPATH and set PRETENDED_BYTES.

What a program moves to "cuda" stays on the CPU and is charged to that many bytes of memory, in blocks of 2 MiB as PyTorch's
allocator takes them and never given back; beyond them torch.OutOfMemoryError is raised in PyTorch's words. Nothing is
computed by a GPU: what this shows is which way the child goes where torch says that there is one, and what is made of an
allocator that has nothing left. PRETENDED_HANG names what never comes back: import_torch or mem_get_info.
"""

from __future__ import annotations

import os
import sys
import time
import types
from typing import Any

BLOCK = 2 << 20

if "PRETENDED_BYTES" in os.environ:
    import torch

    free = total = int(os.environ["PRETENDED_BYTES"])
    on_cpu = torch.Tensor.to

    def move(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        global free
        if not args or not isinstance(args[0], torch.device) or args[0].type != "cuda":
            return on_cpu(tensor, *args, **options)
        size = -(-tensor.numel() * tensor.element_size() // BLOCK) * BLOCK
        if size > free:
            raise torch.OutOfMemoryError(
                f"HIP out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU 0 has a total capacity of 191.98 GiB of "
                f"which {free / 2**20:.2f} MiB is free. Of the allocated memory {(total - free) / 2**20:.2f} MiB is "
                "allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated."
            )
        free -= size
        return tensor.clone()

    torch.Tensor.to = move  # type: ignore[method-assign,assignment]
    card = types.SimpleNamespace(name="a GPU that is not there", gcnArchName="gfx942", total_memory=192 << 30)
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda.get_device_properties = lambda device=None: card  # type: ignore[assignment,return-value]

    def mem_get_info(device: Any = None) -> tuple[int, int]:
        if os.environ.get("PRETENDED_HANG") == "mem_get_info":
            time.sleep(600)
        return free, card.total_memory

    torch.cuda.mem_get_info = mem_get_info  # type: ignore[assignment]

    class Hangs:
        """Finds no module, and never ends when the child asks for one of torch's."""

        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> None:
            if name == "torch":
                import_torch()

    def import_torch() -> None:
        time.sleep(600)

    if os.environ.get("PRETENDED_HANG") == "import_torch":
        del sys.modules["torch"]
        sys.meta_path.insert(0, Hangs)  # type: ignore[arg-type]
