"""Fills the fixes of a failure for the machine at hand: chooses those whose conditions hold, and fills placeholders.

A placeholder in braces is replaced by a fact or by what follows from one: `{python}`, `{index}` (the wheel index that
suits the GPU), `{torch_index}` (that of the ROCm torch was built for), `{gfx}`, `{override}` (what makes the code of a
sibling of the same family run on this GPU), `{triton_requirement}` (the Triton that the installed torch asks for).
What is not known stays visible in angle brackets, for the reader to fill in.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from fa_doctor.diagnosis.actions import SetVariable
from fa_doctor.diagnosis.conditions import FactValue, holds
from fa_doctor.diagnosis.failures import Advice, Failure
from fa_doctor.diagnosis.model import Fix, Need, Safety
from fa_doctor.knowledge.gpus import architecture, version_key
from fa_doctor.knowledge.stacks import Stack, recommendation_for, recommendations, stacks
from fa_doctor.knowledge.tables import load

__all__ = ["fill", "fixes_for", "placeholders", "question"]

# The recommendation whose index is named where nothing is known of the GPU: the newest for most of them.
ANY_GPU = "cdna"
PLACEHOLDER = re.compile(r"\{(\w+)\}")
# What only a Linux shell or a Linux system understands.
LINUX_ONLY = re.compile(
    r"\b(?:sudo|docker|podman)\b|/opt/|/dev/|/proc/|~/|/tmp/|manylinux|\*\.whl|\$\(|\$\w|2>|\| (?:grep|head|tail)\b"
    r"|^(?:RUN|ls|df|mv|mkdir|id|env) "
)
SWAPPED_QUOTES = str.maketrans("'\"", "\"'")
ASSIGNMENT = re.compile(r"""([A-Z][A-Z0-9_]*)=('[^']*'|"[^"]*"|\S*)\s*""")


def fixes_for(failure: Failure, facts: Mapping[str, FactValue], evidence: str = "") -> tuple[Fix, ...]:
    """The fixes of a failure that apply to the machine of these facts, filled in, best first.

    The conditions of a fix may ask, besides for facts, for `evidence` (the lines that prove the failure), for
    `family_index` (there is an index of AMD for this GPU) and for `sibling` (an override within the family exists).
    """
    known = placeholders(facts)
    asked = {**facts, **({"evidence": evidence} if evidence else {})}
    asked |= {
        name: known[key] for name, key in (("family_index", "family_index"), ("sibling", "override")) if key in known
    }
    chosen = [advice for advice in failure.fixes if holds(advice.conditions, asked)]
    # Advice for exactly this machine goes before advice for any.
    chosen.sort(key=lambda advice: not advice.conditions)
    if facts.get("place") != "windows":
        return tuple(fix_of(advice, known) for advice in chosen)
    return for_windows(chosen, known)


def for_windows(chosen: Iterable[Advice], known: Mapping[str, str]) -> tuple[Fix, ...]:
    """The advice as a Windows command line takes it, without what only Linux understands.

    Where all of it is for Linux, the titles remain: they say what is to be done, if not how.
    """
    fixes = [(fix_of(advice, known), asks_for_windows(advice)) for advice in chosen]
    ours = []
    for fix, written_for_windows in fixes:
        commands = fix.commands if written_for_windows else typed_on_windows(fix.commands)
        if commands is not None and fix.needs is not Need.ROOT:
            ours.append(replace(fix, commands=commands, undo=typed_on_windows(fix.undo or ()) or None))
    return tuple(ours) or tuple(replace(fix, commands=(), undo=None, needs=None) for fix, _ in fixes)


def asks_for_windows(advice: Advice) -> bool:
    return any(
        condition.fact == "windows" or (condition.fact == "place" and condition.value == "windows")
        for condition in advice.conditions
        if not condition.negated
    )


def typed_on_windows(commands: Iterable[str]) -> tuple[str, ...] | None:
    """The commands for cmd.exe, or None where one of them has no counterpart there."""
    typed: list[str] = []
    for command in commands:
        command, _, comment = command.partition("    # ")
        if LINUX_ONLY.search(command):
            return None
        if command.startswith("unset "):
            lines = [f"set {name}=" for name in command.split()[1:]]
        else:
            lines = []
            rest = command.removeprefix("export ")
            while found := ASSIGNMENT.match(rest):
                value = found.group(2).strip("'\"")
                lines.append(f"set {found.group(1)}={value}")
                rest = rest[found.end() :]
            # Only double quotes quote there; what stood in them inside takes the others.
            lines += [rest.translate(SWAPPED_QUOTES) if "'" in rest else rest] if rest else []
        # A comment behind a command would become part of it.
        typed += [*lines, f"rem {comment}"] if comment else lines
    return tuple(typed)


def question(run: str, facts: Mapping[str, FactValue]) -> str | None:
    """A command that decides between causes, filled in for the machine of these facts; None where it cannot be typed."""
    command = fill(run, placeholders(facts))
    if facts.get("place") != "windows":
        return command
    typed = typed_on_windows([command])
    return " & ".join(typed) if typed else None


def fix_of(advice: Advice, known: Mapping[str, str]) -> Fix:
    action = None
    if advice.variable:
        name, value = advice.variable
        action = SetVariable(name, value or None)
    return Fix(
        title=fill(advice.title, known),
        commands=tuple(fill(command, known) for command in advice.commands),
        undo=tuple(fill(command, known) for command in advice.undo) if advice.undo is not None else None,
        needs=Need(advice.needs) if advice.needs else None,
        safety=Safety(advice.safety),
        action=action,
    )


def fill(text: str, known: Mapping[str, str]) -> str:
    """Replaces the placeholders; one that is not known becomes `<name>`."""
    return PLACEHOLDER.sub(lambda found: known.get(found.group(1), f"<{found.group(1).replace('_', '-')}>"), text)


def placeholders(facts: Mapping[str, FactValue]) -> dict[str, str]:
    """What the placeholders stand for on the machine of these facts."""
    gfx = first(facts.get("gfx"))
    known = {
        "python": "python",
        "library": "libamdhip64.so",
        "index": index_for(gfx, version_of(facts.get("torch_rocm"))),
    }
    if gfx:
        known["gfx"] = gfx
        families: Mapping[str, str] = load("log_advice")["family_index"]
        ours = next((name for prefix, name in families.items() if gfx.startswith(prefix)), None)
        if ours:
            known["family_index"] = ours
        row = architecture(gfx)
        if row and row.override:
            known["override"] = row.override.value
    stack = stack_of_release(version_of(facts.get("torch")))
    known["triton_pin"] = stack.triton_version if stack else "the release that `pip show torch` names"
    known["triton_requirement"] = (
        f"{stack.triton}=={stack.triton_version}" if stack else "<the triton that `pip show torch` requires>"
    )
    rocm, wheel = version_of(facts.get("rocm")), version_of(facts.get("torch_rocm"))
    known["torch_index"] = index_for(None, wheel) if wheel else known["index"]
    known["system_index"] = index_for(None, rocm) if rocm else known["index"]
    if facts.get("place") == "windows":
        # pytorch.org has ROCm wheels for Linux only.
        family = known.get("family_index", "<family-index>")
        for name in ("index", "torch_index", "system_index"):
            known[name] = f"https://repo.amd.com/rocm/whl/{family}/"
    known["torch_release"] = version_of(facts.get("torch")) or "<torch-release>"
    known["rocm_release"] = rocm or wheel or "<rocm-release>"
    known["torch_rocm_full"] = wheel or "<torch's ROCm>"
    python = version_of(facts.get("python")) or platform.python_version()
    known["pyver"] = ".".join(python.split(".")[:2])
    known["pynodot"] = known["pyver"].replace(".", "")
    return known


def index_for(gfx: str | None, rocm: str) -> str:
    """The wheel index that suits the GPU best; for an unknown GPU that of this ROCm version, else the newest for most."""
    known = stacks()
    advised = recommendation_for(gfx) if gfx else None
    if advised and known[advised.stack].url:
        return str(known[advised.stack].url)
    listed = [stack for stack in known.values() if stack.index == "pytorch" and stack.rocm and stack.url]
    fitting = [stack for stack in listed if rocm == stack.rocm or rocm.startswith(f"{stack.rocm}.")]
    if fitting:
        return str(max(fitting, key=lambda stack: len(stack.rocm or "")).url)
    return str(known[recommendations()[ANY_GPU].stack].url)


def stack_of_release(torch: str) -> Stack | None:
    """A ROCm stack with this release of torch, or with one of the same minor version; None for one that is unknown."""
    wanted = version_key(torch) if torch else ()
    rocm = [stack for stack in stacks().values() if stack.rocm]
    return next(
        (stack for stack in rocm if version_key(stack.torch) == wanted),
        next((stack for stack in reversed(rocm) if wanted and version_key(stack.torch)[:2] == wanted[:2]), None),
    )


def first(value: FactValue | None) -> str | None:
    if isinstance(value, tuple):
        return value[0] if value else None
    return str(value) if value is not None else None


def version_of(value: FactValue | None) -> str:
    found = re.search(r"\d+(?:\.\d+)+", str(value)) if value is not None else None
    return found.group() if found else ""
