"""Instructions that the attention kernels execute on AMD targets, beside flash-attn 2.8.3's AMD kernels; needs no GPU.

    python benchmarks/amd_instructions.py [--emulator FOLDER] [--peer FOLDER] [--arch GFX ...] [--head-dim N ...] [--length N]

Runs one head, fp16, forward and backward, causal and not, on an emulator of AMD code objects (FOLDER with `instructions.py`;
default ../shared/emulator) and counts what is executed. --peer: a folder with flash-attn 2.8.3's `flash_attn` package. One
line a run: total, scratch, and vector, LDS and memory instructions for each matrix instruction. It is a count of work, not of
time. Ends with status 1 where ours executes more than 0.8 of the peer's instructions, or uses scratch.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ARCHS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
ROOT = Path(__file__).resolve().parent.parent
LINE = re.compile(r"causal=(\d) err (\S+) \| fwd (\d+) (\{.*?\}) \| bwd (\d+) (\{.*\})")


def count(
    emulator: Path, provider: str, arch: str, head_dim: int, length: int, peer: str | None
) -> dict[str, dict[str, int]]:
    """ "forward causal" -> instructions by class, for the four runs of a provider. Raises RuntimeError where it fails."""
    environment = {**os.environ, "FA_DOCTOR_KERNELS": "triton", "PEERS": peer or ""}
    environment.pop("FLASH_ATTENTION_TRITON_AMD_AUTOTUNE", None)
    done = subprocess.run(
        [sys.executable, str(emulator / "instructions.py"), provider, arch, str(head_dim), str(length)],
        env=environment, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    found = {}
    for line in done.stdout.splitlines():
        match = LINE.search(line)
        if match:
            mask = "causal" if match[1] == "1" else "full"
            if float(match[2]) > 1e-2:
                raise RuntimeError(f"{provider} {arch}: wrong result, error {match[2]}")
            found[f"forward {mask}"] = ast.literal_eval(match[4])
            found[f"backward {mask}"] = ast.literal_eval(match[6])
    if len(found) != 4 or any("error" in counts for counts in found.values()):
        raise RuntimeError(f"{provider} {arch}: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
    return found


def ratios(counts: dict[str, int]) -> str:
    """Vector (with transcendental), LDS and memory instructions for each matrix instruction."""
    matrix = counts["matrix"]
    vector = counts.get("valu", 0) + counts.get("trans", 0)
    return f"{vector / matrix:>7.2f} {counts.get('lds', 0) / matrix:>6.2f} {counts.get('vmem', 0) / matrix:>6.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulator", type=Path, default=ROOT.parent / "shared" / "emulator")
    parser.add_argument("--peer", help="folder with flash-attn 2.8.3's flash_attn package")
    parser.add_argument("--arch", nargs="+", default=ARCHS)
    parser.add_argument("--head-dim", nargs="+", type=int, default=(64, 128))
    parser.add_argument("--length", type=int, default=256)
    options = parser.parse_args()
    if not (options.emulator / "instructions.py").is_file():
        print(f"no emulator at {options.emulator}", file=sys.stderr)
        return 2
    print(f"{'target':<8}{'dim':>4} {'run':<16} {'ours':>8} {'peer':>8} {'ratio':>6} {'scratch':>7}   for each matrix instruction,"
          " ours and peer's: vector LDS memory")  # fmt: skip
    bad = 0
    for arch in options.arch:
        for head_dim in options.head_dim:
            ours = count(options.emulator, "ours", arch, head_dim, options.length, None)
            theirs = {}
            if options.peer:
                theirs = count(options.emulator, "peer", arch, head_dim, options.length, options.peer)
            for run, counts in ours.items():
                total, scratch = sum(counts.values()), counts.get("scratch", 0)
                other = theirs.get(run)
                ratio = total / sum(other.values()) if other else None
                wrong = scratch > 0 or (ratio is not None and ratio > 0.8)
                bad += wrong
                print(f"{arch:<8}{head_dim:>4} {run:<16} {total:>8} {sum(other.values()) if other else '':>8} "
                      f"{f'{ratio:.2f}' if ratio else '':>6} {scratch:>7}   {ratios(counts)}"
                      f"{'   ' + ratios(other) if other else ''}{'  <-' if wrong else ''}", flush=True)  # fmt: skip
    print(f"{bad} runs above 0.8 of the peer's instructions, or with scratch")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
