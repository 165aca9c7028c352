"""flash_attn and aiter in the target Python: there, built for this torch, on the right backend, and tuned."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fa_doctor.diagnosis.check import Verdicts, check
from fa_doctor.diagnosis.model import Evidence, Fix, Safety, failed, passed, skipped, unknown, warned
from fa_doctor.diagnosis.remedies import install_kernels, install_line, replace_packages, set_variable, uninstall_line
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.packages import FlashAttention
from fa_doctor.knowledge.gpus import architecture, version_key
from fa_doctor.knowledge.stacks import recommendation_for

ENABLE = "FLASH_ATTENTION_TRITON_AMD_ENABLE"
AUTOTUNE = "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE"
_BUNDLED = "Or use the attention kernels of fa-doctor, which need no build and no variable"


@check("FAT001", "flash_attention.installed", rests_on=("TOR101",), causes=("flash-attn-missing",))
def installed(machine: Machine) -> Verdicts:
    """flash_attn is installed.

    Why it matters: programs that import flash_attn stop without it, and those that ask whether it is there fall back
    to a slower path. A plain `pip install flash-attn` wants nvcc, or starts a long build.
    How to fix: `fa-doctor install` builds and installs a flash_attn from its own Triton kernels: no C++ is compiled.
    Sources: Dao-AILab/flash-attention README.
    """
    torch = machine.torch
    if torch is None or torch.build != "rocm":
        return skipped("no ROCm torch is installed")
    found = machine.flash_attention
    if found is not None:
        return passed(
            f"flash_attn {found.version} ({_KINDS.get(found.kind or '', 'of unknown build')})", *found.evidence
        )
    if machine.python.distributions is None:
        return unknown("the packages of the target Python are not known")
    targets = machine.gpus.gfx_targets
    choices = [recommendation_for(gfx) for gfx in targets]
    if targets and all(choice is not None and choice.attention == "none" for choice in choices):
        advice = next((choice.advice for choice in choices if choice and choice.advice), "")
        return skipped(f"for {' and '.join(targets)} no attention kernels are worth installing: {advice}")
    wishes = list(_wishes(machine))
    fixes = (
        install_kernels(
            machine, "Install the attention kernels of fa-doctor as flash_attn", replace=False, proof="FAT001"
        ),
    )
    where = Evidence(", ".join(machine.python.search_path) or "the target Python", "no flash_attn there")
    if wishes:
        return failed(
            "flash_attn is not installed, but something here asks for it",
            where,
            *wishes,
            cause="flash-attn-missing",
            fixes=fixes,
        )
    return warned(
        "flash_attn is not installed",
        where,
        cause="flash-attn-missing",
        detail="Programs that import it stop; torch's own scaled_dot_product_attention works without it.",
        fixes=fixes,
    )


def _wishes(machine: Machine) -> Iterator[Evidence]:
    """What says that flash_attn is wanted: its variables are set, or an installed package requires it."""
    for name in (ENABLE, AUTOTUNE):
        value = machine.variable(name)
        if value:
            yield Evidence(name, value)
    for companion in machine.companions:
        for wanted in companion.distribution.requires if companion.distribution else ():
            if re.match(r"flash[-_.]attn(?![\w.-])", wanted) and "extra" not in wanted:
                yield Evidence(companion.name, f"Requires-Dist: {wanted}")


@check("FAT002", "flash_attention.extension", rests_on=("FAT001",), causes=("flash-attn-abi-mismatch",))
def extension(machine: Machine) -> Verdicts:
    """The compiled part of flash_attn was built for the installed torch.

    Why it matters: flash_attn_2_cuda is linked against one torch, one HIP release and one Python. With another it
    stops at import with "undefined symbol", or libc10_cuda.so or libamdhip64.so.N is not found.
    How to fix: remove it and build against the torch that is there (no build isolation), or use kernels in Triton,
    which have no compiled part.
    Sources: DT_NEEDED of the extension; the wheel names of flash-attn (torch and ROCm release in the local version).
    """
    found, torch = machine.flash_attention, machine.torch
    if found is None or torch is None:
        return skipped("no flash_attn is installed")
    if found.extension is None:
        return skipped(f"flash_attn {found.version} has no compiled part")
    evidence = [*found.evidence, *torch.evidence[:1]]
    reasons = list(_extension_misfits(machine, found))
    if not reasons:
        return passed(f"the compiled part of flash_attn {found.version} fits torch {torch.version}", *evidence)
    return failed(
        f"flash_attn {found.version} was built for another torch: {reasons[0]}",
        *evidence,
        cause="flash-attn-abi-mismatch",
        detail=" ".join(f"{reason[0].upper()}{reason[1:]}." for reason in reasons[1:]),
        fixes=(
            _rebuild(machine, found),
            install_kernels(machine, _BUNDLED, proof="FAT002"),
        ),
    )


def _extension_misfits(machine: Machine, found: FlashAttention) -> Iterator[str]:
    torch, built = machine.torch, found.extension
    assert torch is not None
    assert built is not None
    if built.build == "cuda":
        libraries = [name for name in built.needed if "cuda" in name or name.startswith("libcu")]
        yield f"it is a CUDA build (needs {', '.join(libraries[:3])})"
    label = f"{found.version} {found.distribution.direct_url or '' if found.distribution else ''}"
    for_torch = re.search(r"torch(\d+\.\d+)", label)
    release = re.match(r"\d+\.\d+", torch.version)
    if for_torch and release and for_torch[1] != release[0]:
        yield f"its name says torch {for_torch[1]}, installed is {torch.version}"
    hip = next((name for name in built.needed if name.startswith("libamdhip64.so.")), None)
    major = re.match(r"\d+", torch.rocm or "")
    if hip and major and hip.rpartition(".")[2].isdigit() and hip.rpartition(".")[2] != major[0]:
        yield f"it needs {hip}, torch is built for ROCm {torch.rocm}"
    python = re.match(r"(\d+)\.(\d+)", machine.python.version or "")
    if built.python and python and built.python.rstrip("t") != f"{python[1]}{python[2]}":
        yield f"its file name says CPython {built.python[0]}.{built.python[1:]}, the target is {machine.python.version}"


@check("FAT003", "flash_attention.backend-flag", rests_on=("FAT002",), causes=("backend-flag-missing-at-run",))
def backend_flag(machine: Machine) -> Verdicts:
    """flash_attn takes its Triton backend at run time.

    Why it matters: flash-attn up to 2.8.3 asks FLASH_ATTENTION_TRITON_AMD_ENABLE again at each import, and only the
    exact text TRUE counts. With "1", "true" or nothing it imports flash_attn_2_cuda, which such an installation does
    not have. Newer ones fall back to Triton by themselves.
    How to fix: export FLASH_ATTENTION_TRITON_AMD_ENABLE=TRUE for every process that imports flash_attn: shells,
    services, notebooks, containers.
    Sources: flash_attn/flash_attn_interface.py at v2.8.3 and on main (commit 0f82fead).
    """
    found = machine.flash_attention
    if found is None:
        return skipped("no flash_attn is installed")
    if found.kind != "triton" or not found.needs_flag:
        return skipped(f"flash_attn {found.version} needs no such variable")
    if machine.variables is None:
        return unknown("the environment variables are not known")
    value = machine.variable(ENABLE)
    if value == "TRUE":
        return passed(f"{ENABLE} is TRUE", Evidence(ENABLE, value))
    said = "is not set" if value is None else f'is "{value}", and only the exact text TRUE counts'
    return failed(
        f"{ENABLE} {said}",
        *found.evidence,
        Evidence(ENABLE, "not set" if value is None else value),
        cause="backend-flag-missing-at-run",
        detail="flash_attn will stop at import: No module named 'flash_attn_2_cuda'.",
        fixes=(set_variable(machine, ENABLE, "TRUE", "Select the Triton backend of flash_attn", proof="FAT003"),),
    )


@check("FAT004", "flash_attention.triton-release", rests_on=("FAT001", "TRI003"), causes=("triton-version-mismatch",))
def triton_release(machine: Machine) -> Verdicts:
    """The installed Triton can import the Triton kernels of the installed flash_attn.

    Why it matters: Triton 3.9 rejects autotune keys that are not arguments of the kernel. Those of flash-attn 2.8.0 to
    2.8.3.post2, and of aiter before September 2026, have such keys: the import ends with a ValueError.
    How to fix: stay at torch 2.14 (Triton 3.8) or older, or use kernels that Triton 3.9 accepts.
    Sources: triton-lang/triton PR 11602; ROCm/aiter PR 5372; both imports tried without a GPU.
    """
    found, triton = machine.flash_attention, machine.triton
    if found is None or triton is None or triton.version is None:
        return skipped("flash_attn or Triton is not installed")
    if found.kind != "triton":
        return skipped(f"flash_attn {found.version} does not use its Triton backend")
    if version_key(triton.version) < (3, 9):
        return passed(f"Triton {triton.version} imports the kernels of flash_attn {found.version}", *triton.evidence)
    evidence = (*found.evidence, *triton.evidence)
    stay = Fix(
        "Or go back to torch 2.14.1 or older with the Triton that it requires",
        ("fa-doctor install",),
        safety=Safety.UNSAFE,
        proof="FAT004",
    )
    if found.needs_aiter:
        return warned(
            f"aiter from before September 2026 cannot be imported with Triton {triton.version}",
            *evidence,
            cause="triton-version-mismatch",
            detail="Which state of aiter is installed cannot be told from its version.",
        )
    if version_key(found.version) < (2, 8):
        return passed(f"Triton {triton.version} imports the kernels of flash_attn {found.version}", *triton.evidence)
    return failed(
        f"flash_attn {found.version} cannot be imported with Triton {triton.version}",
        *evidence,
        cause="triton-version-mismatch",
        detail="ValueError: key contains names that are not kernel arguments.",
        fixes=(install_kernels(machine, _BUNDLED, proof="FAT004"), stay),
    )


@check("FAT006", "flash_attention.aiter", rests_on=("FAT001",), causes=("aiter-missing-or-broken",))
def aiter(machine: Machine) -> Verdicts:
    """aiter is there if flash_attn's kernels are its kernels, and knows this GPU.

    Why it matters: since March 2026 flash-attn takes its Triton kernels for AMD from the package aiter ("No module
    named 'aiter'" without it); and an aiter whose table of architectures lacks a GPU stops at import with a KeyError.
    How to fix: install the aiter that flash-attn's source tree names (third_party/aiter), with AITER_TRITON_ONLY=1 and
    AITER_USE_SYSTEM_TRITON=1 so that it neither probes the machine nor replaces Triton; on a GPU that it does not know,
    do without it.
    Sources: Dao-AILab/flash-attention commit 3f94643f; ROCm/aiter aiter/jit/utils/chip_info.py.
    """
    found, have = machine.flash_attention, machine.aiter
    needed = bool(found and found.kind == "triton" and found.needs_aiter)
    if needed and found is not None and (have is None or have.has_flash_attention is False):
        title = "flash_attn takes its kernels from aiter, which is not installed"
        if have is not None:
            title = f"the installed aiter {have.version} has no attention kernels for flash_attn {found.version}"
        return failed(
            title,
            *found.evidence,
            *(have.evidence if have else (Evidence(", ".join(machine.python.search_path), "no aiter there"),)),
            cause="aiter-missing-or-broken",
            fixes=(
                Fix(
                    "Build flash_attn from its source tree again, with its aiter and the Triton that is there",
                    (
                        "git submodule update --init third_party/aiter   # in the tree of flash-attention",
                        "AITER_TRITON_ONLY=1 AITER_USE_SYSTEM_TRITON=1 ENABLE_CK=0 "
                        + install_line(machine, ("./third_party/aiter",), None, "--no-build-isolation", "--no-deps"),
                    ),
                    proof="FAT006",
                ),
                install_kernels(machine, _BUNDLED, proof="FAT006"),
            ),
        )
    if have is None:
        return skipped("aiter is not installed, and nothing here needs it")
    missing = [gfx for gfx in machine.gpus.gfx_targets if have.known_gfx is not None and gfx not in have.known_gfx]
    if not missing:
        return passed(f"aiter {have.version}", *have.evidence)
    verdict = failed if needed else warned
    return verdict(
        f"aiter {have.version} does not know {' and '.join(missing)}: it stops at import",
        *have.evidence,
        cause="aiter-missing-or-broken",
        detail="A program that imports it whenever it is installed (vLLM, SGLang) stops with it.",
        fixes=(
            Fix("Keep programs from importing it", ("export VLLM_ROCM_USE_AITER=0",), proof="FAT006"),
            replace_packages(
                machine,
                "Remove aiter, or install a release that names this GPU",
                remove=tuple(d.name for d in machine.python.find("aiter", "amd-aiter")),
                safety=Safety.UNSAFE,
                proof="FAT006",
            ),
        ),
    )


@check(
    "FAT007",
    "flash_attention.ignored-arguments",
    rests_on=("FAT003", "FAT004", "FAT005", "FAT008"),
    causes=("unsupported-feature",),
)
def ignored_arguments(machine: Machine) -> Verdicts:
    """No argument of flash_attn is ignored without a word.

    Why it matters: flash-attn 2.7 and 2.8 on AMD accept softcap, and their Triton backend also window_size and
    block_table, and compute as if they had not been given: wrong numbers, no error. Models with a softcap (Gemma 2) or
    a sliding window (Mistral) are concerned.
    How to fix: use kernels that honour them, as those of fa-doctor do, or another attention for such models.
    Sources: flash_attn_triton_amd/interface_fa.py at v2.8.3; csrc/flash_attn_ck, where softcap has no name.
    """
    found = machine.flash_attention
    if found is None:
        return skipped("no flash_attn is installed")
    if found.kind == "bundled":
        return passed("the kernels of fa-doctor honour softcap, window_size and block_table", *found.evidence[:1])
    if found.kind == "ck":
        ignored = "softcap"
    elif found.kind == "triton" and not found.needs_aiter:
        ignored = "softcap, window_size and block_table"
    else:
        return skipped(f"nothing of the kind is known of flash_attn {found.version} as it is installed")
    return warned(
        f"flash_attn {found.version} ({_KINDS[found.kind]}) ignores {ignored} without an error",
        *found.evidence,
        cause="unsupported-feature",
        detail="Only models that use these are concerned: their results are wrong.",
        fixes=(install_kernels(machine, _BUNDLED, proof="FAT007"),),
    )


@check("FAT008", "flash_attention.compiles", rests_on=("FAT003", "FAT004"), causes=("compiler-crash",))
def compiles(machine: Machine) -> Verdicts:
    """The Triton kernels of flash_attn compile for this GPU.

    Why it matters: for gfx906 the AMD backend of Triton up to 3.7.1 stops at flash-attn's kernels with
    "PassManager::run failed"; no setting changes that.
    How to fix: use scaled_dot_product_attention of torch, whose math path works on that GPU.
    Sources: the kernels of flash-attn 2.8.3 compiled without a GPU by Triton 3.2.0 to 3.8.0.
    """
    found, triton = machine.flash_attention, machine.triton
    if found is None or found.kind != "triton" or triton is None or triton.version is None:
        return skipped("flash_attn does not use its Triton backend")
    for gfx in machine.gpus.gfx_targets:
        row = architecture(gfx)
        limit = row.flash_attn_triton_fails_to if row else None
        if row and limit and version_key(triton.version) <= version_key(limit):
            return failed(
                f"the kernels of flash_attn do not compile for {gfx} with Triton {triton.version}",
                *found.evidence[:1],
                *triton.evidence[:1],
                cause="compiler-crash",
                detail=f"{row.flash_attn_triton_note}.",
                fixes=(
                    Fix('Use SDPA in the program (transformers: attn_implementation="sdpa")', proof="FAT008"),
                    Fix(
                        "Then remove flash_attn, so that programs do not choose it",
                        (uninstall_line(machine, ("flash-attn",)),),
                        safety=Safety.UNSAFE,
                        proof="FAT008",
                    ),
                ),
            )
    return passed("nothing is known against compiling its kernels for this GPU", *triton.evidence[:1])


_KINDS = {
    "bundled": "the kernels of fa-doctor",
    "ck": "Composable Kernel",
    "cuda": "a CUDA build",
    "triton": "its Triton backend",
}


def _rebuild(machine: Machine, found: FlashAttention) -> Fix:
    release = re.match(r"\d+(\.\d+)*(\.post\d+)?", found.version)
    wanted = f"flash-attn=={release[0] if release else '2.8.3'}"
    options = ("--no-build-isolation", "--no-deps", "--no-binary", "flash-attn")
    return Fix(
        "Build flash_attn against the installed torch, for its Triton backend",
        (uninstall_line(machine, ("flash-attn",)), f"{ENABLE}=TRUE {install_line(machine, (wanted,), None, *options)}"),
        safety=Safety.UNSAFE,
        proof="FAT002",
    )
