"""On what a probe runs."""

from __future__ import annotations

from typing import Any

__all__ = ["uses_gpu"]


def uses_gpu(torch: Any, request: dict[str, Any]) -> bool:
    """Whether it is the GPU: {"device": "cuda" yes | "cpu" no | "any", "targets": [gfx, ...]}.

    "any" is the GPU where torch sees one, and one of `targets` if they are named; else the CPU.
    """
    if request["device"] != "any":
        return bool(request["device"] == "cuda")
    if not torch.cuda.is_available():
        return False
    gfx = getattr(torch.cuda.get_device_properties(0), "gcnArchName", "").split(":")[0]
    return not gfx or not request.get("targets") or gfx in request["targets"]
