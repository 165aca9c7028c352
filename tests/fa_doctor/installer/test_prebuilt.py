"""Kernels that were compiled when the environment was made are found by the call that needs them, without a GPU here.

The first process compiles as `fa-doctor install --arch` does; the second launches the same attention call under a
stand-in driver with an empty cache of its own: what it looks up must be there.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fa_doctor.installer import compile as ahead
from fa_doctor.installer.errors import InstallFailed
from fa_doctor.installer.flash_attn_package import build_wheel

LOOK_UP = """
import os, sys
os.environ["FA_DOCTOR_KERNELS"] = "triton"
sys.path.insert(0, sys.argv[1])
import flash_attn.prebuilt as prebuilt
from pathlib import Path
prebuilt.FOLDER = Path(sys.argv[2])
prebuilt.activate()
import flash_attn.kernels as kernels
from flash_attn.kernels import aot, variants
arch = sys.argv[3]
with aot.standing_in(arch, False) as driver:
    for variant in variants.select([64], ["fp16"], ["forward"], ["causal"]):
        for row in aot.compile_variant(arch, variant, kernels, driver):
            print(row["error"], row["files"])
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    zipfile.ZipFile(io.BytesIO(build_wheel().content)).extractall(folder)
    return folder


def child(**extra: str) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}, **extra}


@pytest.mark.parametrize("arch", ["gfx942", "gfx1100"])
def test_a_call_finds_every_kernel_that_it_needs(arch: str, site: Path, tmp_path: Path) -> None:
    prebuilt, own = tmp_path / "prebuilt", tmp_path / "own"
    request = json.dumps(
        {"arch": arch, "head_dims": [64], "dtypes": ["fp16"], "passes": ["forward"], "features": ["causal"]}
    )
    command = [sys.executable, "-B", site / "flash_attn" / "kernels", "compile", request]
    subprocess.run(command, check=True, env=child(TRITON_CACHE_DIR=str(prebuilt)), capture_output=True, timeout=100)
    built = list(prebuilt.rglob("*.hsaco"))
    assert built
    moved = tmp_path / "moved"
    prebuilt.rename(moved)
    command = [sys.executable, "-B", "-c", LOOK_UP, site, moved, arch]
    done = subprocess.run(
        command, check=True, env=child(TRITON_CACHE_DIR=str(own)), capture_output=True, text=True, timeout=100
    )
    assert done.stdout.count(str(moved)) == len(done.stdout.splitlines()) > 0
    assert "None" in done.stdout
    assert not list(own.rglob("*.hsaco")), "a kernel was compiled again"


SHIMS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import flash_attn.prebuilt as prebuilt
prebuilt.FOLDER = Path(sys.argv[2])
prebuilt.activate()
from flash_attn.kernels import aot
with aot.standing_in(sys.argv[3], True) as driver:
    driver.build_driver_shim()
    print(driver.shim_problem)
"""


@pytest.mark.skipif(not (shutil.which("gcc") or shutil.which("clang")), reason="there is no C compiler")
def test_what_triton_builds_to_reach_the_driver_is_there_too(site: Path, tmp_path: Path) -> None:
    # Where the library will lie at the end, which is not where the environment is built.
    library = tmp_path / "final" / "torch" / "lib" / "libamdhip64.so"
    prebuilt, own = tmp_path / "prebuilt", tmp_path / "own"
    request = {"arch": "gfx942", "head_dims": [64], "dtypes": ["fp16"], "passes": ["forward"], "features": ["causal"]}
    text = json.dumps({**request, "shims": True, "hip_library": str(library)})
    command = [sys.executable, "-B", site / "flash_attn" / "kernels", "compile", text]
    subprocess.run(command, check=True, env=child(TRITON_CACHE_DIR=str(prebuilt)), capture_output=True, timeout=100)
    assert list(prebuilt.rglob("hip_utils*.so"))
    library.parent.mkdir(parents=True)
    library.write_bytes(b"")

    def look_up(folder: Path) -> str:
        # Triton finds the library by itself, and no compiler.
        environ = child(TRITON_CACHE_DIR=str(own), TRITON_LIBHIP_PATH=str(library), CC="/bin/false")
        command = [sys.executable, "-B", "-c", SHIMS, site, folder, "gfx942"]
        done = subprocess.run(command, check=True, env=environ, capture_output=True, text=True, timeout=100)
        return done.stdout.strip().splitlines()[-1]

    assert look_up(prebuilt) == "None"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "CalledProcessError" in look_up(empty)


def test_what_is_not_prebuilt_is_compiled_as_always(site: Path, tmp_path: Path) -> None:
    empty, own = tmp_path / "empty", tmp_path / "own"
    empty.mkdir()
    command = [sys.executable, "-B", "-c", LOOK_UP.replace("[64]", "[32]"), site, empty, "gfx942"]
    subprocess.run(command, check=True, env=child(TRITON_CACHE_DIR=str(own)), capture_output=True, timeout=100)
    assert list(own.rglob("*.hsaco"))


def test_the_cache_manager_of_the_user_is_left_alone(site: Path, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import flash_attn.prebuilt as p; from pathlib import Path;"
        f"p.FOLDER = Path({str(tmp_path)!r}); p.activate(); import os; print(os.environ['TRITON_CACHE_MANAGER'])"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        check=True,
        env=child(TRITON_CACHE_MANAGER="mine:Manager"),
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "mine:Manager"


# How the compiling child is read: programs that answer as kernels/__main__.py does.


def work(folder: Path) -> ahead._Work:
    return ahead._Work([sys.executable, folder, "compile"], {"arch": "gfx906"}, dict(os.environ))


def answering(tmp_path: Path, body: str) -> Path:
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "__main__.py").write_text(
        "import json, os, sys\nrequest = json.loads(sys.argv[2])\nfirst = request['first']\n"
        "def say(**row): print(json.dumps(row), flush=True)\n" + body
    )
    return folder


def test_a_variant_on_which_the_compiler_dies_is_passed_over(tmp_path: Path) -> None:
    body = (
        "for number in range(first, 4):\n    say(event='begin', number=number)\n    if number == 1: os.abort()\n"
        "    say(event='rows', number=number, rows=[{'error': None}])\nsay(event='end')\n"
    )
    kernels, problems = ahead._share(work(answering(tmp_path, body)), 0, 1)
    assert kernels == 3
    assert problems == ["the compiler died on variant 1 (status -6)"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("say(event='refused', message='no such target')", "no such target"),
        ("sys.exit('broken')", "did not begin"),
        (
            "say(event='begin', number=0); say(event='rows', number=0, rows=[{'error': 'spills'}]); say(event='end')",
            "spills",
        ),
    ],
)
def test_nothing_that_compiles_fails_the_install(body: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InstallFailed, match=said), ThreadPoolExecutor(1) as pool:
        ahead._compile(work(answering(tmp_path, body)), 1, pool)
