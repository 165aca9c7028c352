"""The smoke test: from `import torch` to the whole attention call, in an order that narrows a fault down.

What each step costs in CPU seconds, measured with torch 2.13 for CPUs and Triton 3.7.1 on an AMD EPYC without a GPU; what a GPU's
own libraries, its context and its first launches add was not measured:

    import torch                     1.3; the references then take 3.2 on a thread of their own, spread over the cores
    allocate, copy and multiply      0.1
    import Triton                    0.2
    run a one-line kernel            0.9: Triton hashes its own library of 460 MB, once a process
    compile the attention kernels    0.2 to import them; kernels that are in Triton's cache 0.1. Those that are not, 15 in all:
                                     14 for gfx942 and for sm_90, side by side: on 16 cores as long as the slowest takes, 2
    forward, backward, decoding      0.3 to compare what came back
    dropout, causal and softcap      0.4, most of it the reference, which needs the mask that the GPU drew
    scaled_dot_product_attention     0.2
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .device import uses_gpu
from .prepare import compile_side_by_side, in_background
from .reporter import Reporter
from .sdpa import reference_of, try_sdpa
from .trials import DecodeTrial, DenseTrial, OriginTrial, VarlenTrial, cases

__all__ = ["STEPS", "run"]

STEPS = (
    "import torch",
    "find the device",
    "allocate, copy and multiply",
    "import Triton",
    "run a one-line kernel",
    "compile the attention kernels",
    "attention forward",
    "attention backward",
    "decoding with a KV cache",
    "dropout, causal and softcap together",
    "scaled_dot_product_attention",
)


def run(request: dict[str, Any], report: Reporter, load_kernels: Callable[[], Any]) -> None:
    """{"device": "cuda"|"cpu"|"any", "seed": int, "attention": bool (default true; else it ends with Triton's import)}.

    On the CPU the kernels run in Triton's interpreter where the caller set TRITON_INTERPRET=1 before Python started, which
    says nothing about a GPU; else attention is computed as programs there have it, in PyTorch.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    wants_attention = bool(request.get("attention", True))
    seed = int(request["seed"])
    with report.step("import torch") as details:
        import torch

        on_gpu = uses_gpu(torch, request)
        details.update(version=torch.__version__, hip=torch.version.hip, cuda=torch.version.cuda)
        if wants_attention:
            # What the results are held against is computed on the CPU while the GPU wakes up and kernels are compiled.
            dense = [DenseTrial(torch, case, seed) for case in cases(on_gpu)]
            varlen, decode = VarlenTrial(torch, seed, on_gpu), DecodeTrial(torch, seed, on_gpu)
            of_sdpa = reference_of(torch, seed)
            wanted = [*(trial.reference for trial in dense), varlen.reference, decode.reference]
            references = in_background([*wanted, of_sdpa] if on_gpu else wanted)
    with report.step("find the device") as details:
        if on_gpu:
            if not torch.cuda.is_available():
                raise RuntimeError("torch.cuda.is_available() is False: torch sees no GPU")
            properties = torch.cuda.get_device_properties(0)
            details.update(
                name=properties.name,
                gfx=getattr(properties, "gcnArchName", "").split(":")[0],
                memory_bytes=properties.total_memory,
                count=torch.cuda.device_count(),
            )
        device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    with report.step("allocate, copy and multiply") as details:
        if on_gpu:
            details["free_bytes"] = torch.cuda.mem_get_info()[0]
        if on_gpu or wants_attention:
            _multiply(torch, device, seed)
    with report.step("import Triton") as details:
        import triton

        details["version"] = triton.__version__
    if not wants_attention:
        return
    with report.step("run a one-line kernel"):
        if on_gpu or interpreted:
            _run_one_line(torch, device)
    origin = OriginTrial(torch, seed, on_gpu)
    with report.step("compile the attention kernels") as details:
        kernels = load_kernels()
        if on_gpu:
            details.update(compile_side_by_side(torch, kernels, device, [*dense, varlen, decode, origin]))
    with report.step("attention forward") as details:
        details["errors"] = {trial.case.name: trial.forward(kernels, device) for trial in dense}
        details["errors"]["varlen"] = varlen.forward(kernels, device)
    with report.step("attention backward") as details:
        details["errors"] = {trial.case.name: trial.backward(device) for trial in dense}
    with report.step("decoding with a KV cache") as details:
        details["error"] = decode.forward(kernels, device)
    with report.step("dropout, causal and softcap together") as details:
        details.update(origin.forward_and_backward(kernels, device))
    with report.step("scaled_dot_product_attention") as details:
        if on_gpu:
            details["backends"] = try_sdpa(torch, device, seed, of_sdpa)
    references.shutdown()


def _multiply(torch: Any, device: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(-4, 5, (256, 192), generator=generator).to(torch.float16)
    b = torch.randint(-4, 5, (192, 320), generator=generator).to(torch.float16)
    # Small whole numbers: the product is exact in float16 with float32 sums, so any difference is a fault.
    product = (a.to(device) @ b.to(device)).to("cpu")
    if not torch.equal(product.double(), a.double() @ b.double()):
        raise AssertionError("a matrix product of small whole numbers came back wrong")


def _run_one_line(torch: Any, device: Any) -> None:
    from .one_line import add_one

    x = torch.arange(300, dtype=torch.float32)
    y = torch.full_like(x, float("nan")).to(device)
    # As in the attention kernels: Triton 3.9 warns where it is left out, for the next release turns it off.
    add_one[(3,)](x.to(device), y, 300, BLOCK=128, enable_fp_fusion=True)
    if not torch.equal(y.to("cpu"), x + 1):
        raise AssertionError("a Triton kernel that adds one came back wrong")
