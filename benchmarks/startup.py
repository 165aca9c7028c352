"""How long fa-doctor takes as a whole process, and how much memory, beside other programs, in one run.

    python benchmarks/startup.py [--runs 10] [--python EXE]

--python names a Python that has torch, for `python -m torch.utils.collect_env`, which is left out without it. Medians
over the runs; the commands take turns, so that a machine whose speed drifts does not favour one of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time


def measure(argv: list[str], env: dict[str, str]) -> tuple[float, float, int]:
    """Seconds from start to end, CPU seconds, and peak memory in KiB of one run."""
    started = time.perf_counter()
    process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def main() -> None:
    """Prints a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=10)
    arguments.add_argument("--python", help="a Python that has torch")
    arguments.add_argument("--ignore", nargs="*", default=[], help="checks that `run` leaves out")
    chosen = arguments.parse_args()
    doctor = [os.path.join(os.path.dirname(sys.executable), "fa-doctor")]
    # On a machine without a GPU no verdict would be healthy, and so none be kept: what fails there is left out.
    run = [*doctor, "run", "--on-fail", "warn"]
    for topic in chosen.ignore:
        run += ["--ignore", topic]
    commands: dict[str, list[str]] = {
        "python3 -c pass": [sys.executable, "-c", "pass"],
        "fa-doctor --version": [*doctor, "--version"],
        "fa-doctor check --level quick": [*doctor, "check", "--level", "quick"],
        "fa-doctor run -- true (verdict kept)": [*run, "--", "true"],
        "fa-doctor run -- true (looking)": [*run, "--no-keep", "--", "true"],
    }
    if chosen.python:
        commands["python -m torch.utils.collect_env"] = [chosen.python, "-m", "torch.utils.collect_env"]
    with tempfile.TemporaryDirectory() as state:
        env = {**os.environ, "FA_DOCTOR_STATE_DIR": state}
        rows: dict[str, list[tuple[float, float, int]]] = {name: [] for name in commands}
        for turn in range(chosen.runs + 1):
            for name, argv in commands.items():
                row = measure(argv, env)
                if turn:  # the first turn warms the caches
                    rows[name].append(row)
        kept = any(os.scandir(state))
    print(f"{'whole process, median of ' + str(chosen.runs):<40}{'s':>8}{'min':>8}{'max':>8}{'cpu s':>8}{'MB':>7}")
    for name, found in rows.items():
        seconds = [row[0] for row in found]
        note = "" if kept or "kept" not in name else "  (this machine is not healthy: nothing is kept)"
        print(
            f"{name:<40}{statistics.median(seconds):>8.3f}{min(seconds):>8.3f}{max(seconds):>8.3f}"
            f"{statistics.median(row[1] for row in found):>8.3f}{statistics.median(row[2] for row in found) / 1024:>7.0f}{note}"
        )


if __name__ == "__main__":
    main()
