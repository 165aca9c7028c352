"""What happened when the target Python really imported torch and Triton, and what was in its memory then."""

from __future__ import annotations

from collections.abc import Iterable

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.library_fixes import unmix
from fa_doctor.diagnosis.model import (
    Evidence,
    Fix,
    Status,
    Verdict,
    failed,
    passed,
    skipped,
    unknown,
    warned,
)
from fa_doctor.facts.libraries import distinct_releases
from fa_doctor.facts.loaded import Failure, Loaded, MappedLibrary
from fa_doctor.facts.machine import Machine
from fa_doctor.level import Level

_TELLING = ("LD_LIBRARY_PATH", "LD_PRELOAD", "HSA_OVERRIDE_GFX_VERSION")


@check(
    "LIB201",
    "libraries.import",
    rests_on=("TOR101", "LIB001"),
    causes=("rocm-library-missing", "rocm-library-conflict", "gpu-hang-or-reset", "glibc-or-libstdcxx-too-old"),
    level=Level.STANDARD,
)
def imports(machine: Machine) -> Verdicts:
    """torch and Triton are really imported by the target Python.

    Why it matters: this is what a program does first. A child process does it, so that a crash or a hang of a driver
    costs only the child.
    How to fix: as the finding says where the error is a known one; else read the last lines of what the child said.
    Sources: the child's own output; the failures that `fa-doctor explain` knows.
    """
    loaded = machine.loaded
    if machine.torch is None:
        return skipped("torch is not installed")
    if loaded is None or loaded.state == "not run":
        return unknown("the import was not tried: nothing can be run on this machine")
    if loaded.torch_error is not None:
        return _import_failed(machine, "importing torch fails", loaded.torch_error, loaded)
    if loaded.state != "ended" and loaded.torch_version is None:
        return _ended_early(machine, "`import torch`", loaded)
    if machine.triton is not None and loaded.triton_error is not None:
        return _import_failed(machine, "importing Triton fails", loaded.triton_error, loaded)
    if loaded.state != "ended" and loaded.step not in ("asking", "devices", "device", "maps"):
        return _ended_early(machine, "`import triton`", loaded)
    names = f"torch {loaded.torch_version}" + (f" and Triton {loaded.triton_version}" if loaded.triton_version else "")
    return passed(f"the target Python imports {names}", _command(machine, f"{loaded.duration_s:.1f} s in all"))


@check(
    "LIB202",
    "libraries.mapped",
    rests_on=("LIB201",),
    causes=("rocm-library-conflict",),
    level=Level.STANDARD,
)
def mapped(machine: Machine) -> Verdicts:
    """The process that imported torch has the ROCm libraries of one release in its memory, each of them once.

    Why it matters: /proc/self/maps says what is really loaded, whatever paths and variables promise. Two releases in
    one process are a fault even where nothing has crashed yet.
    How to fix: as in LIB002; the evidence names the files.
    Sources: proc(5); /proc/self/maps of the child.
    """
    loaded = machine.loaded
    if loaded is None or not loaded.libraries:
        return skipped("no ROCm library was mapped")
    libraries = [lib for lib in loaded.libraries if not (machine.system.wsl and lib.stem == "libhsa-runtime64")]
    facts = [Evidence("/proc/self/maps", f"{lib.path} (ROCm {lib.release or '?'})") for lib in libraries[:8]]
    releases = distinct_releases(lib.release for lib in libraries)
    if len(releases) > 1:
        return failed(
            f"ROCm {' and '.join(releases)} are in one process",
            *facts,
            cause="rocm-library-conflict",
            fixes=unmix(machine, _outside_torch(machine, libraries), "LIB202"),
        )
    twice = sorted({lib.stem for lib in libraries if sum(other.stem == lib.stem for other in libraries) > 1})
    if twice:
        return warned(
            f"{', '.join(twice)} is in the process twice, from different files", *facts, cause="rocm-library-conflict"
        )
    return passed(f"the process has ROCm {releases[0] if releases else ''} only".replace("  ", " "), *facts)


@check(
    "LIB203",
    "libraries.devices",
    rests_on=("LIB201", "LIB202", "DRV003", "CON002", "DRV301", "GPU006", "GPU007"),
    causes=("gpu-hang-or-reset",),
    level=Level.STANDARD,
)
def devices(machine: Machine) -> Verdicts:
    """torch lists the GPUs that this process may use.

    Why it matters: torch asks the HIP runtime, which asks the HSA runtime, which opens /dev/kfd: here for the first time
    all parts work together. A count of 0 beside GPUs that the kernel shows has its cause in one of them; a call that
    never returns is a GPU or a driver that hangs.
    How to fix: as the finding says where the error is a known one; else `HSAKMT_DEBUG_LEVEL=7 rocminfo` says what the
    runtime meets on its way.
    Sources: the child's own output.
    """
    loaded, torch = machine.loaded, machine.torch
    if loaded is None or torch is None or torch.build != "rocm" or loaded.hip is None:
        return skipped("no ROCm torch was imported")
    if loaded.state != "ended" and loaded.device_count is None and loaded.device_error is None:
        return _ended_early(machine, "asking torch for its GPUs", loaded)
    if loaded.device_error is not None:
        return _import_failed(machine, "torch cannot list its GPUs", loaded.device_error, loaded)
    visible = [gpu for gpu in machine.gpus.known if gpu.visible is not False]
    said = _command(machine, f"torch.cuda.device_count() is {loaded.device_count}")
    if loaded.device_count == 0 and visible:
        names = ", ".join(dict.fromkeys(gpu.name or gpu.gfx or "an AMD GPU" for gpu in visible))
        title = f"torch sees no GPU, though the kernel shows {len(visible)} ({names})"
        cause, detail, fixes = _explained(machine, "\n".join(loaded.said))
        return Verdict(Status.FAIL, title, detail, cause, (said, *_said(loaded)), fixes)
    if loaded.device_count == 0:
        return skipped("torch sees no GPU, and none is known here", said)
    return passed(
        f"torch sees {loaded.device_count} GPU{'s' if loaded.device_count != 1 else ''}",
        *(Evidence(f"device {device.index}", f"{device.name} ({device.arch})") for device in loaded.devices[:8]),
        said,
    )


def _import_failed(machine: Machine, title: str, failure: Failure, loaded: Loaded) -> Verdict:
    """An exception, with the cause and the fixes of what is known of its text."""
    cause, detail, fixes = _explained(machine, "\n".join((*loaded.said, failure.text)))
    evidence = tuple(Evidence("the child's exception", line) for line in failure.lines[-4:]) or _said(loaded)
    return Verdict(Status.FAIL, title, detail, cause, evidence, fixes)


def _ended_early(machine: Machine, what: str, loaded: Loaded) -> Verdict:
    """A crash, a hang or an exit of the child."""
    if loaded.state == "hung":
        ending = f"did not end within {loaded.duration_s:.0f} s"
    elif loaded.state == "crashed":
        ending = f"was killed by {loaded.signal}"
    else:
        ending = f"ended the process with status {loaded.returncode}"
    cause, detail, fixes = _explained(machine, "\n".join(loaded.said))
    if cause is None and loaded.state == "hung" and loaded.step == "asking" and machine.gpus.known:
        cause = "gpu-hang-or-reset"
    evidence = (_command(machine, ending), *_said(loaded))
    return Verdict(Status.FAIL, f"{what} {ending}", detail, cause, evidence, fixes)


def _explained(machine: Machine, text: str) -> tuple[str | None, str, tuple[Fix, ...]]:
    """Cause, explanation and fixes of an error text, if it is certainly one of those that `fa-doctor explain` knows."""
    from fa_doctor.diagnosis.advice import fixes_for
    from fa_doctor.diagnosis.context import context_from_mapping
    from fa_doctor.diagnosis.explain import explain
    from fa_doctor.diagnosis.logtext import blocks_of_text

    torch, triton, system = machine.torch, machine.triton, machine.system
    context = context_from_mapping(
        {
            "gpu": ", ".join(gpu.name or "AMD GPU" for gpu in machine.gpus.known),
            "gfx": ", ".join(machine.gpus.gfx_targets),
            "torch": torch.version if torch else None,
            "triton": triton.version if triton else None,
            "python": machine.python.version,
            "os": system.pretty_name,
            "wsl": bool(system.wsl),
            "container": machine.container.runtime if machine.container.inside else None,
            # Variables of attention kernels would speak for causes that an import cannot have.
            "env": {name: value for name in _TELLING if (value := machine.variable(name))},
        }
    )
    explanation = explain(blocks_of_text(text + "\n"), context)
    found = explanation.confident
    if found is None:
        return (
            None,
            "It is none of the errors that fa-doctor knows; the evidence has the last lines of what was said.",
            (),
        )
    return found.cause, found.failure.explanation, fixes_for(found.failure, explanation.context.values())[:3]


def _outside_torch(machine: Machine, libraries: Iterable[MappedLibrary]) -> list[str]:
    folder = f"{machine.torch.folder}/" if machine.torch else "/nowhere/"
    return [library.path for library in libraries if not library.path.startswith(folder)]


def _command(machine: Machine, said: str) -> Evidence:
    return Evidence(f"{machine.python.executable} -c 'import torch, triton'", said)


def _said(loaded: Loaded) -> tuple[Evidence, ...]:
    return tuple(Evidence("the child's standard error", line) for line in loaded.said[-6:])
