"""Measures `fa-doctor explain` as a whole process: a build log of 200 MB, and the cases of a folder.

    python benchmarks/explain_speed.py [--megabytes 200] [--cases FOLDER]

The build log is written to a temporary folder: compile commands of several kilobytes, warnings, and one error near the
end, all generated. Prints seconds and peak memory of each run, and the median over the cases.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ERROR = (
    "/build/csrc/ck_tile/core/arch/amd_buffer_addressing_hip.hpp:234:26: error: invalid operand for instruction\n"
    "1 error generated when compiling for gfx1100.\n"
    "ninja: build stopped: subcommand failed.\n"
)


def build_log(path: Path, megabytes: int) -> None:
    """A log as ninja prints it: long commands with changing file names, and warnings between them."""
    choose = random.Random(7)
    heads = ("bf16", "fp16", "fp8")
    with path.open("w") as file:
        written, step = 0, 0
        while written < megabytes * 1_000_000:
            step += 1
            name = f"fmha_{choose.choice(('fwd', 'bwd'))}_d{choose.choice((32, 64, 128, 256))}_{choose.choice(heads)}_{step:07d}"
            includes = " ".join(f"-I/opt/python/lib/torch/include/part{choose.randrange(60)}" for _ in range(30))
            line = (
                f"[{step}/90000] /opt/rocm/bin/hipcc {includes} -DUSE_ROCM=1 -D__HIP_PLATFORM_AMD__=1 -Werror=return-type "
                f"--offload-arch=gfx1100 -O3 -std=c++17 -fPIC -c build/{name}.hip -o build/temp/{name}.o\n"
            )
            if step % 7 == 0:
                line += (
                    f"build/{name}.hip:{step % 900}:12: warning: unused variable 'tile_{step}' [-Wunused-variable]\n"
                )
            written += file.write(line)
        file.write(ERROR)


def run(arguments: list[str]) -> tuple[float, float, str]:
    """Seconds, peak memory in MB, and what it printed."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "fa_doctor", "explain", "--no-machine", "--format", "json", *arguments],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    printed = process.stdout.read().decode()
    _, _, usage = os.wait4(process.pid, 0)
    return time.perf_counter() - started, usage.ru_maxrss / 1024, printed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--cases", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "build.log")
        build_log(log, arguments.megabytes)
        for _ in range(3):
            seconds, memory, printed = run([str(log)])
            first = (json.loads(printed)["diagnoses"] or [{}])[0]
            print(f"{log.stat().st_size / 1e6:.0f} MB  {seconds:.2f} s  {memory:.0f} MB  {first.get('cause')}")
        if arguments.cases:
            times = []
            for path in sorted(arguments.cases.glob("*.json")):
                text = Path(folder, "case.txt")
                text.write_text(json.loads(path.read_text())["text"])
                times.append(run([str(text)])[0])
            print(f"{len(times)} cases  median {statistics.median(times):.3f} s  slowest {max(times):.3f} s a process")
    return 0


if __name__ == "__main__":
    sys.exit(main())
