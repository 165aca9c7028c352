"""Runs flash-attn 2.8.3's own tests against these kernels, as the module `flash_attn`, on the GPU.

    python benchmarks/peer_tests.py CHECKOUT [--sample N] [--seed N] [--file NAME ...] [--time SECONDS] [--junit FILE]

CHECKOUT is a checkout of flash-attn at tag v2.8.3, of which only tests/ is used. A thin package `flash_attn` in a temporary
folder leads to the kernels beside this script (or installed). The tests are tens of thousands of cases: a seeded sample of
--sample of them, spread evenly over the test functions, is run in --jobs processes. Prints passed, failed and skipped by test
function, and the first lines of each kind of failure.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

FILES = ("test_flash_attn_triton_amd.py", "test_flash_attn.py")

ALIAS = """from fa_doctor.kernels import *
__version__ = "2.8.3"
"""
# What the tests import besides the package itself. The size of a block of keys matters to them only where the returned
# probabilities are relative to the maximum of a block; here they are relative to that of the row: one block.
MODULES = {
    "flash_attn_interface": "from fa_doctor.kernels import *\ndef _get_block_size_n(*_):\n    return 1 << 30\n",
    "layers/__init__": "",
    "layers/rotary": "from fa_doctor.kernels import apply_rotary_emb\nfrom fa_doctor.kernels.rotary_layers import *\n",
    "flash_attn_triton_amd/__init__": "",
    "flash_attn_triton_amd/utils": "USE_TRITON_ROCM = False\ndef is_rdna():\n    return False\n",
}
ROOT = Path(__file__).resolve().parent.parent


def make_alias(folder: Path, checkout: Path) -> None:
    """A package flash_attn that leads to the kernels. bert_padding is the tests' own helper, taken from the checkout."""
    package = folder / "flash_attn"
    for name in MODULES:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(ALIAS)
    for name, text in MODULES.items():
        (package / f"{name}.py").write_text(text)
    padding = checkout / "flash_attn" / "bert_padding.py"
    if padding.is_file():
        (package / "bert_padding.py").write_text(padding.read_text())
    if not (ROOT / "fa_doctor" / "kernels").exists():  # a source tree: the package lies beside fa_doctor
        target = folder / "fa_doctor"
        target.mkdir()
        (target / "__init__.py").write_text("")
        (target / "kernels").symlink_to(ROOT / "kernels")


def collect(tests: Path, environment: dict[str, str]) -> list[str]:
    """The names of all cases."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", tests.name],
        cwd=tests.parent, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = [line for line in done.stdout.splitlines() if "::" in line and not line.startswith(("ERROR", " "))]
    if not names:
        raise SystemExit(f"{tests.name}: nothing collected\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
    return names


def function_of(name: str) -> str:
    return name.split("[")[0].replace(".py::", ":").removeprefix("tests/")


def sample(names: list[str], count: int, chance: random.Random) -> list[str]:
    """`count` cases, as many of each test function as there are, the small functions whole."""
    groups = collections.defaultdict(list)
    for name in names:
        groups[function_of(name)].append(name)
    chosen: list[str] = []
    left = count
    for position, group in enumerate(sorted(groups.values(), key=len)):
        share = min(len(group), left // (len(groups) - position))
        chosen += chance.sample(group, share)
        left -= share
    chance.shuffle(chosen)
    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--sample", type=int, default=2000, help="cases of each file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", nargs="+", default=FILES)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--time", type=float, default=3600.0, help="seconds after which the rest is left out")
    parser.add_argument("--failures", type=int, default=12, help="kinds of failures shown")
    options = parser.parse_args()
    begin = time.monotonic()
    results: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    reasons: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        make_alias(Path(folder), options.checkout)
        path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
        environment = dict(os.environ, PYTHONPATH=path, PYTHONUNBUFFERED="1")
        environment.setdefault("FLASH_ATTENTION_TRITON_AMD_ENABLE", "TRUE")
        processes = []
        for file in options.file:
            tests = options.checkout / "tests" / file
            chosen = sample(collect(tests, environment), options.sample, random.Random(options.seed))
            print(f"{file}: {len(chosen)} cases", flush=True)
            for job in range(options.jobs):
                part = Path(folder) / f"{tests.stem}.{job}"
                processes.append(
                    subprocess.Popen(
                        [
                            sys.executable,
                            "-m",
                            "pytest",
                            "-q",
                            "-p",
                            "no:cacheprovider",
                            "-W",
                            "ignore",
                            "--tb=line",
                            f"--junitxml={part}.xml",
                            *chosen[job :: options.jobs],
                        ],
                        cwd=tests.parent,
                        env=environment,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                )
        for process in processes:
            left = max(1.0, options.time - (time.monotonic() - begin))
            try:
                process.wait(timeout=left)
            except subprocess.TimeoutExpired:
                process.send_signal(2)  # pytest writes what it has
                process.wait(timeout=60)
        for report in Path(folder).glob("*.xml"):
            for case in ET.parse(report).iter("testcase"):
                name = f"{(case.get('classname') or '').split('.')[-1]}:{(case.get('name') or '').split('[')[0]}"
                problem = case.find("failure")
                if problem is None:
                    problem = case.find("error")
                if problem is not None:
                    results[name]["failed"] += 1
                    text = re.sub(
                        r"0x[0-9a-f]+|[-+]?\d+\.\d+(e[-+]\d+)?", "#", (problem.get("message") or "").split("\n")[0]
                    )
                    reasons[f"{name} {text[:150]}"] += 1
                else:
                    results[name]["skipped" if case.find("skipped") is not None else "passed"] += 1
    total: collections.Counter[str] = collections.Counter()
    for name, counts in sorted(results.items()):
        print(f"{name:<70} passed {counts['passed']:>5}  failed {counts['failed']:>4}  skipped {counts['skipped']:>4}")
        total += counts
    print(f"{'all':<70} passed {total['passed']:>5}  failed {total['failed']:>4}  skipped {total['skipped']:>4}"
          f"  in {time.monotonic() - begin:.0f} s")  # fmt: skip
    for reason, number in reasons.most_common(options.failures):
        print(f"  {number:>4} x {reason}")
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
