"""Does the first attention call compile anything, where fa-doctor compiled ahead without seeing a GPU?

    python benchmarks/prebuilt_cache.py --arch sm_90

Makes an environment that borrows this Python's torch and Triton, installs the kernels into it with every GPU hidden, and
then calls attention (forward and backward) with the GPU and an empty cache of Triton, once with and once without what was
prebuilt. Prints a table: seconds to the first result, and what each call added to the cache: kernels, launchers, shims.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": ""}

CALL = """
import json, sys, time
started = time.perf_counter()
import torch, flash_attn
q, k, v = (torch.randn(2, 1024, 8, 128, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in range(3))
torch.cuda.synchronize()
ready = time.perf_counter()
out = flash_attn.flash_attn_func(q, k, v, causal=True)
torch.cuda.synchronize()
forward = time.perf_counter()
out.sum().backward()
torch.cuda.synchronize()
backward = time.perf_counter()
wanted = torch.nn.functional.scaled_dot_product_attention(
    *(x.detach().float().transpose(1, 2) for x in (q, k, v)), is_causal=True).transpose(1, 2)
print(json.dumps({"import": ready - started, "forward": forward - ready, "backward": backward - forward,
                  "error": (out.float() - wanted).abs().max().item()}))
"""


def make_environment(folder: Path) -> None:
    """A virtual environment that sees the packages of this Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    paths = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "borrowed.pth").write_text("".join(f"{path}\n" for path in paths))


def install(folder: Path, arch: str) -> float:
    """Installs and compiles with every GPU hidden; seconds."""
    started = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "fa_doctor",
        "install",
        "--stack",
        "installed",
        "--arch",
        arch,
        "--venv",
        folder,
        "--yes",
    ]
    # Elsewhere than in the repository, whose folder would be imported in place of the installed package.
    subprocess.run(command, check=True, env={**os.environ, **HIDDEN}, cwd=folder.parent)
    return time.perf_counter() - started


def first_call(folder: Path, prebuilt: bool) -> tuple[dict[str, float], dict[str, int]]:
    """The times of a first call, and the files that it added to Triton's cache, by kind."""
    with tempfile.TemporaryDirectory() as cache:
        environ = {**os.environ, "TRITON_CACHE_DIR": cache, "HOME": cache}
        if not prebuilt:
            environ["TRITON_CACHE_MANAGER"] = "triton.runtime.cache:FileCacheManager"
        done = subprocess.run(
            [folder / "bin/python", "-c", CALL], env=environ, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        return json.loads(done.stdout.splitlines()[-1]), kinds(Path(cache))


def kinds(cache: Path) -> dict[str, int]:
    """What lies in a cache: compiled kernels, launchers, driver shims."""
    files = [path.name for path in cache.rglob("*") if path.is_file()]
    shared = [name for name in files if name.endswith(".so") or ".cpython-" in name]
    launchers = [name for name in shared if "launcher" in name]
    return {
        "kernels": sum(name.endswith((".cubin", ".hsaco")) for name in files),
        "launchers": len(launchers),
        "shims": len(shared) - len(launchers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", required=True, help="the target of the GPU that is here: sm_90, gfx942, ...")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "env"
        make_environment(folder)
        seconds = install(folder, arguments.arch)
        prebuilt = kinds(folder / "share" / "fa-doctor" / "triton-cache")
        print(f"\ninstalled without a GPU in {seconds:.1f} s; prebuilt: {prebuilt}\n")
        print(
            f"{'first call':<16} {'forward s':>10} {'backward s':>10} {'kernels':>8} {'launchers':>9} {'shims':>6}  error"
        )
        for name, there in (("prebuilt", True), ("nothing prebuilt", False)):
            times, added = first_call(folder, there)
            print(
                f"{name:<16} {times['forward']:>10.3f} {times['backward']:>10.3f} {added['kernels']:>8} "
                f"{added['launchers']:>9} {added['shims']:>6}  {times['error']:.1e}"
            )


if __name__ == "__main__":
    main()
