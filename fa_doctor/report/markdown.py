"""The report as Markdown, to paste into an issue: the machine, what failed with its evidence, without secrets."""

from __future__ import annotations

import re

from fa_doctor.redaction import Redactor
from fa_doctor.report.document import Document

__all__ = ["render"]


def render(document: Document) -> str:
    """GitHub-flavoured Markdown. Home folders, host and user names, tokens and URLs with credentials are removed."""
    machine = document["machine"]
    out = [f"### fa-doctor {document['tool']['version']}: {document['summary']['status']}", ""]
    for label, value in _facts(machine):
        out.append(f"- **{label}**: {_inline(value)}")
    out.append("")
    for status in ("fail", "warn", "unknown"):
        for finding in document["findings"]:
            if finding["status"] == status and finding["ignored"] is None:
                out += _finding(finding)
    passed = [finding["id"] for finding in document["findings"] if finding["status"] == "pass"]
    if passed:
        out += [f"Passed: {', '.join(dict.fromkeys(passed))}", ""]
    return Redactor.of_this_process().clean("\n".join(out).rstrip() + "\n")


def _facts(machine: Document) -> list[tuple[str, str]]:
    gpus = [f"{gpu['name'] or 'AMD GPU'} ({gpu['gfx'] or 'gfx unknown'})" for gpu in machine["gpus"]]
    named = [(name, machine[name]) for name in ("torch", "triton", "flash_attn")]
    system = machine["os"]
    return [
        ("GPU", ", ".join(f"{gpus.count(gpu)} x {gpu}" for gpu in dict.fromkeys(gpus)) or "none found"),
        (
            "System",
            f"{system.get('pretty_name')}, kernel {system.get('kernel')}" + (", WSL2" if machine["wsl"] else ""),
        ),
        ("Container", (machine["container"]["runtime"] or "yes") if machine["container"]["inside"] else "no"),
        ("ROCm", ", ".join(f"{rocm['version']} ({rocm['origin']})" for rocm in machine["rocm"]) or "none found"),
        ("Python", str(machine["python"]["version"])),
        ("Packages", ", ".join(f"{name} {found['version'] if found else 'missing'}" for name, found in named)),
        ("Variables", ", ".join(f"{name}={value}" for name, value in machine["environment"].items()) or "none set"),
    ]


def _finding(finding: Document) -> list[str]:
    out = [f"#### {finding['status'].upper()} {finding['id']}: {_inline(finding['title'], code=False)}", ""]
    if finding["detail"]:
        out += [_inline(finding["detail"], code=False), ""]
    lines = [f"{evidence['source']}: {evidence['text']}" for evidence in finding["evidence"]]
    if lines:
        out += _fenced("\n".join(lines))
    for fix in finding["fixes"]:
        out += [f"Proposed fix: {_inline(fix['title'], code=False)}", ""]
        if fix["commands"]:
            out += _fenced("\n".join(fix["commands"]), "sh")
    return out


def _fenced(text: str, language: str = "") -> list[str]:
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return [fence + language, text, fence, ""]


def _inline(text: str, *, code: bool = True) -> str:
    flat = " ".join(text.split())
    if code:
        return flat.replace("|", "\\|").replace("<", "&lt;")
    return re.sub(r"([\\`*_<>\[\]#])", r"\\\1", flat)
