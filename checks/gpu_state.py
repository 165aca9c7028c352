"""The state of the GPU: whether it answers, and whether its memory is free."""

from __future__ import annotations

from fa_doctor.checks.common import in_use, log_lines, log_meanings, read_log
from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Need, failed, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import as_root
from fa_doctor.facts.machine import Machine

_GIB = 1 << 30


@check("GPU007", "gpu.responds", rests_on=("DRV001",), causes=("gpu-hang-or-reset",))
def responds(machine: Machine) -> Verdicts:
    """The GPU answers: no tool hangs, no process waits for its driver for ever, and no hang stands in the kernel log.

    Why it matters: a GPU that hangs is still in sysfs, while every program that opens it stops. That looks like a broken
    installation, and installing anew helps nothing.
    How to fix: read the kernel log, end the processes that use the GPU, reset it; processes in state D end only with a
    restart of the machine.
    Sources: Linux drivers/gpu/drm/amd/amdgpu/amdgpu_job.c, amdkfd/kfd_device_queue_manager.c; ROCm/ROCm issue 4021
    """
    gpus, driver = machine.gpus, machine.driver
    hung = [tool for tool in gpus.tools if tool.state == "hung"]
    seen = bool(gpus.known or gpus.withheld or gpus.unreadable or machine.system.wsl)
    lines = log_lines(machine, ("hang", "reset"))
    evidence = [Evidence(tool.name, tool.said or "did not return") for tool in hung if seen]
    evidence += [
        Evidence(
            f"/proc/{process.pid}/stat",
            f"{process.name}: state D" + (f", waits in {process.waits_in}" if process.waits_in else ""),
        )
        for process in driver.stuck_processes[:4]
    ]
    if driver.unanswered:
        evidence.append(Evidence(driver.unanswered, "an open of it did not return"))
    evidence += [Evidence(line.source, line.line) for line in lines[-4:]]
    if hung and not seen:
        return unknown(
            f"{hung[0].name} does not return, and nothing else shows a GPU", Evidence(hung[0].name, hung[0].said)
        )
    answered = [tool.name for tool in gpus.tools if tool.state == "ok"]
    logged = bool(lines) and lines[-1].kind == "hang" and not answered
    if (hung and seen) or driver.stuck_processes or driver.unanswered or logged:
        what = "the kernel log ends with a GPU that hangs"
        if hung:
            what = f"the kernel shows the GPU, but {hung[0].name} does not return"
        elif driver.stuck_processes:
            what = f"{len(driver.stuck_processes)} process(es) wait in the GPU driver and cannot be ended"
        elif driver.unanswered:
            what = f"opening {driver.unanswered} does not return"
        return failed(
            what,
            *evidence,
            cause="gpu-hang-or-reset",
            detail=f"The GPU or its driver is stuck. Nothing of what is installed is the reason. {log_meanings(machine, ('hang',))}".strip(),
            fixes=_unstick(machine),
        )
    if lines:
        return warned(
            "the GPU hung or was reset since the machine was started",
            *evidence,
            cause="gpu-hang-or-reset",
            detail="It works again. If it happens again, look at what ran then, at the firmware and the power supply.",
            fixes=(read_log(machine),),
        )
    if not seen:
        return skipped("no GPU is known")
    return passed(f"{answered[0]} answers" if answered else "nothing shows that the GPU is stuck")


def _unstick(machine: Machine) -> tuple[Fix, ...]:
    if machine.system.wsl:
        return (Fix("On Windows, restart WSL", ("wsl.exe --shutdown",), needs=Need.RESTART, proof="GPU007"),)
    users = (as_root(machine, "fuser -v /dev/kfd /dev/dri/renderD*"), "ps -eo pid,stat,wchan:32,comm | awk '$2 ~ /D/'")
    stuck = bool(machine.driver.stuck_processes or machine.driver.unanswered)
    reset = Fix(
        "Reset the GPU when no process uses it (what it computed is lost)",
        (as_root(machine, "amd-smi reset --gpureset --gpu all"),),
        needs=Need.ROOT,
        proof="GPU007",
    )
    reboot = Fix(
        "Restart the machine: processes in state D end in no other way"
        if stuck
        else "If the reset does not return, restart the machine",
        (as_root(machine, "reboot"),),
        needs=Need.REBOOT,
        proof="GPU007",
    )
    first = (read_log(machine), Fix("See who uses the GPU, and what waits in the kernel", users))
    return (*first, reboot) if stuck else (*first, reset, reboot)


@check("GPU008", "gpu.free-memory", rests_on=("GPU001",), causes=("vram-out-of-memory",))
def free_memory(machine: Machine) -> Verdicts:
    """The memory of the GPU is not full already.

    Why it matters: what another process holds is not there for yours; an out-of-memory error then says nothing of it.
    How to fix: end the process that holds it, or choose another GPU.
    Sources: Linux kernel documentation of amdgpu (mem_info_vram_used)
    """
    verdicts = []
    checked = 0
    for gpu in in_use(machine):
        health = machine.health.of(gpu)
        if health is None or health.vram_used is None or not gpu.vram_bytes or gpu.integrated:
            continue
        checked += 1
        if health.vram_used <= 0.8 * gpu.vram_bytes:
            continue
        users = [f"{user.name or 'a process'} ({user.pid})" for user in machine.health.users[:5]]
        verdicts.append(
            warned(
                f"{health.vram_used / _GIB:.1f} of {gpu.vram_bytes / _GIB:.1f} GiB of GPU {gpu.index} are in use",
                Evidence(f"{health.folder}/mem_info_vram_used", str(health.vram_used)),
                *(Evidence("/sys/class/kfd/kfd/proc", user) for user in users),
                cause="vram-out-of-memory",
                fixes=(Fix("See who holds it", ("amd-smi process",)),),
            )
        )
    if not checked:
        return skipped("how much of the memory is in use is not known")
    return verdicts or passed("the memory of the GPUs is free")
