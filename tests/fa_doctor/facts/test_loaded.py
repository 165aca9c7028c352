"""The child that imports torch and Triton: a real run, and children that crash, hang, exit or babble."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest
from healthy import mi300x
from hypothesis import given
from hypothesis import strategies as st

from fa_doctor.facts import loaded, packages, rocm
from fa_doctor.facts.loaded import CHILD, Loaded, parse_steps, paths_of_maps
from fa_doctor.facts.python import Python
from fa_doctor.facts.python import gather as gather_python
from fa_doctor.host import LiveHost


def python_that(folder: Path, shell: str) -> Python:
    """A Python whose every run is this shell script."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{shell}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Python(str(path), "3.12.0")


def child(folder: Path, shell: str, timeout_s: float = 10.0) -> Loaded:
    found = loaded.gather(LiveHost(), python_that(folder, shell), (), timeout_s)
    assert found is not None
    return found


def test_a_real_import() -> None:
    torch = pytest.importorskip("torch")
    found = loaded.gather(LiveHost(), Python(sys.executable, "3.12.0"), ())
    assert found is not None
    assert (found.state, found.step, found.torch_error) == ("ended", "end", None)
    assert found.torch_version == str(torch.__version__)
    assert found.device_count == torch.cuda.device_count()
    assert (found.hip, found.arch_list) == (torch.version.hip, ()) or torch.version.hip


def test_an_import_that_fails_a_crash_and_a_hang(tmp_path: Path) -> None:
    """Real Pythons, with a torch of the test's own that does what broken ones do."""
    package = tmp_path / "site" / "torch"
    package.mkdir(parents=True)
    bodies = {
        "raises": "print('noise on stdout')\nraise ImportError('libamdhip64.so.6: cannot open shared object file')",
        "exits": "import sys\nsys.exit(3)",
        "crashes": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
        "leaves": "import os\nos._exit(7)",
        "hangs": "import time\ntime.sleep(600)",
    }
    states: dict[str, Loaded] = {}
    for name, body in bodies.items():
        (package / "__init__.py").write_text(body + "\n")
        host = LiveHost(environ={"PYTHONPATH": str(package.parent), "PATH": "/usr/bin:/bin"})
        seconds = 2.5 if name == "hangs" else 20.0
        found = loaded.gather(host, Python(sys.executable, "3.12.0"), (), seconds)
        assert found is not None
        states[name] = found
    assert states["raises"].torch_error is not None
    assert states["raises"].torch_error.text == "ImportError: libamdhip64.so.6: cannot open shared object file"
    assert states["raises"].state == "ended"
    assert states["exits"].torch_error is not None
    assert states["exits"].torch_error.type == "SystemExit"
    assert (states["crashes"].state, states["crashes"].signal) == ("crashed", "SIGSEGV")
    assert any("Segmentation fault" in line for line in states["crashes"].said)
    assert (states["leaves"].state, states["leaves"].returncode, states["leaves"].step) == ("died", 7, "start")
    assert (states["hangs"].state, states["hangs"].step) == ("hung", "start")
    assert any("time.sleep" in line or "__init__.py" in line for line in states["hangs"].said)


def test_children_that_are_no_python(tmp_path: Path) -> None:
    assert child(tmp_path, "head -c 100000 /dev/urandom").state == "garbage"
    assert child(tmp_path, "exit 9").state == "garbage"
    assert child(tmp_path, "kill -9 $$").signal == "SIGKILL"
    assert child(tmp_path, 'echo \'fa-doctor-step:{"step": "torch", "error": 7, "version": []}\'').state == "died"
    assert loaded.gather(LiveHost(), Python("/nowhere/python", "3.12.0"), ()) is None
    assert loaded.gather(LiveHost(), Python("/usr/bin/python3", None, problem="it did not answer"), ()) is None


def test_two_releases_in_one_recorded_process(tmp_path: Path) -> None:
    staged = mi300x(1)
    lib = f"{staged.site}/torch/lib"
    steps = [
        {"step": "start", "version": "3.12.3"},
        {"step": "torch", "version": "2.9.1+rocm6.4", "hip": "6.4.43482"},
        {"step": "maps", "paths": [f"{lib}/libamdhip64.so", "/usr/lib/libc.so.6"]},
        {"step": "devices", "available": True, "count": 1, "arch_list": ["gfx942"]},
        {"step": "device", "index": 0, "name": "AMD Instinct MI300X", "arch": "gfx942:sramecc+:xnack-", "memory": 1},
        {"step": "maps", "paths": ["/opt/rocm-6.4.1/lib/libhsa-runtime64.so.1 (deleted)"]},
        {"step": "end"},
    ]
    text = "".join(f"fa-doctor-step:{json.dumps(step)}\n" for step in steps)
    staged.commands[(f"{staged.venv}/bin/python", "-c", CHILD)] = text
    host = staged.open(tmp_path)
    python = gather_python(host)
    found = loaded.gather(host, python, rocm.gather(host, python, packages.gather(host, python).torch))
    assert found is not None
    assert [(library.stem, library.release) for library in found.libraries] == [
        ("libamdhip64", "6.4"),
        ("libhsa-runtime64", "6.4.1"),
    ]
    assert found.devices[0].arch == "gfx942:sramecc+:xnack-"
    assert (found.device_count, found.arch_list, found.state) == (1, ("gfx942",), "ended")


def test_nothing_recorded(tmp_path: Path) -> None:
    host = mi300x(1).open(tmp_path)
    assert loaded.gather(host, gather_python(host), ()) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(JSON, st.text(max_size=60))
def test_any_output(value: object, noise: str) -> None:
    text = f"{noise}\nfa-doctor-step:{json.dumps(value)}\nfa-doctor-step:{noise}"
    for step in parse_steps(text):
        assert isinstance(step["step"], str)
    assert isinstance(paths_of_maps(value), tuple)
