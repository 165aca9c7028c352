"""Does the first attention call compile anything, where fa-doctor compiled ahead without seeing a GPU?

    python benchmarks/prebuilt_cache.py --arch sm_90

Makes an environment that borrows this Python's torch and Triton, installs the kernels into it with every GPU hidden, and
then calls attention (forward and backward) with the GPU and an empty cache of Triton, once with and once without what was
prebuilt. Prints a table: seconds to the first result, and what each call added to the cache: kernels, launchers (a C
function a kernel, before Triton 3.7), driver modules. The last line is the verdict; the exit status is 0 if nothing was
added.

Where torch sees no GPU the calls are made under the stand-in driver that compiles ahead: everything is looked up as on the
GPU and nothing is launched, so the errors and the seconds of kernels are missing.
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


LOOK_UP = """
import json, os, sys, time
started = time.perf_counter()
os.environ["FA_DOCTOR_KERNELS"] = "triton"
import torch, flash_attn
from flash_attn.kernels import aot
q, k, v = (torch.randn(2, 1024, 8, 128, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
with aot.standing_in(sys.argv[1], True) as driver:
    ready = time.perf_counter()
    driver.build_driver_shim()
    out = flash_attn.flash_attn_func(q, k, v, causal=True)
    forward = time.perf_counter()
    out.backward(torch.ones_like(out))
    backward = time.perf_counter()
    assert driver.launches and not driver.shim_problem, driver.shim_problem
print(json.dumps({"import": ready - started, "forward": forward - ready, "backward": backward - forward, "error": None}))
"""


def make_environment(folder: Path, triton: Path | None) -> None:
    """A virtual environment that sees the packages of this Python, and before them those of the folder `triton`."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    paths = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    paths = [*([str(triton.absolute())] if triton else []), *paths]
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


def sees_gpu(folder: Path) -> bool:
    """Whether torch has a GPU to use."""
    program = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([folder / "bin/python", "-c", program], check=False).returncode == 0


def first_call(folder: Path, arch: str, prebuilt: bool, gpu: bool) -> tuple[dict[str, float | None], dict[str, int]]:
    """The times of a first call, and the files that it added to Triton's cache, by kind."""
    with tempfile.TemporaryDirectory() as cache:
        environ = {**os.environ, "TRITON_CACHE_DIR": cache, "HOME": cache}
        if not prebuilt:
            environ["TRITON_CACHE_MANAGER"] = "triton.runtime.cache:FileCacheManager"
        done = subprocess.run(
            [folder / "bin/python", "-c", CALL if gpu else LOOK_UP, arch],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        return json.loads(done.stdout.splitlines()[-1]), kinds(Path(cache))


def kinds(cache: Path) -> dict[str, int]:
    """What lies in a cache: compiled kernels, launchers, driver modules."""
    files = [path.name for path in cache.rglob("*") if path.is_file()]
    shared = [name for name in files if name.endswith(".so")]
    launchers = [name for name in shared if "launcher" in name]
    return {
        "kernels": sum(name.endswith((".cubin", ".hsaco")) for name in files),
        "launchers": len(launchers),
        "driver modules": len(shared) - len(launchers),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", required=True, help="the target of the GPU that is here: sm_90, gfx942, ...")
    parser.add_argument(
        "--triton", type=Path, metavar="DIR", help="a folder with another Triton, taken before this one's"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "env"
        make_environment(folder, arguments.triton)
        seconds = install(folder, arguments.arch)
        prebuilt = kinds(folder / "share" / "fa-doctor" / "triton-cache")
        gpu = sees_gpu(folder)
        print(f"\ninstalled without a GPU in {seconds:.1f} s; prebuilt: {prebuilt}")
        print("the calls run on the GPU\n" if gpu else "no GPU here: the calls are looked up and not launched\n")
        print(
            f"{'first call':<17} {'forward s':>9} {'backward s':>10} {'kernels':>7} {'launchers':>9} {'modules':>7}  error"
        )
        for name, there in (("nothing prebuilt", False), ("prebuilt", True)):
            times, added = first_call(folder, arguments.arch, there, gpu)
            error = "" if times["error"] is None else f"{times['error']:.1e}"
            print(
                f"{name:<17} {times['forward']:>9.3f} {times['backward']:>10.3f} {added['kernels']:>7} "
                f"{added['launchers']:>9} {added['driver modules']:>7}  {error}"
            )
    new = [f"{count} {what}" for what, count in added.items() if count]
    print(f"\nverdict: the first call {'still made ' + ', '.join(new) if new else 'made nothing new'}")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
