"""What really happens when the target Python imports torch and Triton: a child does it and reports on itself.

The child's code goes in by `-c`; it tells each step in a line of its own, so that a crash or a hang costs only what
comes after. It changes nothing, and allocates nothing on a GPU.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fa_doctor.facts.libraries import is_rocm_library, stem_of
from fa_doctor.facts.python import Python
from fa_doctor.facts.rocm import RocmInstall, release_of_library_name
from fa_doctor.host import CommandOutput, Host, Problem

__all__ = ["CHILD", "Device", "Failure", "Loaded", "MappedLibrary", "gather", "parse_steps", "paths_of_maps"]

DEADLINE_S = 40.0
_MARK = "fa-doctor-step:"
_LINES_KEPT = 12

# Runs under any Python from 3.8 on. Each import may raise, exit, print to stdout, crash or hang.
CHILD = r"""
import os, sys, json, traceback, faulthandler
out = sys.stdout
def tell(step, **facts):
    out.write("\n%s%s\n" % ("fa-doctor-step:", json.dumps(dict(facts, step=step))))
    out.flush()
def wrong(error):
    lines = "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()
    return {"type": type(error).__name__, "lines": [line[:500] for line in lines[-8:]]}
def mapped():
    with open("/proc/self/maps", errors="replace") as stream:
        found = [line.rstrip("\n").split(None, 5) for line in stream]
    tell("maps", paths=sorted({words[5] for words in found if len(words) == 6 and ".so" in words[5]}))
faulthandler.enable()
if os.environ.get("FA_DOCTOR_CHILD_SECONDS"):
    faulthandler.dump_traceback_later(float(os.environ.pop("FA_DOCTOR_CHILD_SECONDS")), exit=False)
sys.path[:1] = [] if sys.path[:1] == [""] else sys.path[:1]
sys.stdout = sys.stderr
tell("start", version=sys.version.split()[0], executable=sys.executable)
torch = None
try:
    import torch
    version = torch.version
    tell("torch", version=str(torch.__version__), file=torch.__file__, hip=getattr(version, "hip", None),
         cuda=getattr(version, "cuda", None), rocm=getattr(version, "rocm", None))
except BaseException as error:
    torch = None
    tell("torch", error=wrong(error))
try:
    import triton
    tell("triton", version=str(triton.__version__), file=triton.__file__)
except BaseException as error:
    tell("triton", error=wrong(error))
mapped()
if torch is not None:
    tell("asking")
    try:
        archs = list(torch.cuda.get_arch_list()) if getattr(torch.version, "hip", None) else []
        count = torch.cuda.device_count()
        tell("devices", available=bool(torch.cuda.is_available()), count=count, arch_list=archs)
        for number in range(count):
            found = torch.cuda.get_device_properties(number)
            tell("device", index=number, name=found.name, arch=getattr(found, "gcnArchName", None),
                 memory=found.total_memory)
    except BaseException as error:
        tell("devices", error=wrong(error))
    mapped()
tell("end")
"""


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception of the child: its type and the last lines of its text."""

    type: str
    lines: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "\n".join(self.lines) or self.type


@dataclass(frozen=True, slots=True)
class Device:
    """A device as torch lists it; `arch` is gcnArchName ("gfx942:sramecc+:xnack-")."""

    index: int
    name: str | None
    arch: str | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class MappedLibrary:
    """A ROCm library in the child's /proc/self/maps, and the installation and release that it belongs to."""

    stem: str
    path: str
    install: str | None
    release: str | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """`state`: "ended" (it went through all steps), "crashed" (`signal`), "hung" (killed at the deadline), "died" (it
    ended early), "garbage" (it said nothing we know), or "not run". `step` is the last one that it reached."""

    state: str
    step: str = ""
    signal: str | None = None
    returncode: int | None = None
    python_version: str | None = None
    torch_version: str | None = None
    torch_file: str | None = None
    hip: str | None = None
    cuda: str | None = None
    torch_error: Failure | None = None
    triton_version: str | None = None
    triton_file: str | None = None
    triton_error: Failure | None = None
    available: bool | None = None
    device_count: int | None = None
    arch_list: tuple[str, ...] | None = None
    devices: tuple[Device, ...] = ()
    device_error: Failure | None = None
    libraries: tuple[MappedLibrary, ...] = ()
    said: tuple[str, ...] = ()  # the last lines of its standard error
    duration_s: float = 0.0


def gather(
    host: Host, python: Python, installs: Sequence[RocmInstall] | None, timeout_s: float = DEADLINE_S
) -> Loaded | None:
    """Runs the child in the target Python; None where nothing can be run (a recorded machine without that output)."""
    if python.executable is None or python.problem is not None:
        return None
    environ = host.environ or {}
    # The host keeps LD_PRELOAD from the tools it runs; here it is part of what is examined.
    extra = {"LD_PRELOAD": environ["LD_PRELOAD"]} if environ.get("LD_PRELOAD") else {}
    if host.deadline is not None:
        import time

        timeout_s = max(1.0, min(timeout_s, host.deadline - time.monotonic()))
    extra["FA_DOCTOR_CHILD_SECONDS"] = f"{max(0.5, timeout_s - 1.0):.1f}"  # then it writes where it hangs
    output = host.run([python.executable, "-c", CHILD], timeout_s=timeout_s, env=extra)
    if output.problem in (Problem.UNRECORDED, Problem.ABSENT):
        return None
    return _loaded(host, output, tuple(installs or ()))


def parse_steps(text: str) -> tuple[dict[str, Any], ...]:
    """The steps that a child told, in order; lines of anything else, cut or broken, are passed over."""
    steps = []
    for line in text.splitlines():
        if not line.startswith(_MARK):
            continue
        try:
            step = json.loads(line.removeprefix(_MARK))
        except (ValueError, RecursionError):
            continue
        if isinstance(step, dict) and isinstance(step.get("step"), str):
            steps.append(step)
    return tuple(steps)


def paths_of_maps(paths: object) -> tuple[str, ...]:
    """The files of ROCm libraries among the paths of a `maps` step; "(deleted)" behind a replaced file is cut off."""
    if not isinstance(paths, list):
        return ()
    clean = (path.removesuffix(" (deleted)") for path in paths if isinstance(path, str) and path.startswith("/"))
    return tuple(dict.fromkeys(path for path in clean if is_rocm_library(path)))


def _loaded(host: Host, output: CommandOutput, installs: Sequence[RocmInstall]) -> Loaded:
    steps = parse_steps(output.stdout)
    by_name: dict[str, Mapping[str, Any]] = {step["step"]: step for step in steps}
    torch, triton, devices = (by_name.get(name, {}) for name in ("torch", "triton", "devices"))
    mapped = tuple(dict.fromkeys(path for step in steps for path in paths_of_maps(step.get("paths"))))
    said = output.stderr.strip().splitlines()[-_LINES_KEPT:]
    state, name = _state(output, steps)
    return Loaded(
        state=state,
        step=steps[-1]["step"] if steps else "",
        signal=name,
        returncode=output.returncode,
        python_version=_text(by_name.get("start", {}), "version"),
        torch_version=_text(torch, "version"),
        torch_file=_text(torch, "file"),
        hip=_text(torch, "hip"),
        cuda=_text(torch, "cuda"),
        torch_error=_failure(torch),
        triton_version=_text(triton, "version"),
        triton_file=_text(triton, "file"),
        triton_error=_failure(triton),
        available=devices.get("available") if isinstance(devices.get("available"), bool) else None,
        device_count=_number(devices, "count"),
        arch_list=_texts(devices.get("arch_list")),
        devices=tuple(
            Device(_number(step, "index") or 0, _text(step, "name"), _text(step, "arch"), _number(step, "memory"))
            for step in steps
            if step["step"] == "device"
        ),
        device_error=_failure(devices),
        libraries=tuple(_mapped(host, path, installs) for path in mapped),
        said=tuple("".join(sign if sign.isprintable() else "?" for sign in line)[:300] for line in said),
        duration_s=output.duration_s,
    )


def _state(output: CommandOutput, steps: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    if output.problem is Problem.TIMED_OUT:
        return "hung", None
    if output.problem is not None:
        return "not run", None
    if output.returncode is not None and output.returncode < 0:
        try:
            return "crashed", signal.Signals(-output.returncode).name
        except ValueError:
            return "crashed", f"signal {-output.returncode}"
    if not steps:
        return "garbage", None
    return ("ended" if steps[-1]["step"] == "end" else "died"), None


def _mapped(host: Host, path: str, installs: Sequence[RocmInstall]) -> MappedLibrary:
    real = host.real_path(path) or path
    owner = next((install for install in installs if install.holds(real)), None)
    release = (owner.version if owner else None) or release_of_library_name(real.rsplit("/", 1)[-1])
    return MappedLibrary(re.sub(r"-[0-9a-f]{8}$", "", stem_of(path)), path, owner.path if owner else None, release)


def _failure(step: Mapping[str, Any]) -> Failure | None:
    error = step.get("error")
    if not isinstance(error, dict):
        return None
    return Failure(_text(error, "type") or "an error", _texts(error.get("lines")) or ())


def _text(step: Mapping[str, Any], name: str) -> str | None:
    value = step.get(name)
    return value[:2000] if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...] | None:
    return tuple(item[:500] for item in value if isinstance(item, str)) if isinstance(value, list) else None


def _number(step: Mapping[str, Any], name: str) -> int | None:
    value = step.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
