"""How fast attention is on the GPU at hand, beside what it is held against."""

from __future__ import annotations

from collections.abc import Iterator

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Verdict, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import set_variable
from fa_doctor.facts.gpus import Gpu
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.probes import Probe
from fa_doctor.knowledge.products import product_from_name
from fa_doctor.level import Level
from fa_doctor.probe.points import SpeedRow, rows_of

AUTOTUNE = "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE"
_NOISE = 1.6  # 90th over 10th percentile of single times above which a machine is too busy for a verdict
_TIE = 0.95  # a ratio above this is no slower: repeated runs differ by as much
_LOW_PRODUCT = 0.4  # of the card's peak: a large matrix product reaches more on any GPU that is whole and free


@check(
    "SPD101",
    "speed.attention",
    rests_on=("KER001",),
    causes=("slow-no-autotune", "slow-fallback"),
    level=Level.FULL,
)
def attention(machine: Machine) -> Verdicts:
    """The bundled attention is faster than unfused attention and not slower than PyTorch's own.

    Why it matters: a fused kernel that is slower than three separate operations has been given unfit tiles, a capped
    clock, a GPU that somebody else uses, or is not what runs at all.
    What is done: forward and backward are timed with device events at lengths 512, 1024 and 2048 and at batch 32, for
    unfused PyTorch, scaled_dot_product_attention and the bundled kernels, beside a large matrix product of the same
    dtype. Medians; where single times differ by more than 1.6 between their 10th and 90th percentile the machine is too
    noisy, and there is no verdict.
    How to fix: the reasons that the facts of this machine support are listed with the finding.
    Sources: measured here; peaks of cards from knowledge/products.toml.
    """
    probes = [probe for probe in machine.probes if probe.mode == "speed"]
    if not probes:
        return skipped(_why_not_timed(machine))
    return [_verdict(machine, probe) for probe in probes]


def _why_not_timed(machine: Machine) -> str:
    if machine.host_kind != "live":
        return "nothing can be timed on a recorded machine, or another root"
    if any(probe.on_gpu for probe in machine.probes):
        return "the kernels did not pass their test, or no time was left"
    return "no kernel ran on a GPU"


def _verdict(machine: Machine, probe: Probe) -> Verdict:
    rows = rows_of(probe)
    evidence = [*_table(rows), *_ceiling(machine, probe)]
    if probe.failed is not None or not rows:
        step = probe.failed.name if probe.failed else "the measurement"
        why = probe.failed.error.splitlines()[0] if probe.failed and probe.failed.error else str(probe.ending)
        return unknown(f"the speed could not be measured: '{step}' did not end well: {why}", *evidence)
    noisy = [row for row in rows if row.spread > _NOISE]
    if len(noisy) > len(rows) // 2:
        worst = max(row.spread for row in noisy)
        return unknown(
            f"the machine is too noisy to judge its speed: single times differ by a factor of {worst:.1f}", *evidence
        )
    slow = [
        (row, over, ratio)
        for row in rows
        if row not in noisy
        for over in ("unfused", "sdpa")
        if (ratio := row.ratio("bundled", over)) is not None and ratio < _TIE
    ]
    reasons = list(_reasons(machine, probe, rows))
    if slow:
        row, over, ratio = min(slow, key=lambda found: found[2])
        fixes = [fix for _, fix in reasons if fix is not None]
        detail = " ".join(text for text, _ in reasons) or "Nothing that was read of this machine explains it."
        return warned(
            f"the bundled attention reaches {ratio:.2f} times the speed of {over} at {row.name}, {row.kind}",
            *evidence,
            cause=_cause(reasons),
            detail=detail,
            fixes=fixes,
        )
    low = _low_product(machine, probe)
    if low is not None:
        return warned(
            low,
            *evidence,
            detail=" ".join(text for text, _ in reasons) or "Nothing that was read of this machine explains it.",
            fixes=[fix for _, fix in reasons if fix is not None],
        )
    judged = [row for row in rows if row not in noisy and row.ratio("bundled", "unfused") is not None]
    if not judged:
        return unknown("the bundled attention or what it is held against could not be timed", *evidence)
    gains = [ratio for row in judged if row.kind == "forward" and (ratio := row.ratio("bundled", "unfused"))]
    compared = any(row.ratio("bundled", "sdpa") is not None for row in judged)
    beside = ", and not slower than PyTorch's own" if compared else "; PyTorch's own could not be timed"
    return passed(
        f"the bundled attention is {min(gains, default=0):.1f} to {max(gains, default=0):.1f} times as fast as unfused "
        f"attention{beside}",
        *evidence,
    )


def _table(rows: list[SpeedRow]) -> Iterator[Evidence]:
    for row in rows:
        figures = [
            f"{name} {found['tflops']:.1f} TFLOP/s" if "tflops" in found else f"{name}: {found.get('error', '?')}"
            for name, found in row.by_provider.items()
        ]
        gain = row.ratio("bundled", "unfused")
        told = f" (bundled over unfused {100 * (gain - 1):+.0f}%)" if gain else ""
        yield Evidence(f"{row.name}, {row.kind}", ", ".join(figures) + told)


def _ceiling(machine: Machine, probe: Probe) -> Iterator[Evidence]:
    for dtype, value in probe.details("measure a matrix product").get("tflops", {}).items():
        peak = _peak(machine, probe)
        share = f", {100 * value / peak:.0f}% of the card's peak of {peak:.0f}" if peak else ""
        yield Evidence(f"a matrix product of 8192 x 8192 in {dtype}", f"{value:.0f} TFLOP/s{share}")


def _gpu(machine: Machine, probe: Probe) -> Gpu | None:
    visible = [gpu for gpu in machine.gpus.known if gpu.visible is not False]
    return visible[probe.device] if probe.device is not None and probe.device < len(visible) else None


def _peak(machine: Machine, probe: Probe) -> float | None:
    """The card's dense float16 peak in TFLOP/s; of one partition its share."""
    gpu = _gpu(machine, probe)
    if gpu is None or gpu.name is None:
        return None
    product = product_from_name(gpu.name)
    if product is None or product.fp16_tflops is None:
        return None
    if product.compute_units and gpu.compute_units:
        return product.fp16_tflops * gpu.compute_units / product.compute_units
    return product.fp16_tflops


def _low_product(machine: Machine, probe: Probe) -> str | None:
    peak = _peak(machine, probe)
    value = probe.details("measure a matrix product").get("tflops", {}).get("float16")
    if peak is None or not isinstance(value, int | float) or value >= _LOW_PRODUCT * peak:
        return None
    return f"a matrix product reaches {value:.0f} TFLOP/s, {100 * value / peak:.0f}% of this card's peak of {peak:.0f}"


def _cause(reasons: list[tuple[str, Fix | None]]) -> str | None:
    """The cause that the reasons found support; None where they name none."""
    for text, _ in reasons:
        if text.startswith(AUTOTUNE):
            return "slow-no-autotune"
        if "math path" in text:
            return "slow-fallback"
    return None


def _reasons(machine: Machine, probe: Probe, rows: list[SpeedRow]) -> Iterator[tuple[str, Fix | None]]:
    """What of this machine would make it slow: each is a fact that was read, none a guess."""
    gpu = _gpu(machine, probe)
    if machine.variable(AUTOTUNE) != "TRUE":
        fix = set_variable(
            machine, AUTOTUNE, "TRUE", f"Search the best tiles for this GPU once ({AUTOTUNE})", proof="SPD101"
        )
        yield f"{AUTOTUNE} is not TRUE: tiles are those that come with the kernels.", fix
    if machine.gpus.override is not None:
        yield f"HSA_OVERRIDE_GFX_VERSION={machine.gpus.override} is in force: code of another GPU runs.", None
    health = machine.health.of(gpu) if gpu is not None else None
    if health is not None:
        if health.power_cap and health.power_cap_default and health.power_cap < 0.95 * health.power_cap_default:
            yield f"The power is capped at {health.power_cap:.0f} W of {health.power_cap_default:.0f}.", None
        link = health.link
        if link is not None and link.width and link.max_width and link.width < link.max_width:
            yield f"The PCI Express link runs {link.width} of {link.max_width} lanes ({link.at}).", None
        if link is not None and link.speed and link.max_speed and link.speed < 0.6 * link.max_speed:
            yield f"The PCI Express link runs at {link.speed:g} of {link.max_speed:g} GT/s ({link.at}).", None
        if health.performance_level not in (None, "auto", "high"):
            yield f"The performance level is {health.performance_level}.", None
        if health.temperature and health.temperature_critical and health.temperature > health.temperature_critical - 5:
            yield (
                f"The card is at {health.temperature:.0f} C; it slows down near {health.temperature_critical:.0f}.",
                None,
            )
    if machine.health.users:
        yield f"{len(machine.health.users)} other processes use the GPU.", None
    fallback = [row for row in rows if (ratio := row.ratio("sdpa", "unfused")) is not None and ratio < 1.15]
    if fallback:
        yield "scaled_dot_product_attention is no faster than unfused attention: it falls back to the math path.", None
