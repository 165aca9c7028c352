"""How fast attention is on the GPU at hand, beside what it is held against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Verdict, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import set_variable
from fa_doctor.facts.gpus import Gpu
from fa_doctor.facts.health import CardHealth
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.probes import Probe
from fa_doctor.knowledge.products import product_from_name
from fa_doctor.level import Level
from fa_doctor.probe.points import SpeedRow, rows_of

AUTOTUNE = "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE"
_ON = ("1", "true", "yes", "on")  # what the kernels take for TRUE, in any case
_NOISE = 1.6  # 90th over 10th percentile of single times above which a machine is too busy for a verdict
_TIE = 0.95  # a ratio above this is no slower: repeated runs differ by as much
_FALLBACK = 1.15  # a fused kernel is faster than unfused attention by more than this at each of the points
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
    dtype. Medians; slower is what is more than 5% slower and whose middle 80% of single times lie wholly above the
    other's. Where single times differ by more than 1.6 between their 10th and 90th percentile in most rows the machine is
    too noisy, and there is no verdict.
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
        for over in ("unfused", "sdpa")
        if (ratio := row.ratio("bundled", over)) is not None and ratio < _TIE and _apart(row, "bundled", over)
    ]
    if slow:
        row, over, ratio = min(slow, key=lambda found: found[2])
        return _warned(
            machine,
            probe,
            f"the bundled attention reaches {ratio:.2f} times the speed of {over} at {row.name}, {row.kind}",
            evidence,
        )
    low = _low_product(machine, probe)
    if low is not None:
        return _warned(machine, probe, low, evidence)
    ratios = {over: [ratio for row in rows if (ratio := row.ratio("bundled", over))] for over in ("unfused", "sdpa")}
    if not ratios["unfused"]:
        return unknown("the bundled attention or what it is held against could not be timed", *evidence)
    forward = [ratio for row in rows if row.kind == "forward" and (ratio := row.ratio("sdpa", "unfused"))]
    if forward and max(forward) < _FALLBACK:
        return warned(
            "scaled_dot_product_attention is no faster than unfused attention: it computes as that does",
            *evidence,
            cause="slow-fallback",
            detail=f"The bundled attention is up to {max(ratios['unfused']):.1f} times as fast.",
        )
    if not ratios["sdpa"]:
        beside = "; PyTorch's own could not be timed"
    elif min(ratios["sdpa"]) < _TIE:
        beside = ", and not slower than PyTorch's own by more than single times differ"
    else:
        beside = ", and not slower than PyTorch's own"
    gains = f"{min(ratios['unfused']):.1f} to {max(ratios['unfused']):.1f}"
    return passed(f"the bundled attention is {gains} times as fast as unfused attention{beside}", *evidence)


def _apart(row: SpeedRow, slower: str, faster: str) -> bool:
    """Whether the middle 80% of single times of one lie above those of the other."""
    return float(row.by_provider[slower]["low"]) > float(row.by_provider[faster]["high"])


def _warned(machine: Machine, probe: Probe, title: str, evidence: list[Evidence]) -> Verdict:
    """With every reason that was read of this machine. Where there is more than one, none is called the cause."""
    reasons = list(_reasons(machine, probe))
    return warned(
        title,
        *evidence,
        cause=reasons[0].cause if len(reasons) == 1 else None,
        detail=" ".join(reason.text for reason in reasons) or "Nothing that was read of this machine explains it.",
        fixes=[reason.fix for reason in reasons if reason.fix is not None],
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


@dataclass(frozen=True, slots=True)
class _Reason:
    """A fact of this machine that would make it slow."""

    text: str
    cause: str | None = None
    fix: Fix | None = None


def _reasons(machine: Machine, probe: Probe) -> Iterator[_Reason]:
    """Each is a fact that was read, none a guess."""
    if machine.gpus.override is not None:
        yield _Reason(f"HSA_OVERRIDE_GFX_VERSION={machine.gpus.override} is in force: code of another GPU runs.")
    gpu = _gpu(machine, probe)
    health = machine.health.of(gpu) if gpu is not None else None
    if health is not None:
        yield from map(_Reason, _of_card(health))
    if machine.health.users:
        named = ", ".join(f"{user.name or '?'} ({user.pid})" for user in machine.health.users[:4])
        more = f" and {len(machine.health.users) - 4} more" if len(machine.health.users) > 4 else ""
        yield _Reason(f"Other processes had GPUs of this machine open: {named}{more}.")
    value = machine.variable(AUTOTUNE)
    kept = machine.flash_attention.tuned_for if machine.flash_attention is not None else ()
    if (value or "").strip().lower() not in _ON and (gpu is None or gpu.gfx not in kept):
        title = f"Search the best tiles for this GPU once ({AUTOTUNE})"
        fix = set_variable(machine, AUTOTUNE, "TRUE", title, proof="SPD101")
        yield _Reason(f"{AUTOTUNE} is not TRUE: tiles are those that come with the kernels.", "slow-no-autotune", fix)


def _of_card(health: CardHealth) -> Iterator[str]:
    if health.power_cap and health.power_cap_default and health.power_cap < 0.95 * health.power_cap_default:
        yield f"The power is capped at {health.power_cap:.0f} W of {health.power_cap_default:.0f}."
    if health.performance_level not in (None, "auto", "high"):
        yield f"The performance level is {health.performance_level}."
    hot, limit = health.temperature, health.temperature_critical
    if hot and limit and hot > limit - 5:
        yield f"The card is at {hot:.0f} C; it slows down near {limit:.0f}."
    link = health.link
    if link is not None and link.width and link.max_width and link.width < link.max_width:
        yield f"The PCI Express link runs {link.width} of {link.max_width} lanes ({link.at})."
    if link is not None and link.speed and link.max_speed and link.speed < 0.6 * link.max_speed:
        yield f"The PCI Express link runs at {link.speed:g} of {link.max_speed:g} GT/s ({link.at})."
