"""The speed probe: a few points at which unfused attention, SDPA and the bundled kernels are held against each other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .measure import matrix_product_tflops, measure
from .reporter import Reporter
from .stopwatch import stopwatch

__all__ = ["STEPS", "run"]

STEPS = ("import torch", "find the device", "measure a matrix product", "measure attention")


def run(request: dict[str, Any], report: Reporter, load_kernels: Callable[[], Any]) -> None:
    """{"points": [...]}: each is noted as it is measured, with its "error" if it has one, so that a deadline loses none."""
    with report.step("import torch") as details:
        import torch

        details["version"] = torch.__version__
    with report.step("find the device") as details:
        watch = stopwatch(torch, "cuda")
        properties = torch.cuda.get_device_properties(0)
        details.update(name=properties.name, gfx=getattr(properties, "gcnArchName", "").split(":")[0])
    with report.step("measure a matrix product") as details:
        details["tflops"] = {
            dtype: matrix_product_tflops(torch, watch, dtype)
            for dtype in dict.fromkeys(p["dtype"] for p in request["points"])
        }
    with report.step("measure attention"):
        load_once = functools.cache(load_kernels)
        for point in request["points"]:
            try:
                found = measure(torch, watch, load_once, point)
            except Exception as error:  # noqa: BLE001 - one provider's failure is its result, not the probe's
                found = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
                watch.free()
            report.say("note", "measure attention", **point, **found)
