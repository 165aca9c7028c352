"""Runs flash-attn 2.8.3's own tests against these kernels, as the module `flash_attn`, on the GPU or on the CPU.

    python benchmarks/peer_tests.py CHECKOUT [--device cpu] [--each N] [--longest N] [--seed N] [--file NAME ...]

CHECKOUT is a checkout of flash-attn at tag v2.8.3, of which only tests/ is used. A thin package `flash_attn` in a temporary
folder leads to the kernels beside this script (or installed). The tests are hundreds of thousands of cases: a seeded sample
of --each of them for each test function is run, in --jobs processes. Prints passed, failed and skipped by test function, and
the first lines of each kind of failure.

--device cpu: the tests' "cuda" is read as "cpu", with fewer sequences, heads and repetitions than they ask for. Then
FA_DOCTOR_KERNELS=reference (the default there) runs the definition in plain PyTorch, TRITON_INTERPRET=1 the kernels
themselves in Triton's interpreter, which wants --longest 260 or so.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
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


# A pytest plugin: draws the sample where the cases would be made, since making them all takes minutes and gigabytes.
SAMPLING = """
import itertools, json, os, random, time

wanted = json.loads(os.environ["PEER_TESTS_SAMPLE"])


def fits(case):
    lengths = [case[name] for name in ("seqlen", "seqlen_q", "seqlen_k") if name in case]
    return not wanted["longest"] or max(lengths, default=0) <= wanted["longest"]


def pytest_generate_tests(metafunc):
    marks = [mark for mark in metafunc.definition.own_markers if mark.name == "parametrize"]
    if not marks:
        return
    names, values = [], []
    for mark in marks:
        split = [name.strip() for name in mark.args[0].split(",")]
        names.append(split)
        values.append([value if len(split) > 1 else (value,) for value in mark.args[1]])
    flat = [name for split in names for name in split]
    chance = random.Random(f"{wanted['seed']} {metafunc.definition.name}")
    count = 1
    for choices in values:
        count *= len(choices)
    if count <= 100000:
        drawn = list(itertools.product(*values))
        chance.shuffle(drawn)
    else:
        drawn = ([chance.choice(choices) for choices in values] for _ in range(100 * wanted["each"]))
    cases = {}
    for choice in drawn:
        case = tuple(value for part in choice for value in part)
        if fits(dict(zip(flat, case))):
            cases[case] = None
        if len(cases) == wanted["each"]:
            break
    metafunc.definition.own_markers[:] = [m for m in metafunc.definition.own_markers if m.name != "parametrize"]
    metafunc.parametrize(flat, list(cases))


def pytest_collection_modifyitems(items):
    random.Random(wanted["seed"]).shuffle(items)  # of a run that is cut short, every function has had its share
    items[:] = items[wanted["job"] :: wanted["jobs"]]


def pytest_runtest_teardown(item):
    if time.time() > wanted["until"]:
        item.session.shouldstop = "time is up"
"""
# What flash-attn's AMD kernels do not do is left out of their tests, and rows of the cache chosen by index out of both files;
# they are asked for here.
ASKED_FOR = (
    (r"^@pytest\.mark\.skip\(.*\)\n", ""),
    (r'^(@pytest\.mark\.parametrize\("has_batch_idx", )\[False\]', r"\g<1>[False, True]"),
)
CUDA_TO_CPU = (
    (r'torch\.cuda\.get_device_capability\("cuda"\)', "(9, 0)"),
    (r'torch\.cuda\.get_device_properties\("cuda"\)\.total_memory', "(1 << 40)"),
    (r'"cuda"', '"cpu"'),
    (r"range\((250|50)\)", "range(2)"),
    (r"^( +batch_size = )(8|60)\b", r"\g<1>2"),
    (r"^( +nheads = )(9|12)\b", r"\g<1>3"),
)


def make_tests(folder: Path, checkout: Path, files: list[str], cpu: bool) -> None:
    """The tests in `folder`, changed for the CPU where asked, and the plugin beside them."""
    (folder / "peer_tests_sampling.py").write_text(SAMPLING)
    for file in files:
        text = (checkout / "tests" / file).read_text()
        for pattern, replacement in ASKED_FOR + (CUDA_TO_CPU if cpu else ()):
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        (folder / file).write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--each", type=int, default=150, help="cases of each test function")
    parser.add_argument("--longest", type=int, default=0, help="leave out cases with longer sequences")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", nargs="+", default=list(FILES))
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--time", type=float, default=3600.0, help="seconds after which the rest is left out")
    parser.add_argument("-k", dest="names", default="", help="only test functions of these names, as pytest takes them")
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
        cpu = options.device == "cpu"
        if cpu and "TRITON_INTERPRET" not in environment:
            environment.setdefault("FA_DOCTOR_KERNELS", "reference")
        if cpu:
            environment.setdefault("OMP_NUM_THREADS", "1")
        make_tests(Path(folder), options.checkout, options.file, cpu)
        processes = []
        for job in range(options.jobs):
            sample = {
                "each": options.each, "longest": options.longest, "seed": options.seed, "job": job, "jobs": options.jobs,
                "until": time.time() + options.time,
            }  # fmt: skip
            arguments = [
                *(
                    "-q",
                    "-p",
                    "no:cacheprovider",
                    "-p",
                    "peer_tests_sampling",
                    "-W",
                    "ignore",
                    "--tb=line",
                    "-k",
                    options.names,
                ),
                *("--rootdir", folder, f"--junitxml={folder}/{job}.xml", *options.file),
            ]
            with open(Path(folder) / f"{job}.log", "wb") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "pytest", *arguments],
                        cwd=folder, env={**environment, "PEER_TESTS_SAMPLE": json.dumps(sample)},
                        stdout=log, stderr=subprocess.STDOUT,
                    )
                )  # fmt: skip
        for process in processes:
            process.wait()
        for log in sorted(Path(folder).glob("*.log")):
            if not log.with_suffix(".xml").is_file():
                raise SystemExit(f"no report:\n{log.read_text(errors='replace')[-3000:]}")
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
