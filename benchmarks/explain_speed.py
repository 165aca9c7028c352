"""Measures `fa-doctor explain` as a whole process: a build log and a server's log of 200 MB, and the cases of a folder.

    python benchmarks/explain_speed.py [--megabytes 200] [--cases FOLDER]

The logs are written to a temporary folder: compile commands of several kilobytes with warnings between them, or the
short lines of a serving program, and one error at the end, all generated. Prints seconds (wall clock and processor) and
peak memory of each run, and the median over the cases.
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


FAULT = "(EngineCore pid=71) Memory access fault by GPU node-2 (Agent handle: 0x55d0) on address 0x7f0c00000000. Reason: Unknown.\n"


def server_log(path: Path, megabytes: int) -> None:
    """A log as serving programs print it: short lines, in each of which times, addresses and counters are new."""
    choose = random.Random(11)
    with path.open("w") as file:
        written = file.write("INFO 06-21 19:00:00 [__init__.py:244] Automatically detected platform rocm.\n")
        second = 0
        while written < megabytes * 1_000_000:
            second += 1
            at = (
                f"06-{second // 86400 % 28 + 1:02d} {second // 3600 % 24:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
            )
            written += file.write(
                f"INFO {at} [loggers.py:116] Engine 000: Avg prompt throughput: {choose.random() * 9000:.1f} tokens/s, "
                f"Avg generation throughput: {choose.random() * 900:.1f} tokens/s, Running: {choose.randrange(90)} reqs, "
                f"Waiting: {choose.randrange(9)} reqs, GPU KV cache usage: {choose.random() * 100:.1f}%\n"
                f'INFO:     10.0.{choose.randrange(255)}.7:{choose.randrange(65000)} - "POST /v1/completions HTTP/1.1" 200 OK\n'
                f"INFO {at} [async_llm.py:269] Added request chatcmpl-{choose.getrandbits(128):032x}.\n"
                f"DEBUG {at} [core.py:{choose.randrange(900)}] EngineCore loop active, token usage {choose.random():.2f}.\n"
            )
        file.write(FAULT)


def run(arguments: list[str]) -> tuple[float, float, float, str]:
    """Seconds, seconds of the processor, peak memory in MB, and what it printed."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "fa_doctor", "explain", "--no-machine", "--format", "json", *arguments],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    printed = process.stdout.read().decode()
    _, _, usage = os.wait4(process.pid, 0)
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, printed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--cases", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, write in (("build", build_log), ("server", server_log)):
            log = Path(folder, f"{name}.log")
            write(log, arguments.megabytes)
            for _ in range(3):
                seconds, processor, memory, printed = run([str(log)])
                first = (json.loads(printed)["diagnoses"] or [{}])[0]
                print(
                    f"{name:6} {log.stat().st_size / 1e6:.0f} MB  {seconds:.2f} s  processor {processor:.2f} s"
                    f"  {memory:.0f} MB  {first.get('cause')}"
                )
            log.unlink()
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
