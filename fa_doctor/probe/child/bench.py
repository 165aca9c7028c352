"""Measures a list of points, and reports each as soon as it is measured."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

from .measure import matrix_product_tflops, measure
from .reporter import Reporter
from .stopwatch import stopwatch

__all__ = ["run"]


def run(request: dict[str, Any], report: Reporter, load_kernels: Callable[[], Any]) -> None:
    """{"points": [{"number", ...}], "seconds": per point}: says "machine", then "begin" and "end" of each point."""
    import torch

    watch = stopwatch(torch, request["device"])
    on_gpu = watch.device == "cuda"
    properties = torch.cuda.get_device_properties(0) if on_gpu else None
    dtype = request["points"][0]["dtype"]
    report.say(
        "machine",
        "machine",
        name=watch.name(),
        gfx=getattr(properties, "gcnArchName", "").split(":")[0],
        torch=torch.__version__,
        triton=_triton_version(),
        matrix_product_tflops=matrix_product_tflops(torch, watch, dtype) if on_gpu else None,
    )
    load_once = functools.cache(load_kernels)
    for point in request["points"]:
        report.say("begin", "point", number=point["number"])
        try:
            found = measure(torch, watch, load_once, point, request["seconds"])
        except torch.OutOfMemoryError:
            found = {"error": "out of memory"}
        except Exception as error:  # noqa: BLE001 - one provider's failure is its result, not the sweep's
            found = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        report.say("end", "point", number=point["number"], result=found)
        watch.free()
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()


def _triton_version() -> str | None:
    """PyTorch's own attention can be timed where there is no Triton."""
    try:
        return str(importlib.import_module("triton").__version__)
    except ImportError:
        return None
