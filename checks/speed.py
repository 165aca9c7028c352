"""What makes a right installation slow: node settings, clocks, power cap, PCI Express link, partitions, memory errors."""

from __future__ import annotations

from collections.abc import Iterable

from fa_doctor.checks.common import in_use, log_evidence, log_lines
from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Need, Verdict, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import as_root, run_as_root
from fa_doctor.facts.gpus import Gpu
from fa_doctor.facts.health import CardHealth
from fa_doctor.facts.machine import Machine
from fa_doctor.knowledge.tuning import setting

_GIB = 1 << 30


def _cards(machine: Machine) -> list[tuple[Gpu, CardHealth]]:
    """The discrete cards whose health is known, each with its first device."""
    first = {gpu.card: gpu for gpu in reversed(machine.gpus.known)}
    pairs = [(first[card.card], card) for card in machine.health.cards if card.card in first]
    return [(gpu, card) for gpu, card in pairs if not gpu.integrated]


def _label(gpu: Gpu) -> str:
    return f"{gpu.name or 'GPU'} at {gpu.pci}" if gpu.pci else gpu.name or f"GPU {gpu.index}"


@check("SPD001", "speed.performance-level", rests_on=("GPU001",))
def performance_level(machine: Machine) -> Verdicts:
    """The clocks of the GPU are left to the driver.

    Why it matters: the level "low" holds the lowest clocks, "manual" and the profiles fixed ones: kernels are then slow
    without any message. "high" and "perf_determinism" are choices for measurements.
    How to fix: set it back to auto.
    Sources: Linux kernel documentation of amdgpu (power_dpm_force_performance_level)
    """
    known = [(gpu, card) for gpu, card in _cards(machine) if card.performance_level]
    if not known:
        return skipped("the performance level is not known")
    verdicts: list[Verdict] = []
    for gpu, card in known:
        level = card.performance_level or ""
        if level not in ("low", "manual") and not level.startswith("profile_"):
            continue
        clock = f", now {card.engine_clock} of {card.engine_clock_max} MHz" if card.engine_clock else ""
        path = f"{card.folder}/power_dpm_force_performance_level"
        verdicts.append(
            warned(
                f"the clocks of {_label(gpu)} are held ({level}{clock})",
                Evidence(path, level),
                fixes=(
                    run_as_root(
                        machine,
                        "Leave the clocks to the driver",
                        (f"sh -c 'echo auto > {path}'",),
                        undo=(f"sh -c 'echo {level} > {path}'",),
                        proof="SPD001",
                    ),
                ),
            )
        )
    return verdicts or passed("the clocks are left to the driver")


@check("SPD002", "speed.power-cap", rests_on=("GPU001",))
def power_cap(machine: Machine) -> Verdicts:
    """The power cap of the GPU is not far below its default.

    Why it matters: attention on matrix units runs at the power limit; a cap at half the default costs about as much in
    speed. Data centres and desktop tools set such caps, and they stay.
    How to fix: set the default again, if the cooling and the supply allow it.
    Sources: Linux kernel documentation of amdgpu (hwmon power1_cap)
    """
    known = [(gpu, card) for gpu, card in _cards(machine) if card.power_cap and card.power_cap_default]
    if not known:
        return skipped("the power cap is not known")
    verdicts: list[Verdict] = []
    for gpu, card in known:
        cap, default = card.power_cap or 0.0, card.power_cap_default or 0.0
        if cap < 0.85 * default:
            verdicts.append(
                warned(
                    f"{_label(gpu)} is capped at {cap:.0f} W, its default is {default:.0f} W",
                    Evidence(f"{card.folder}/hwmon/*/power1_cap", f"{cap * 1e6:.0f}"),
                    Evidence(f"{card.folder}/hwmon/*/power1_cap_default", f"{default * 1e6:.0f}"),
                    fixes=(
                        run_as_root(
                            machine,
                            "Set the default again",
                            (f"amd-smi set --gpu {card.card} --power-cap {default:.0f}",),
                            undo=(f"amd-smi set --gpu {card.card} --power-cap {cap:.0f}",),
                            proof="SPD002",
                        ),
                    ),
                )
            )
    return verdicts or passed("the power cap is at its default, or near it")


@check("SPD003", "speed.pcie-link", rests_on=("GPU001",))
def pcie_link(machine: Machine) -> Verdicts:
    """The card has all the PCI Express lanes that it can use.

    Why it matters: with a quarter of the lanes, loading a model and moving data between GPUs take four times as long.
    Attention itself, in the card's memory, is not slower. The speed of each lane falls when the card is idle, which is
    no fault; the number of lanes does not.
    How to fix: another slot (many boards have a long slot with four lanes), or seat the card and its riser anew.
    Sources: Linux Documentation/ABI/testing/sysfs-bus-pci (current_link_width, max_link_width)
    """
    verdicts: list[Verdict] = []
    known = 0
    for gpu, card in _cards(machine):
        link = card.link
        if link is None or link.width is None or link.max_width is None:
            continue
        known += 1
        if 2 * link.width <= link.max_width:
            verdicts.append(
                warned(
                    f"{_label(gpu)} uses {link.width} of {link.max_width} PCI Express lanes",
                    Evidence(f"{link.at}/current_link_width", str(link.width)),
                    Evidence(f"{link.at}/max_link_width", str(link.max_width)),
                    detail="Loading models and traffic between GPUs are slower by that factor; attention itself is not.",
                    fixes=(Fix("Put the card into a slot with all its lanes, or seat it anew", needs=Need.REBOOT),),
                )
            )
    return verdicts or (passed("all lanes are in use") if known else skipped("the PCI Express links are not known"))


@check("SPD004", "speed.partitions", rests_on=("GPU001",))
def partitions(machine: Machine) -> Verdicts:
    """A card that can be split is whole, or split on purpose and completely.

    Why it matters: in CPX mode an MI300X is eight devices, each with an eighth of the compute units and of the memory: a
    model that fits the card does not fit a device, and one process uses an eighth of the card. With NPS4 memory, a
    device in SPX mode reaches most of its memory slowly.
    How to fix: `amd-smi set` changes the mode while nothing runs on the card. Several small jobs are what CPX is for.
    Sources: https://rocm.docs.amd.com/en/latest/how-to/system-optimization/mi300x.html; knowledge/tuning.toml
    """
    known = [gpu for gpu in machine.gpus.known if gpu.partition or gpu.memory_partition]
    if not known:
        return skipped("no card that can be split is known")
    split = [gpu for gpu in known if gpu.partition not in (None, "SPX")]
    memory = setting("memory_mode")
    far = [gpu for gpu in known if gpu.partition == "SPX" and gpu.memory_partition not in (None, memory.want)]
    if far:
        return warned(
            f"memory mode {far[0].memory_partition} with {far[0].partition}: one device over several memory domains",
            Evidence("current_memory_partition", str(far[0].memory_partition)),
            *far[0].evidence[:1],
            detail=f"{memory.why[0].upper()}{memory.why[1:]}.",
            fixes=(_set_mode(machine, f"--memory-partition {memory.want}", f"Set the memory mode {memory.want}"),),
        )
    if not split:
        modes = {f"{gpu.partition}{f'/{gpu.memory_partition}' if gpu.memory_partition else ''}" for gpu in known}
        return passed(f"partition mode {', '.join(sorted(modes))}: each card is one device", *known[0].evidence[:1])
    return _split(machine, split)


def _split(machine: Machine, split: list[Gpu]) -> Verdict:
    sizes = [sum(other.card == card for other in split) for card in dict.fromkeys(gpu.card for gpu in split)]
    first = split[0]
    size = f" and {first.vram_bytes / _GIB:.0f} GiB" if first.vram_bytes else ""
    each = f"{first.compute_units} compute units{size}" if first.compute_units else "a part of the card"
    uneven = max(sizes) - min(sizes)
    devices = f"{len(split)} devices" if len(split) > 1 else "devices of which one is seen here"
    title = f"{len(sizes)} card{'s are' if len(sizes) > 1 else ' is'} split into {devices} ({first.partition})"
    detail = f"Each device has {each}. For one large model per card, the mode SPX is the right one."
    if uneven:
        title += f", and {uneven} {'is' if uneven == 1 else 'are'} missing"
        detail += " The kernel has a limit of 64 render nodes: with a display card besides, the last device finds none."
    return warned(
        title,
        Evidence("partitions of each card", ", ".join(map(str, sizes))),
        *first.evidence[:1],
        detail=detail,
        fixes=(_set_mode(machine, "--compute-partition SPX", "Make each card one device (nothing may run on it)"),),
    )


def _set_mode(machine: Machine, option: str, title: str) -> Fix:
    return Fix(title, (as_root(machine, f"amd-smi set --gpu all {option}"),), needs=Need.ROOT, proof="SPD004")


@check("SPD005", "speed.hardware-errors", rests_on=("GPU001",))
def hardware_errors(machine: Machine) -> Verdicts:
    """The GPU has counted no error that it could not correct.

    Why it matters: after an uncorrectable memory error a page is retired and what lay there is lost: jobs crash, or
    compute wrongly. A card that counts such errors again and again must be exchanged.
    How to fix: drain the node, reset the GPU, run AMD's validation suite (rvs), and ask for a new card if it comes back.
    Sources: Linux kernel documentation of amdgpu (RAS); knowledge/kernel_log.toml
    """
    verdicts: list[Verdict] = []
    counted = False
    for gpu, card in _cards(machine):
        counted = counted or bool(card.ras)
        wrong = [count for count in card.ras if count.uncorrectable]
        if wrong:
            total = sum(count.uncorrectable for count in wrong)
            verdicts.append(
                warned(
                    f"{_label(gpu)} has counted {total} uncorrectable error{'s' if total > 1 else ''}",
                    *(
                        Evidence(f"{card.folder}/ras/{count.block}_err_count", f"ue: {count.uncorrectable}")
                        for count in wrong
                    ),
                    detail="What ran at that time may have been wrong.",
                    fixes=_replace_card(machine),
                )
            )
    if verdicts:
        return verdicts
    logged = log_lines(machine, ("hardware",))
    if logged:
        return warned(
            "the kernel log tells of hardware errors of the GPU",
            *log_evidence(machine, ("hardware",)),
            detail=f"{logged[-1].meaning[0].upper()}{logged[-1].meaning[1:]}.",
            fixes=_replace_card(machine),
        )
    return passed("no uncorrectable error was counted") if counted else skipped("error counts are not known")


def _replace_card(machine: Machine) -> tuple[Fix, ...]:
    return (
        Fix("See the counts of each block", (as_root(machine, "amd-smi metric --ecc --ecc-blocks"),)),
        Fix("Drain the node, reset the GPU and test it (rvs); if errors come back, have the card exchanged"),
    )


def _instinct(machine: Machine, families: Iterable[str]) -> list[Gpu]:
    wanted = set(families)
    return [gpu for gpu in in_use(machine) if gpu.family in wanted]


@check("SPD006", "speed.numa-balancing", rests_on=("GPU001",))
def numa_balancing(machine: Machine) -> Verdicts:
    """Automatic NUMA balancing is off on a server with Instinct GPUs.

    Why it matters: the kernel unmaps pages now and then to learn which processor uses them. Each time, work on the GPU
    that shares such memory stalls.
    How to fix: sysctl kernel.numa_balancing=0, and a file in /etc/sysctl.d to keep it.
    Sources: knowledge/tuning.toml
    """
    row = setting("numa_balancing")
    if not _instinct(machine, row.families):
        return skipped("AMD's guide asks it of servers with Instinct GPUs")
    node = machine.node
    if node.numa_balancing is None:
        return unknown("/proc/sys/kernel/numa_balancing is not known")
    evidence = Evidence("/proc/sys/kernel/numa_balancing", "1" if node.numa_balancing else "0")
    if not node.numa_balancing or node.numa_nodes == 1:
        return passed("NUMA balancing is off, or has nothing to balance", evidence)
    keep = f"sh -c 'echo {row.persist} > /etc/sysctl.d/90-gpu.conf'"
    return warned(
        "automatic NUMA balancing is on",
        evidence,
        detail=f"{row.why[0].upper()}{row.why[1:]}.",
        fixes=(
            run_as_root(
                machine,
                "Turn it off, also for the next start",
                (*row.commands, keep),
                undo=(*row.undo, "rm /etc/sysctl.d/90-gpu.conf"),
                proof="SPD006",
            ),
        ),
    )


@check("SPD007", "speed.iommu", rests_on=("GPU001",), causes=("rccl-multi-gpu",))
def iommu(machine: Machine) -> Verdicts:
    """With several GPUs, the IOMMU passes their memory requests through.

    Why it matters: RCCL moves data from GPU to GPU directly. Where the IOMMU translates each address, that is slow, and
    on many machines it hangs.
    How to fix: iommu=pt on the kernel's command line (with intel_iommu=on on Intel), then restart. NCCL_P2P_DISABLE=1
    goes around it, slowly.
    Sources: knowledge/tuning.toml; ROCm/vllm issue 390
    """
    cards = {gpu.card for gpu in in_use(machine) if not gpu.integrated}
    if len(cards) < 2:
        return skipped("it matters with several GPUs only")
    node = machine.node
    words = next((item for item in node.evidence if item.source.endswith("iommu_group/type")), None)
    option = node.has_option("iommu=pt", "iommu.passthrough=1", "iommu=off", "amd_iommu=off", "intel_iommu=off")
    line = Evidence("/proc/cmdline", " ".join(node.command_line or ())[:300])
    if node.iommu in ("identity", "none") or (node.iommu is None and option):
        return passed("memory requests of the GPUs are passed through", words or line)
    if node.iommu is None:
        return unknown("whether an IOMMU translates for the GPUs is not known", *([line] if line.text else []))
    row = setting("iommu")
    return warned(
        f"the IOMMU translates the memory requests of the GPUs ({node.iommu})",
        words or line,
        line,
        cause="rccl-multi-gpu",
        detail=f"{row.why[0].upper()}{row.why[1:]}.",
        fixes=(
            Fix(
                f"Add {row.want} to GRUB_CMDLINE_LINUX in /etc/default/grub, then restart",
                (as_root(machine, "update-grub  # or: grub2-mkconfig -o /boot/grub2/grub.cfg"),),
                needs=Need.REBOOT,
                proof="SPD007",
            ),
        ),
    )


@check("SPD008", "speed.idle-states", rests_on=("GPU001",))
def idle_states(machine: Machine) -> Verdicts:
    """Deep idle states of the processors are off on a server with MI300 or MI350 GPUs.

    Why it matters: a processor in a deep state takes hundreds of microseconds to wake, which each small kernel waits
    for; AMD's guide turns C2 off.
    How to fix: cpupower idle-set -D 100 turns off every state that takes longer than 100 microseconds to leave.
    Sources: knowledge/tuning.toml
    """
    row = setting("deep_idle")
    if not _instinct(machine, row.families):
        return skipped("AMD's guide asks it of servers with MI300 or MI350 GPUs")
    if machine.container.inside:
        return skipped("the processors' settings are the host's matter")
    states = machine.node.idle_states
    if not states:
        return skipped("no idle states are known")
    deep = [
        state
        for state in states
        if state.latency_us is not None and state.latency_us > (row.latency_us or 0) and state.disabled is False
    ]
    evidence = [
        Evidence(
            "/sys/devices/system/cpu/cpu0/cpuidle",
            f"{state.name}: {state.latency_us} us, {'off' if state.disabled else 'on'}",
        )
        for state in states[-3:]
    ]
    if not deep:
        return passed("no deep idle state is on", *evidence)
    return warned(
        f"idle state {deep[0].name} takes {deep[0].latency_us} us to leave",
        *evidence,
        detail=f"{row.why[0].upper()}{row.why[1:]}.",
        fixes=(
            run_as_root(
                machine, "Turn deep idle states off until the next start", row.commands, undo=row.undo, proof="SPD008"
            ),
        ),
    )
