"""Environment variables that are set to no good: left over from debugging, misspelt, or contradicting each other."""

from __future__ import annotations

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, failed, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import set_variable, unset_variable
from fa_doctor.facts.machine import Machine
from fa_doctor.knowledge.switches import switches
from fa_doctor.knowledge.variables import variable

# Variables whose values other checks judge with more knowledge than a list of valid values.
_JUDGED_ELSEWHERE = frozenset(
    {
        "CUDA_VISIBLE_DEVICES",
        "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE",
        "FLASH_ATTENTION_TRITON_AMD_ENABLE",
        "GPU_DEVICE_ORDINAL",
        "HIP_VISIBLE_DEVICES",
        "HSA_OVERRIDE_GFX_VERSION",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "ROCR_VISIBLE_DEVICES",
        "TRITON_HIP_LLD_PATH",
        "TRITON_LIBHIP_PATH",
    }
)


@check("VAR001", "variables.debugging")
def debugging(machine: Machine) -> Verdicts:
    """No switch for finding faults is left on.

    Why it matters: these make everything slow or different, and nothing says so.
    How to fix: unset them when the fault is found.
    Sources: knowledge/switches.toml, with the source of each.
    """
    if machine.variables is None:
        return unknown("the environment variables are not known")
    verdicts = []
    for switch in switches():
        value = machine.variables.get(switch.name, "")
        if switch.is_on(value):
            verdicts.append(
                warned(
                    f"{switch.name}={value} is on: {switch.effect}",
                    Evidence(switch.name, value),
                    Evidence("source", switch.sources[0]),
                    fixes=(unset_variable(machine, switch.name, f"Turn {switch.name} off", proof="VAR001"),),
                )
            )
    return verdicts or passed("no switch for finding faults is on")


@check("VAR002", "variables.compute-unit-mask")
def compute_unit_mask(machine: Machine) -> Verdicts:
    """No mask takes compute units away from this process.

    Why it matters: HSA_CU_MASK and ROC_GLOBAL_CU_MASK let kernels use a part of the GPU only, without any message.
    How to fix: unset them, unless the GPU is shared on purpose.
    Sources: ROCr's and CLR's sources.
    """
    if machine.variables is None:
        return unknown("the environment variables are not known")
    found = [name for name in ("HSA_CU_MASK", "ROC_GLOBAL_CU_MASK") if machine.variables.get(name)]
    return [
        warned(
            f"{name} takes compute units away",
            Evidence(name, machine.variables[name]),
            fixes=(unset_variable(machine, name, f"Use the whole GPU: unset {name}", proof="VAR002"),),
        )
        for name in found
    ] or passed("all compute units are in use")


@check("VAR003", "variables.triton-arch", causes=("gpu-arch-unsupported",))
def triton_arch(machine: Machine) -> Verdicts:
    """TRITON_OVERRIDE_ARCH does not make Triton compile for another GPU.

    Why it matters: it is meant for compiling without a GPU. Left on, each kernel ends with "invalid device function".
    How to fix: unset it where kernels run.
    Sources: triton/knobs.py of Triton 3.3 and later.
    """
    if machine.variables is None:
        return unknown("the environment variables are not known")
    value = machine.variables.get("TRITON_OVERRIDE_ARCH")
    if not value:
        return skipped("TRITON_OVERRIDE_ARCH is not set")
    devices = {gpu.gfx_in_force or gpu.gfx for gpu in machine.gpus.known if gpu.visible is not False} - {None}
    evidence = Evidence("TRITON_OVERRIDE_ARCH", value)
    if not devices:
        return skipped("no AMD GPU is known here")
    if value in devices:
        return passed(f"TRITON_OVERRIDE_ARCH names the GPU that is there ({value})", evidence)
    return failed(
        f"TRITON_OVERRIDE_ARCH={value}, but the GPU is {' and '.join(sorted(map(str, devices)))}",
        evidence,
        cause="gpu-arch-unsupported",
        fixes=(unset_variable(machine, "TRITON_OVERRIDE_ARCH", "Compile for the GPU that is there", proof="VAR003"),),
    )


@check("VAR004", "variables.platform", causes=("backend-flag-missing-at-build",))
def platform(machine: Machine) -> Verdicts:
    """HIP_PLATFORM does not name NVIDIA's compiler.

    Why it matters: with HIP_PLATFORM=nvidia hipcc hands everything to nvcc, so that no extension can be built here.
    How to fix: unset it; "amd" is what is detected.
    Sources: HIP's environment variables.
    """
    if machine.variables is None:
        return unknown("the environment variables are not known")
    value = machine.variables.get("HIP_PLATFORM")
    if value is None or value == "amd":
        return passed("HIP_PLATFORM is amd, or not set")
    return warned(
        f"HIP_PLATFORM={value}: extensions cannot be built for this GPU",
        Evidence("HIP_PLATFORM", value),
        cause="backend-flag-missing-at-build",
        fixes=(unset_variable(machine, "HIP_PLATFORM", "Let hipcc detect the platform", proof="VAR004"),),
    )


@check("VAR005", "variables.values")
def values(machine: Machine) -> Verdicts:
    """Variables hold values that their readers understand.

    Why it matters: most readers compare with one spelling and take anything else for "off", without a word.
    How to fix: use one of the values named.
    Sources: knowledge/variables.toml, with the source of each.
    """
    if machine.variables is None:
        return unknown("the environment variables are not known")
    verdicts = []
    for name, value in sorted(machine.variables.items()):
        if not value or name in _JUDGED_ELSEWHERE:
            continue
        known = variable(name)
        if known is None or known.accepts(value) is not False:
            continue
        verdicts.append(
            warned(
                f"{name}={value} is not a value that it understands",
                Evidence(name, value),
                detail=f"{known.meaning[0].upper()}{known.meaning[1:]}. Valid: {known.valid or ', '.join(known.values or ())}.",
            )
        )
    enable = machine.variables.get("FLASH_ATTENTION_TRITON_AMD_ENABLE")
    reader = machine.flash_attention
    if enable not in (None, "", "TRUE", "FALSE") and (reader is None or not reader.needs_flag):
        verdicts.append(
            warned(
                f"FLASH_ATTENTION_TRITON_AMD_ENABLE={enable} counts as off: only the exact text TRUE turns it on",
                Evidence("FLASH_ATTENTION_TRITON_AMD_ENABLE", enable or ""),
                fixes=(
                    set_variable(machine, "FLASH_ATTENTION_TRITON_AMD_ENABLE", "TRUE", "Write it out", proof="VAR005"),
                ),
            )
        )
    return verdicts or passed("no variable holds a value that is not understood")
