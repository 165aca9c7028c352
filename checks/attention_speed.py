"""How fast attention may run: whether its kernels search for their best configuration, and what SDPA falls back to."""

from __future__ import annotations

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Verdict, failed, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import install_kernels, set_variable, unset_variable
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.packages import FlashAttention
from fa_doctor.knowledge.gpus import architecture

AUTOTUNE = "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE"
EXPERIMENTAL = "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"
_ON = ("1", "true", "yes")  # what flash-attn takes for "on", in any case; it is compared in lower case
_BUNDLED = "Or use the attention kernels of fa-doctor, which search on RDNA too"


@check(
    "FAT005",
    "flash_attention.autotune",
    rests_on=("FAT003", "FAT004"),
    causes=("slow-no-autotune", "unsupported-feature"),
)
def autotune(machine: Machine) -> Verdicts:
    """The Triton attention kernels may search for their best configuration.

    Why it matters: with FLASH_ATTENTION_TRITON_AMD_AUTOTUNE off, flash-attn 2.8 runs one fixed configuration (tiles of
    64 x 64, one stage, 4 warps) whatever the GPU, head dimension and length. In flash-attn 2.8 the search knows CDNA
    only: on an RDNA card it makes the import fail.
    How to fix: export FLASH_ATTENTION_TRITON_AMD_AUTOTUNE=TRUE on CDNA and with the kernels of fa-doctor (the first
    call of each shape searches); on RDNA with flash-attn 2.8 leave it unset.
    Sources: flash_attn/flash_attn_triton_amd/utils.py and fwd_decode.py at v2.8.3; ROCm/aiter@9bab8388.
    """
    found = machine.flash_attention
    if found is None or found.kind not in ("bundled", "triton"):
        return skipped("no Triton attention kernels are installed")
    if machine.variables is None:
        return unknown("the environment variables are not known")
    targets = machine.gpus.gfx_targets
    if not targets:
        return skipped("no AMD GPU is known here")
    value = machine.variable(AUTOTUNE)
    exact = found.kind == "triton" and not found.needs_aiter
    on = (value or "").strip().lower() in (_ON if exact else (*_ON, "on"))
    evidence = Evidence(AUTOTUNE, "not set" if value is None else value)
    if found.kind == "triton" and found.needs_aiter:
        if value is None or on:
            return passed("the kernels of aiter search by default", evidence)
        return _not_tuned(machine, found, evidence)
    if found.kind == "triton" and not all(_is_cdna(gfx) for gfx in targets):
        if on:
            return failed(
                f"flash_attn {found.version} cannot be imported with {AUTOTUNE} on an RDNA GPU",
                evidence,
                *found.evidence,
                cause="unsupported-feature",
                detail="Its search knows CDNA only: ValueError: Unknown Device Type.",
                fixes=(
                    unset_variable(machine, AUTOTUNE, "Turn the search of flash_attn 2.8 off", proof="FAT005"),
                    install_kernels(machine, _BUNDLED, proof="FAT005"),
                ),
            )
        return skipped(
            f"the search of flash_attn {found.version} knows CDNA only and stays off on {' and '.join(targets)}"
        )
    if on:
        return passed(f"{AUTOTUNE} is on", evidence)
    if all(gfx in found.tuned_for for gfx in targets):
        return passed(f"what an earlier search found for {' and '.join(targets)} is kept and used", *found.evidence)
    return _not_tuned(machine, found, evidence)


def _not_tuned(machine: Machine, found: FlashAttention, evidence: Evidence) -> Verdict:
    return warned(
        f"{AUTOTUNE} is not TRUE: the attention kernels run untuned",
        evidence,
        *found.evidence[:1],
        cause="slow-no-autotune",
        detail="They work, but with configurations that were not searched for on this GPU.",
        fixes=(
            set_variable(machine, AUTOTUNE, "TRUE", "Let the kernels search once for each new shape", proof="FAT005"),
            Fix("Or search now, for the shapes that you use", ("fa-doctor tune",), proof="FAT005"),
        ),
    )


@check("FAT009", "flash_attention.sdpa", rests_on=("TOR102",), causes=("slow-fallback",))
def sdpa(machine: Machine) -> Verdicts:
    """torch's scaled_dot_product_attention has a fused kernel for this GPU and may use it.

    Why it matters: on ROCm its fused kernels come from AOTriton, and for some GPUs they count as experimental: without
    a variable the slow math path runs, with memory that grows with the square of the length.
    How to fix: export TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1 before the first attention call of the process.
    Sources: aten/src/ATen/native/transformers/hip/sdp_utils.cpp; the targets of each AOTriton release.
    """
    torch = machine.torch
    if torch is None or torch.build != "rocm":
        return skipped("no ROCm torch is installed")
    if machine.variables is None:
        return unknown("the environment variables are not known")
    used = [gpu for gpu in machine.gpus.known if gpu.visible is not False]
    targets = sorted({gpu.gfx_in_force or gpu.gfx or "" for gpu in used if not gpu.integrated or len(used) == 1} - {""})
    if not targets:
        return skipped("no AMD GPU is known here")
    states = {gfx: row.aotriton_state(torch.version) for gfx in targets if (row := architecture(gfx)) is not None}
    waiting = [gfx for gfx, state in states.items() if state == "experimental"]
    value = machine.variable(EXPERIMENTAL)
    if waiting and value != "1":
        return warned(
            f"SDPA of torch {torch.version} runs its slow math path on {' and '.join(waiting)}",
            Evidence(EXPERIMENTAL, "not set" if value is None else value),
            Evidence("AOTriton", f"kernels for {' and '.join(waiting)} are experimental in torch {torch.version}"),
            cause="slow-fallback",
            fixes=(set_variable(machine, EXPERIMENTAL, "1", "Let SDPA use its fused kernels", proof="FAT009"),),
        )
    if all(state == "none" for state in states.values()):
        return skipped(f"torch {torch.version} has no fused SDPA kernels for {' and '.join(targets)}")
    return passed(f"SDPA may use its fused kernels on {' and '.join(targets)}", *torch.evidence[:1])


def _is_cdna(gfx: str) -> bool:
    row = architecture(gfx)
    return row is not None and row.family.startswith("CDNA")
