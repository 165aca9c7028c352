"""Counts the faults that are injected into installs, and what stood in the environment's place afterwards.

    python benchmarks/install_faults.py

Runs tests/fa_doctor/installer/test_faults.py as a whole, a kill after each line of the journal included, and prints one
row a kind of fault. A test passes only if the environment is the old one, file for file, or the new one, verified.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests" / "fa_doctor" / "installer" / "test_faults.py"

KINDS = (
    ("Ctrl-C at each step", r"interrupt"),
    ("kill -9 between steps and around the rename", r"kill"),
    ("two installs at once", r"two_installs"),
    ("an environment of a lower image layer", r"image_layer"),
    ("a wrong hash, no fitting wheel, a CUDA torch instead", r"hash|no_wheel|cuda_torch"),
    ("a full disk, a read-only environment", r"disk|cannot_be_written"),
    ("a broken wheel, a failing verification", r"broken|verification"),
    ("the environment changes meanwhile, writes into the copy", r"meanwhile|reach_the_old"),
    ("server errors, cut, slow and missing downloads", r"server|index_that|file_that_cannot|download|stalls|ranges"),
)


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            TESTS,
            "-m",
            "slow or not slow",
            "-n",
            "2",
            "-q",
            f"--junitxml={report}",
        ]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for case in cases:
        name = case.get("name", "")
        kind = next((kind for kind, pattern in KINDS if re.search(pattern, name)), "other")
        if case.find("skipped") is not None:
            counts[kind][2] += 1
        else:
            counts[kind][0 if case.find("failure") is None and case.find("error") is None else 1] += 1
    print(f"{'fault':<58} {'old or new':>10} {'neither':>8} {'skipped':>8}")
    for kind, (whole, broken, skipped) in sorted(counts.items()):
        print(f"{kind:<58} {whole:>10} {broken:>8} {skipped:>8}")
    totals = [sum(row[column] for row in counts.values()) for column in range(3)]
    print(f"{'all':<58} {totals[0]:>10} {totals[1]:>8} {totals[2]:>8}")
    return 1 if totals[1] else 0


if __name__ == "__main__":
    sys.exit(main())
