"""What the kernels cost on each AMD target, beside flash-attn 2.8.3's AMD kernels compiled the same way; needs no GPU.

    python benchmarks/amd_resources.py [--peer FOLDER] [--arch GFX ...] [--head-dim N ...] [--json FILE]

FOLDER holds a `flash_attn` package at tag v2.8.3 (needs einops); without it only ours are shown. One line a kernel: registers,
spills, scratch, LDS, occupancy (waves per SIMD), and of its innermost loops with matrix instructions: how many those are, and
vector and LDS instructions for each. Ends with status 1 where one of ours spills, uses scratch, exceeds the LDS, has an inner
loop without matrix instructions, or has a lower occupancy than the peer's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from typing import Any

ARCHS = ("gfx908", "gfx90a", "gfx942", "gfx950", "gfx1030", "gfx1100", "gfx1101", "gfx1151", "gfx1200", "gfx1201")
# Kernels of the attention itself; the others (row sums for the backward pass) have no products.
PRODUCTS = {
    "forward": ("forward_kernel", "attn_fwd"),
    "backward": ("dkdv_kernel", "dq_kernel", "_bwd_kernel_dkdv_causal", "_bwd_kernel_dkdv_noncausal",
                 "_bwd_kernel_dq_causal", "_bwd_kernel_dq_noncausal"),
}  # fmt: skip


def peer(folder: str) -> Any:
    """flash-attn's public interface, made to take CPU tensors."""
    import torch

    sys.path.insert(0, folder)
    os.environ["FLASH_ATTENTION_TRITON_AMD_ENABLE"] = "TRUE"
    torch.__version__ = "2.3.0"  # below 2.4 it registers no operators, which would exist for GPU tensors only
    torch.cuda.device = lambda *_: contextlib.nullcontext()
    torch.cuda.current_device = lambda: 0
    import flash_attn

    return flash_attn


def compile_one(provider: str, arch: str, head_dim: int, causal: bool) -> list[dict[str, Any]]:
    """Rows of forward and backward of one head dimension, fp16."""
    import torch

    from fa_doctor import kernels
    from fa_doctor.kernels.aot import cost_row
    from fa_doctor.kernels.standin import standing_in

    rows = []
    with standing_in(arch) as driver:
        api = kernels if provider == "ours" else peer(provider)
        q, k, v = (torch.empty(1, 1024, 4, head_dim, dtype=torch.float16).requires_grad_() for _ in range(3))
        for kind in PRODUCTS:
            driver.launches.clear()
            try:
                if kind == "forward":
                    out = api.flash_attn_func(q, k, v, causal=causal)
                else:
                    torch.autograd.grad(out, (q, k, v), torch.empty_like(out))
            except Exception as error:  # noqa: BLE001 - the compiler's refusal is the result
                rows.append({"pass": kind, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"})
                break
            rows += [
                {"pass": kind, "error": None, **cost_row(launch, arch)}
                for launch in driver.launches
                if launch.function in PRODUCTS[kind]
            ]
    return rows


def in_child(provider: str, arch: str, head_dim: int, causal: bool) -> list[dict[str, Any]]:
    """compile_one in a process of its own: some targets end the compiler, and it with it."""
    request = json.dumps([provider, arch, head_dim, causal])
    environment = {**os.environ, "FA_DOCTOR_KERNELS": "triton"}
    environment.pop("FLASH_ATTENTION_TRITON_AMD_AUTOTUNE", None)
    done = subprocess.run(
        [sys.executable, __file__, "--one", request], env=environment, capture_output=True, text=True, timeout=1800
    )
    for line in done.stdout.splitlines():
        if line.startswith("ROWS "):
            rows = json.loads(line[5:])
            assert isinstance(rows, list)
            return rows
    said = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
    return [{"pass": kind, "error": said[-1][:160]} for kind in PRODUCTS]


def mix(row: dict[str, Any]) -> dict[str, float]:
    """Matrix instructions in inner loops, and others for each of them. A loop without any counts as 0."""
    loops = [loop["counts"] for loop in row["inner_loops"]]
    matrix = min((counts.get("matrix", 0) for counts in loops), default=0)
    total = sum(counts.get("matrix", 0) for counts in loops) or 1
    return {
        "matrix": matrix,
        "vector": sum(c.get("vector", 0) + c.get("transcendental", 0) for c in loops) / total,
        "lds": sum(c.get("lds", 0) for c in loops) / total,
    }


def faults(row: dict[str, Any], peers: list[dict[str, Any]], arch: str) -> list[str]:
    """What a shipped configuration must not do."""
    if row["error"]:
        return [row["error"]]
    found = [name for name in ("vgpr_spills", "scratch_bytes") if row[name]]
    if mix(row)["matrix"] == 0 and arch != "gfx1030":
        found.append("inner loop without matrix instructions")
    theirs = [p["occupancy"] for p in peers if not p["error"] and p["pass"] == row["pass"]]
    if theirs and row["occupancy"] < min(theirs):
        found.append(f"occupancy below {min(theirs)}")
    return found


def line(row: dict[str, Any]) -> str:
    if row["error"]:
        return f"error: {row['error']}"
    m = mix(row)
    tile = f"{row['config'].get('block_m', '')}x{row['config'].get('block_n', '')}/{row['config']['num_warps']}"
    return (
        f"{row['kernel'][:26]:<26} {tile:>10} {row['vgprs']:>4} {row['agprs']:>4} {row['vgpr_spills']:>5} "
        f"{row['scratch_bytes']:>7} {row['lds_bytes']:>6} {row['occupancy']:>5} {m['matrix']:>6} {m['vector']:>7.1f} "
        f"{m['lds']:>6.2f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="folder with flash-attn 2.8.3's flash_attn package")
    parser.add_argument("--arch", nargs="+", default=ARCHS)
    parser.add_argument("--head-dim", nargs="+", type=int, default=(64, 128, 256))
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--json", help="also write all rows here")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print("ROWS", json.dumps(compile_one(*json.loads(options.one))))
        return 0
    everything, bad = [], 0
    print(f"{'target':<8}{'dim':>4} {'whose':<5} {'pass':<9}{'kernel':<26} {'tile/warps':>10} VGPR AGPR spill scratch    LDS "
          "waves matrix  vector    LDS")  # fmt: skip
    for arch in options.arch:
        for head_dim in options.head_dim:
            theirs = in_child(options.peer, arch, head_dim, options.causal) if options.peer else []
            ours = in_child("ours", arch, head_dim, options.causal)
            for whose, rows in (("peer", theirs), ("ours", ours)):
                for row in rows:
                    wrong = faults(row, theirs, arch) if whose == "ours" else []
                    bad += bool(wrong)
                    print(f"{arch:<8}{head_dim:>4} {whose:<5} {row['pass']:<9}{line(row)}"
                          + (f"  <- {', '.join(wrong)}" if wrong else ""), flush=True)  # fmt: skip
                    everything.append({"arch": arch, "head_dim": head_dim, "whose": whose, **row})
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            json.dump(everything, stream, indent=1)
    print(f"{bad} of ours at fault")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
