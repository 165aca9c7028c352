"""The tables of failures: complete, well-formed, harmless, and enough to add a failure without touching code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fa_doctor.diagnosis.advice import PLACEHOLDER, fixes_for, placeholders
from fa_doctor.diagnosis.context import context_from_mapping
from fa_doctor.diagnosis.derived import derive, gfx_of_override
from fa_doctor.diagnosis.explain import Finder, explain
from fa_doctor.diagnosis.failures import Failure, Signature, knowledge, load
from fa_doctor.diagnosis.logtext import blocks_of_text
from fa_doctor.diagnosis.model import Fix, Need, Safety
from fa_doctor.diagnosis.scan import PhraseIndex

FAILURES = knowledge().failures

# Remedies that are handed around and that harm. Each is looked for in every title, command, undo and explanation.
HARMFUL = {
    "devices open to everybody": r"chmod\s+(?:-R\s+)?(?:a\+rw|0?666|0?777)",
    "a container with all rights": r"--privileged|privileged:\s*true",
    "a symlinked soname": r"\bln\s+-s\w*\b",
    "CUDA on an AMD machine": r"(?:apt|dnf|pacman|conda|pip)\b[^\n]*install[^\n]*(?:cuda-toolkit|nvidia-cuda|cudatoolkit|nvidia-driver)|install (?:the )?CUDA\b",
    "the system's Python overwritten": r"--break-system-packages|sudo\s+pip",
    "SELinux or AppArmor off": r"setenforce\s+0|apparmor=0",
    "the C library replaced by hand": r"(?:cp|mv|rm)\s[^\n]*libc\.so|dpkg -i[^\n]*libc6",
    "everything removed": r"rm\s+-rf?\s+(?:/|~|\$HOME)(?:\s|$)",
    "a script from the network run as root": r"curl[^\n|]*\|\s*(?:sudo\s+)?(?:ba)?sh",
    "a blind upgrade of everything": r"pip install -U torch(?!\s+torchvision)",
}


# Words that hold every condition on the evidence.
EVERYTHING = (
    "vllm backend flash_attn_interface head_dim fp8e4nv triton.ops kernel arguments ray /dev/shm flash attention"
    " site-packages/other site-packages/torch memory_efficient_attention flashinfer crw------- avc dkms.conf compose"
    " black -lstdc++"
)


def all_fixes() -> list[tuple[Failure, Fix]]:
    """Every fix of every failure, filled for machines of several kinds, so that every condition holds somewhere."""
    machines = [
        {},
        {"gfx": "gfx1100", "torch": "2.9.1+rocm6.4", "os": "Ubuntu 24.04", "python": "3.12", "rocm": "6.4.1"},
        {"gfx": "gfx1032", "os": "Arch Linux", "env": {"HSA_OVERRIDE_GFX_VERSION": "11.0.0"}},
        {"gfx": "gfx942", "container": "docker", "os": "Ubuntu 22.04"},
        {"gfx": "gfx90a", "container": "rootless podman"},
        {"gfx": "gfx90a", "container": "apptainer"},
        {"gfx": "gfx942", "container": "kubernetes"},
        {"gfx": "gfx1101", "wsl": True, "os": "WSL Ubuntu 24.04"},
        {"gfx": "gfx1201", "os": "Windows 11"},
        {"gpu": "Radeon 8060S", "gfx": "gfx1151", "torch": "2.13.0+rocm7.2"},
        {"gfx": "gfx906", "os": "Ubuntu guest in VMware", "kernel": "VMware"},
    ]
    found = []
    for machine in machines:
        context = context_from_mapping(machine)
        derive(context)
        for failure in FAILURES:
            for evidence in ("", EVERYTHING):
                found += [(failure, fix) for fix in fixes_for(failure, context.values(), evidence)]
    return found


def test_every_cause_of_the_taxonomy_has_a_failure(shared: Path) -> None:
    text = (shared / "cases" / "TAXONOMY.md").read_text()
    ids = {found for found in re.findall(r"^\| ([a-z0-9-]+) \|", text, re.MULTILINE) if found not in ("id", "none")}
    assert ids == set(knowledge().causes)
    assert {failure.cause for failure in FAILURES} == ids


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.id)
def test_a_failure_is_complete(failure: Failure) -> None:
    assert failure.signatures
    assert failure.sources
    assert failure.run
    assert failure.tells
    assert failure.fixes
    assert len(re.findall(r"\.(?:\s|$)", failure.explanation)) >= 2
    for signature in (*failure.signatures, *failure.support):
        if signature.pattern:
            re.compile(signature.pattern)
        if signature.excludes:
            re.compile(signature.excludes)


@pytest.mark.parametrize(("what", "pattern"), HARMFUL.items(), ids=HARMFUL)
def test_no_advice_gives_a_remedy_that_harms(what: str, pattern: str) -> None:
    for failure in FAILURES:
        texts = [failure.explanation, failure.title, failure.run or ""]
        for advice in failure.fixes:
            texts += [advice.title, *advice.commands, *(advice.undo or ())]
        for text in texts:
            assert not re.search(pattern, text, re.IGNORECASE), f"{what}: {failure.id}: {text}"


def test_the_search_for_harm_finds_it() -> None:
    examples = {
        "devices open to everybody": "sudo chmod 666 /dev/kfd",
        "a container with all rights": "docker run --privileged rocm/pytorch",
        "a symlinked soname": "sudo ln -s libamdhip64.so.6 libamdhip64.so.7",
        "CUDA on an AMD machine": "sudo apt install nvidia-cuda-toolkit",
        "the system's Python overwritten": "pip install flash-attn --break-system-packages",
        "SELinux or AppArmor off": "sudo setenforce 0",
        "the C library replaced by hand": "sudo cp libc.so.6 /lib",
        "everything removed": "rm -rf ~",
        "a script from the network run as root": "curl https://example.org/x.sh | sudo bash",
        "a blind upgrade of everything": "pip install -U torch",
    }
    assert set(examples) == set(HARMFUL)
    for what, text in examples.items():
        assert re.search(HARMFUL[what], text, re.IGNORECASE), what


def test_an_override_never_leaves_the_family_of_the_gpu() -> None:
    from fa_doctor.diagnosis.context import family_of

    for gfx in (
        "gfx906",
        "gfx90a",
        "gfx942",
        "gfx1010",
        "gfx1030",
        "gfx1031",
        "gfx1036",
        "gfx1101",
        "gfx1103",
        "gfx1151",
        "gfx1201",
    ):
        context = context_from_mapping({"gfx": gfx})
        derive(context)
        for failure in FAILURES:
            for fix in fixes_for(failure, context.values()):
                for value in re.findall(r"HSA_OVERRIDE_GFX_VERSION=([\d.]+)", "\n".join(fix.commands)):
                    faked = gfx_of_override(value)
                    assert faked is not None
                    assert family_of(faked) == family_of(gfx), (failure.id, gfx, value)


def test_no_placeholder_is_left_in_braces_and_every_condition_holds_somewhere() -> None:
    fixes = all_fixes()
    for failure, fix in fixes:
        for text in (fix.title, *fix.commands, *(fix.undo or ())):
            assert not PLACEHOLDER.search(text), (failure.id, text)
    reached = {(failure.id, fix.title.split(":")[0][:30]) for failure, fix in fixes}
    for failure in FAILURES:
        for advice in failure.fixes:
            if "{" not in advice.title:
                assert (failure.id, advice.title.split(":")[0][:30]) in reached, (failure.id, advice.title)


def test_only_fixes_that_can_be_taken_back_are_automatic_and_root_is_never_among_them() -> None:
    automatic = [(failure, fix) for failure, fix in all_fixes() if fix.automatic]
    assert {failure.id for failure, _ in automatic} == {"flash-attn-triton-not-selected", "unfused-attention"}
    for failure, fix in automatic:
        assert fix.undo, failure.id
        assert fix.needs is None, failure.id
    for failure, fix in all_fixes():
        if any(re.search(r"\bsudo\b", command) for command in fix.commands):
            assert fix.needs in (Need.ROOT, Need.REBOOT) or fix.safety is Safety.DISPLAY, failure.id
            assert not fix.automatic


def test_placeholders_follow_from_the_facts() -> None:
    context = context_from_mapping({"gfx": "gfx1032", "torch": "2.6.0+rocm6.2.4", "python": "3.11"})
    derive(context)
    known = placeholders(context.values())
    assert known["override"] == "10.3.0"
    assert known["triton_requirement"] == "pytorch-triton-rocm==3.2.0"
    assert known["pyver"] == "3.11"
    assert known["index"].endswith("/rocm6.3")  # the one that suits this GPU
    assert known["torch_index"].endswith("/rocm6.2.4")  # the one that torch came from
    context = context_from_mapping({"gfx": "gfx942", "torch": "2.12.0+rocm7.1"})
    derive(context)
    known = placeholders(context.values())
    assert known["torch_index"].endswith("/rocm7.1")
    assert known["triton_requirement"] == "triton-rocm==3.7.0"
    assert "override" not in known


def test_a_new_failure_is_added_by_data_alone(tmp_path: Path) -> None:
    table = tmp_path / "more.toml"
    table.write_text(
        """
        [[failure]]
        id = "warp-drive-misaligned"
        cause = "compiler-crash"
        title = "The warp drive is misaligned"
        explanation = "The drive reports an angle. Nothing that attention does changes it."
        signatures = [{ has = ["warp drive"], re = 'warp drive angle \\d+ exceeds', w = 5.0, src = "the drive" }]
        context = [{ when = "gfx_family in CDNA3", w = 1.0 }]
        next = { run = "align --show", tells = "the angle" }
        fixes = [{ title = "Align it for {gfx}", commands = ["align --gfx {gfx}"] }]
        sources = ["the drive's manual"]
        """
    )
    known = load([table])
    text = "step 4\nFATAL warp drive angle 13 exceeds its limit\n"
    found = explain(blocks_of_text(text), context_from_mapping({"gfx": "gfx942"}), known)
    assert found.confident
    assert found.confident.failure.id == "warp-drive-misaligned"
    assert found.confident.lines[0].number == 2
    (fix,) = fixes_for(found.confident.failure, found.context.values())
    assert fix.commands == ("align --gfx gfx942",)
    assert explain(blocks_of_text(text)).candidates == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("cause = 'compiler-crash'", "cause = 'bad-luck'"), "unknown cause 'bad-luck'"),
        (("title = 't'", ""), "'title' is missing"),
        (("text = 'x y'", ""), "needs `text` or `has`"),
        (("explains = []", "explains = ['bad-luck']"), "explains the unknown cause"),
        (("symptoms = {}", "symptoms = { sneezing = 1 }"), "unknown symptom 'sneezing'"),
        (("vendor = 'amd'", "vendor = 'me'"), "none of amd, any, every"),
        (("when = 'wsl'", "when = 'is it wsl'"), "not a condition"),
    ],
)
def test_a_faulty_table_is_refused_with_its_name(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    text = """
[[failure]]
id = 'one'
cause = 'compiler-crash'
vendor = 'amd'
title = 't'
explanation = 'A. B.'
signatures = [{ w = 1.0, text = 'x y' }]
symptoms = {}
explains = []
context = [{ when = 'wsl', w = 1.0 }]
"""
    table = tmp_path / "more.toml"
    assert change[0] in text
    table.write_text(text.replace(*change).replace("w = 1.0,  }", "w = 1.0 }").replace(", }", " }"))
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        load([table])
    assert "more.toml" in str(raised.value) or "one" in str(raised.value)


def test_heavy_signatures_come_from_the_software() -> None:
    signatures: list[Signature] = [each for failure in FAILURES for each in failure.signatures]
    assert len([each for each in signatures if each.source]) >= 0.55 * len(signatures)
    unfounded = [each.phrases[0] for each in signatures if each.weight > 4.2 and not each.source]
    assert not unfounded


def test_what_only_one_case_says_comes_from_the_software_or_stands_in_several_threads(shared: Path) -> None:
    cases = [json.loads(path.read_text()) for path in sorted((shared / "cases").glob("*.json"))]
    owners: dict[tuple[str, int], set[str]] = {}
    for case in cases:
        index = PhraseIndex(knowledge().phrases())
        lines = context_from_mapping(case["environment"]).lines
        for block in blocks_of_text("\n".join([case["text"], *lines])):
            index.scan(block)
        finder = Finder(index.hits())
        for failure in FAILURES:
            for position, signature in enumerate(failure.signatures):
                if signature.source is None and finder.lines(signature):
                    owners.setdefault((failure.id, position), set()).add(case["id"])
    by_id = {failure.id: failure for failure in FAILURES}
    for (failure_id, position), ids in owners.items():
        signature = by_id[failure_id].signatures[position]
        assert len(ids) > 1 or len(signature.seen) >= 2, (failure_id, signature.phrases[0], ids)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_every_command_is_valid_for_a_shell() -> None:
    commands = {command for _, fix in all_fixes() for command in (*fix.commands, *(fix.undo or ()))}
    typed = [
        each for each in commands if not each.startswith(("RUN ", "set ", "for /f ", ".venv\\"))
    ]  # Dockerfile and Windows
    assert len(typed) > 200
    # What stands in angle brackets is for the reader to fill in.
    script = "\n".join(f"f() {{\n{re.sub(r'<[^<>=]*[a-zA-Z]>', 'x', each)}\n:\n}}" for each in typed)
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=60)
    assert not checked.stderr
