"""Measures a list of points, and reports each as soon as it is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .measure import matrix_product_tflops, measure
from .reporter import Reporter

__all__ = ["run"]


def run(request: dict[str, Any], report: Reporter, load_kernels: Callable[[], Any]) -> None:
    """{"points": [{"number", ...}], "seconds": per point}: says "machine", then "begin" and "end" of each point."""
    import torch
    import triton

    properties = torch.cuda.get_device_properties(0)
    report.say(
        "machine",
        "machine",
        name=properties.name,
        gfx=getattr(properties, "gcnArchName", "").split(":")[0],
        torch=torch.__version__,
        triton=triton.__version__,
        matrix_product_tflops=matrix_product_tflops(torch, request["points"][0]["dtype"]),
    )
    kernels: list[Any] = []

    def load_once() -> Any:
        if not kernels:
            kernels.append(load_kernels())
        return kernels[0]

    for point in request["points"]:
        report.say("begin", "point", number=point["number"])
        try:
            found = measure(torch, load_once, point, request["seconds"])
        except torch.OutOfMemoryError:
            found = {"error": "out of memory"}
        except Exception as error:  # noqa: BLE001 - one provider's failure is its result, not the sweep's
            found = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        report.say("end", "point", number=point["number"], result=found)
        torch.cuda.empty_cache()
        torch._dynamo.reset()
