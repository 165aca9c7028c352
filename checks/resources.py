"""Room and rights where kernels are cached and packages are built: disk, file systems, memory."""

from __future__ import annotations

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Need, failed, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import make_folder, set_variable
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.resources import Place

_MIB, _GIB = 1 << 20, 1 << 30
_LEAST_FREE = 64 * _MIB  # our own limit: a search writes the code of hundreds of kernels
_LITTLE_FREE = 1 * _GIB
_BYTES_PER_JOB = 5 * _GIB  # what flash-attn's setup.py reckons for one compile job (v2.8.3)


@check("RES001", "resources.triton-cache", causes=("triton-cache-unwritable",))
def triton_cache(machine: Machine) -> Verdicts:
    """Triton can write its cache, on a file system from which libraries can be loaded.

    Why it matters: each compiled kernel and Triton's own small library are written there and loaded from there. A home
    that cannot be written ends at the first kernel with PermissionError, a mount with noexec with "failed to map
    segment", and on a network file system processes meet stale file handles.
    How to fix: point TRITON_CACHE_DIR at a folder on a local disk.
    Sources: triton/runtime/cache.py; reports of "Stale file handle" with caches on NFS.
    """
    place = machine.resources.places.get("triton")
    if place is None:
        return unknown("where Triton's cache lies is not known")
    here = _local_folder(machine)
    fix = make_folder(machine, here, "TRITON_CACHE_DIR", "Keep Triton's cache on a local disk", proof="RES001")
    if place.read_only or place.writable is False:
        why = "its file system is read-only" if place.read_only else "this user cannot write there"
        return failed(
            f"Triton's cache {place.path} cannot be written: {why}",
            place.evidence,
            cause="triton-cache-unwritable",
            fixes=(fix,),
        )
    if place.no_exec:
        return failed(
            f"Triton's cache {place.path} is on a file system mounted noexec",
            place.evidence,
            cause="triton-cache-unwritable",
            detail="Triton loads a library from there: failed to map segment from shared object.",
            fixes=(fix,),
        )
    if place.network:
        return warned(
            f"Triton's cache {place.path} is on a network file system ({place.filesystem})",
            place.evidence,
            cause="triton-cache-unwritable",
            detail="It works until several processes compile at once; then files vanish under each other.",
            fixes=(fix,),
        )
    if place.writable is None:
        return unknown("whether Triton's cache can be written is not known", place.evidence)
    return passed(f"Triton's cache {place.path} can be written", place.evidence)


@check("RES002", "resources.disk", causes=("disk-full",))
def disk(machine: Machine) -> Verdicts:
    """There is room where kernels are compiled and cached.

    Why it matters: with a full disk the compile of a kernel ends with "No space left on device", sometimes as a broken
    file that later runs trip over.
    How to fix: make room, or point the cache at a larger disk.
    Sources: the places that Triton, torch.compile and Python's tempfile use.
    """
    places = [
        machine.resources.places[role]
        for role in ("triton", "inductor", "temporary")
        if role in machine.resources.places
    ]
    known = [place for place in places if place.free_bytes is not None]
    if not known:
        return unknown("how much room there is is not known")
    by_mount: dict[str, Place] = {}
    for place in known:
        by_mount.setdefault(place.mount_point or place.path, place)
    full = [place for place in by_mount.values() if (place.free_bytes or 0) < _LEAST_FREE]
    little = [place for place in by_mount.values() if _LEAST_FREE <= (place.free_bytes or 0) < _LITTLE_FREE]
    if full:
        return [
            failed(
                f"the disk at {place.mount_point or place.path} is full: {(place.free_bytes or 0) // _MIB} MiB free",
                place.evidence,
                cause="disk-full",
                fixes=_room(machine, place),
            )
            for place in full
        ]
    if little:
        return [
            warned(
                f"the disk at {place.mount_point or place.path} is nearly full: {(place.free_bytes or 0) // _MIB} MiB free",
                place.evidence,
                cause="disk-full",
                fixes=_room(machine, place),
            )
            for place in little
        ]
    return passed("there is room for compiled kernels", *(place.evidence for place in by_mount.values()))


@check("RES003", "resources.build-memory", causes=("build-out-of-memory",))
def build_memory(machine: Machine) -> Verdicts:
    """MAX_JOBS leaves enough memory for each compile job.

    Why it matters: one job of a flash-attn build takes some 5 GB. When all together take more than there is, the kernel
    kills the compiler, and the build ends with "Killed" or "exit status 137".
    How to fix: a smaller MAX_JOBS; unset, flash-attn's setup.py reckons one by itself.
    Sources: setup.py of flash-attn v2.8.3 (memory per job).
    """
    value = machine.variable("MAX_JOBS")
    available = machine.resources.memory_available_bytes
    if value is None:
        return skipped("MAX_JOBS is not set")
    if not value.isdecimal() or available is None:
        return unknown("how many jobs would run, or how much memory there is, is not known")
    most = max(1, available // _BYTES_PER_JOB)
    evidence = (Evidence("MAX_JOBS", value), Evidence("memory available", f"{available / _GIB:.1f} GiB"))
    if int(value) <= most:
        return passed(f"MAX_JOBS={value} fits the memory", *evidence)
    return warned(
        f"MAX_JOBS={value} asks for more memory than there is when flash-attn is built",
        *evidence,
        cause="build-out-of-memory",
        fixes=(set_variable(machine, "MAX_JOBS", str(most), "Run fewer compile jobs at once", proof="RES003"),),
    )


@check("RES004", "resources.other-caches", causes=("slow-first-run",))
def other_caches(machine: Machine) -> Verdicts:
    """The caches of MIOpen, torch.compile and aiter can be written.

    Why it matters: nothing fails without them, but each process searches and compiles anew.
    How to fix: point their variables at folders that this user can write.
    Sources: MIOpen's environment variables; torch/_inductor/runtime/cache_dir_utils.py.
    """
    names = {
        "inductor": "TORCHINDUCTOR_CACHE_DIR",
        "miopen-db": "MIOPEN_USER_DB_PATH",
        "miopen-cache": "MIOPEN_CUSTOM_CACHE_DIR",
    }
    if machine.aiter is not None:
        names["aiter"] = "AITER_JIT_DIR"
    known = {role: machine.resources.places[role] for role in names if role in machine.resources.places}
    closed = {role: place for role, place in known.items() if place.writable is False or place.read_only}
    if not closed:
        return passed("the other caches can be written") if known else unknown("where the caches lie is not known")
    home = machine.resources.places.get("triton")
    if home and (home.writable is False or home.read_only) and not machine.variable("TRITON_CACHE_DIR"):
        return skipped("the home folder cannot be written, which RES001 reports")
    return [
        warned(
            f"the cache {place.path} cannot be written",
            place.evidence,
            cause="slow-first-run",
            fixes=(
                make_folder(
                    machine,
                    f"{_local_folder(machine)}-{role}",
                    names[role],
                    f"Use a folder that can be written for {names[role]}",
                    proof="RES004",
                ),
            ),
        )
        for role, place in closed.items()
    ]


@check("RES005", "resources.memory", causes=("build-out-of-memory",))
def memory(machine: Machine) -> Verdicts:
    """There is memory to import torch and compile kernels.

    Why it matters: a ROCm torch with its libraries and Triton's compiler need gigabytes of main memory; where a
    container or a job may have less, the kernel ends the process without a word (exit status 137). Below 3 GiB, a
    limit of our own, this warns.
    How to fix: raise the limit of the container or of the job.
    Sources: the cgroup limits that are in force.
    """
    total = machine.resources.memory_bytes
    if total is None:
        return unknown("how much memory there is is not known")
    evidence = Evidence("memory", f"{total / _GIB:.1f} GiB")
    if total >= 3 * _GIB:
        return passed(f"{total / _GIB:.1f} GiB of memory", evidence)
    limited = machine.container.memory_limit_bytes == total
    commands = ("docker run --memory 16g ... IMAGE",) if limited and machine.container.inside else ()
    return warned(
        f"{total / _GIB:.1f} GiB of memory" + (" is the limit of this process" if limited else " is all there is"),
        evidence,
        *machine.container.evidence[-1:],
        cause="build-out-of-memory",
        fixes=(Fix("Raise the limit", commands, needs=Need.RESTART, proof="RES005"),) if limited else (),
    )


def _local_folder(machine: Machine) -> str:
    """A folder for a cache on a local disk: below the temporary folder, apart for each user."""
    user = machine.user
    name = (user.name or str(user.uid)) if user else "user"
    temporary = machine.resources.places.get("temporary")
    base = (
        temporary.path.rstrip("/")
        if temporary and temporary.writable is not False and not temporary.no_exec
        else "/var/tmp"
    )
    return f"{base}/triton-cache-{name}"


def _room(machine: Machine, place: Place) -> tuple[Fix, ...]:
    look = Fix(
        "See what takes the room",
        (f"du -xh --max-depth=2 {place.mount_point or place.path} | sort -h | tail",),
        proof="RES002",
    )
    if place.role != "triton":
        return (look,)
    return (
        look,
        Fix(
            "Or empty Triton's cache: it is filled again as kernels are needed",
            (f"rm -r {place.path}",),
            proof="RES002",
        ),
    )
