"""The report for a person: what is wrong first, then why, then what to type. Readable without colour, at 80 columns."""

from __future__ import annotations

from collections import Counter
from typing import TextIO

from fa_doctor.report.document import Document
from fa_doctor.report.paragraphs import INDENT, STYLES, Paragraphs

__all__ = ["write"]

_IDS_SHOWN = 12  # ids of checks that one reason of "unknown" lists


def write(
    document: Document, stream: TextIO, *, verbose: bool = False, subject: str | None = None, all_findings: bool = False
) -> None:
    """Prints the report. `verbose` adds what passed or was skipped, all evidence, and each check's duration.

    `subject` is what the first line says instead of the level and the machine; with `all_findings` what passed or was
    skipped is named also without `verbose`.
    """
    printer = _Printer(stream, verbose)
    printer.head(document, subject)
    findings = [finding for finding in document["findings"] if finding["ignored"] is None]
    for status in ("fail", "warn", "unknown"):
        for finding in findings:
            if finding["status"] == status and (verbose or not _is_bare(finding)):
                printer.finding(finding)
    if not verbose:
        printer.unknowns([finding for finding in findings if _is_bare(finding)])
    quiet = [finding for finding in findings if finding["status"] in ("pass", "skip")]
    if verbose or all_findings:
        for finding in quiet:
            printer.line(finding)
    for finding in document["findings"]:
        if finding["ignored"] is not None:
            printer.ignored(finding)
    printer.foot(document)


class _Printer(Paragraphs):
    def __init__(self, stream: TextIO, verbose: bool) -> None:
        super().__init__(stream)
        self.verbose = verbose

    def head(self, document: Document, subject: str | None) -> None:
        machine = document["machine"]
        subject = subject or f"{document['level']} check of {machine['description']}"
        self.indented(f"fa-doctor {document['tool']['version']}, {subject}", "bold", 0)
        for label, text in _overview(machine):
            self._labelled(f"  {label:<10}", text)
        self.console.print()

    def finding(self, finding: Document) -> None:
        from rich.text import Text

        status = finding["status"]
        label = f"{status.upper():<8}"
        title = Text.assemble((label, STYLES[status]), (finding["id"], "bold"), "  ", (finding["title"], "bold"))
        self.hanging(title, len(label))
        if finding["detail"]:
            self.indented(finding["detail"])
        shown = finding["evidence"] if self.verbose else finding["evidence"][:4]
        for evidence in shown:
            self.indented(f"{evidence['source']}: {_shorten(evidence['text'], self.verbose)}", "dim")
        if len(shown) < len(finding["evidence"]):
            self.indented(f"({len(finding['evidence']) - len(shown)} more with -v)", "dim")
        for fix in finding["fixes"]:
            self._fix(fix)
        if self.verbose:
            self.indented(f"{finding['check']}, {finding['duration_s'] * 1000:.1f} ms", "dim")
        self.console.print()

    def unknowns(self, findings: list[Document]) -> None:
        """What could not be decided and says no more than that: a line for each reason, with all checks it stopped."""
        reasons: dict[str, list[str]] = {}
        for finding in findings:
            reasons.setdefault(finding["title"], []).append(finding["id"])
        label = f"{'UNKNOWN':<8}"
        for number, (title, ids) in enumerate(reasons.items()):
            from rich.text import Text

            text = Text.assemble((" " * 8 if number else label, STYLES["unknown"]), title)
            shown = list(dict.fromkeys(ids))
            more = f" and {len(shown) - _IDS_SHOWN} more" if len(shown) > _IDS_SHOWN else ""
            text.append(f" ({', '.join(shown[:_IDS_SHOWN])}{more})", "dim")
            self.hanging(text, len(label))
        if reasons:
            self.console.print()

    def _fix(self, fix: Document) -> None:
        notes = [note for note in (_need(fix["needs"]), "automatic: fa-doctor fix" if fix["automatic"] else "") if note]
        self.indented(f"Fix: {fix['title']}" + (f" ({'; '.join(notes)})" if notes else ""), "bold")
        for command in fix["commands"]:
            # Never wrapped: a command that the reader copies must stay one line.
            for line in command.splitlines():
                self.console.print(" " * (INDENT + 2) + line, style="cyan", soft_wrap=True)

    def line(self, finding: Document) -> None:
        from rich.text import Text

        status = finding["status"]
        text = Text.assemble((f"{status.upper():<8}", STYLES[status]), finding["id"], "  ", finding["title"])
        if self.verbose:
            text.append(f"  [{finding['duration_s'] * 1000:.1f} ms]", "dim")
        self.hanging(text, 8)
        for evidence in finding["evidence"] if self.verbose else ():
            self.indented(f"{evidence['source']}: {_shorten(evidence['text'], True)}", "dim")

    def ignored(self, finding: Document) -> None:
        text = f"{finding['status'].upper():<8}{finding['id']}  {finding['title']} (ignored: {finding['ignored']})"
        self.indented(text, "dim", 0)

    def foot(self, document: Document) -> None:
        from rich.text import Text

        summary = document["summary"]
        names = {"fail": "failed", "warn": "warned", "unknown": "unknown", "pass": "passed", "skip": "skipped"}
        parts = [f"{summary[status]} {name}" for status, name in names.items() if summary[status]]
        verdict = Text.assemble(
            (f"{_verdict(summary)} ", STYLES[summary["status"]]),
            f"{', '.join(parts) or 'nothing checked'}; {document['duration_s']:.2f} s.",
        )
        self.hanging(verdict, 0)
        for fault in document["machine"].get("faults", ()):
            self.indented(f"A part of fa-doctor itself broke: {fault['text']} ({fault['source']})", "bold magenta", 0)
        for line in (*_not_measured(document), *_next_steps(document)):
            self.indented(line, indent=0)

    def _labelled(self, label: str, text: str) -> None:
        from rich.text import Text

        self.hanging(Text.assemble((label, "dim"), text), len(label))


def _overview(machine: Document) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    kinds = Counter(_describe(gpu) for gpu in machine["gpus"])
    for description, count in kinds.items():
        rows.append(("GPU", f"{count} x {description}" if count > 1 else description))
    if machine["gpus"] and machine["gpu_cards"] not in (None, len(machine["gpus"])):
        rows.append(("", f"{machine['gpu_cards']} cards, {len(machine['gpus'])} compute devices"))
    for other in machine["other_gpus"]:
        name = f"{other['name']}: " if other["name"] and other["name"] not in other["why"] else ""
        rows.append(("GPU" if not rows else "", f"{name}{other['why']}"))
    if not rows:
        rows.append(("GPU", "none" if machine["gpu_cards"] == 0 else "not known"))
    driver = machine["driver"]
    if driver["loaded"]:
        rows.append(("driver", " ".join(part for part in ("amdgpu", driver["origin"], driver["version"]) if part)))
    system = machine["os"]
    where = [system.get("pretty_name"), system.get("kernel") and f"kernel {system['kernel']}"]
    where.append("WSL2" if machine["wsl"] else None)
    container = machine["container"]
    where.append(f"in a container ({container['runtime'] or 'kind unknown'})" if container["inside"] else None)
    rows.append(("system", ", ".join(part for part in where if part) or "not known"))
    if machine["rocm"]:
        rows.append(("ROCm", ", ".join(f"{one['version'] or '?'} ({one['path']})" for one in machine["rocm"])))
    python = machine["python"]
    if python["executable"]:
        rows.append(("python", f"{python['version'] or '?'} ({python['executable']})"))
        packages = [
            ("torch", machine["torch"]),
            ("triton", machine["triton"]),
            ("flash_attn", machine["flash_attn"]),
        ]
        named = (f"{name} {found['version'] if found else 'missing'}" for name, found in packages)
        rows.append(("packages", ", ".join(named) if python["version"] else "not known"))
    return rows


def _describe(gpu: Document) -> str:
    facts = [gpu["gfx"] or "gfx target unknown"]
    if gpu["gfx_in_force"] and gpu["gfx_in_force"] != gpu["gfx"]:
        facts.append(f"overridden to {gpu['gfx_in_force']}")
    if gpu["compute_units"]:
        facts.append(f"{gpu['compute_units']} CU")
    if gpu["vram_bytes"]:
        size = gpu["vram_bytes"]
        facts.append(f"{size / (1 << 30):.0f} GiB" if size >= 1 << 30 else f"{size >> 20} MiB")
    if gpu["partition"]:
        facts.append("/".join(part for part in (gpu["partition"], gpu["memory_partition"]) if part))
    if gpu["integrated"]:
        facts.append("integrated")
    if gpu["visible"] is False:
        facts.append(f"hidden by {gpu['hidden_by']}" if gpu["hidden_by"] else "hidden")
    return f"{gpu['name'] or 'AMD GPU'} ({', '.join(facts)})"


def _shorten(text: str, whole: bool) -> str:
    flat = " ".join(text.split())
    return flat if whole or len(flat) <= 160 else flat[:157] + "..."


def _need(need: str | None) -> str:
    return {"root": "as root", "restart": "then start the session or container anew", "reboot": "then reboot"}.get(
        need or "", ""
    )


def _is_bare(finding: Document) -> bool:
    """Whether a finding says that something is not known, and nothing besides."""
    return finding["status"] == "unknown" and not (finding["detail"] or finding["evidence"] or finding["fixes"])


def _verdict(summary: Document) -> str:
    """The verdict in words. Where much could not be seen, that nothing wrong was seen is not called health."""
    if summary["unknown"] > 3 and summary["status"] in ("pass", "warn"):
        return "No failure found, but not all could be seen:"
    return {
        "pass": "Healthy:",
        "warn": "Works, with warnings:",
        "fail": "Not healthy:",
        "unknown": "Could not be decided:",
    }[summary["status"]]


_MEASUREMENTS = {"KER001": "Not proven on a GPU", "SPD101": "Speed not measured"}


def _not_measured(document: Document) -> list[str]:
    """What a check of this level would have measured and did not: "healthy" must not be read as if it had."""
    found = {finding["id"]: finding for finding in document["findings"] if finding["id"] in _MEASUREMENTS}
    if any(finding["status"] == "pass" for finding in found.values() if finding["id"] == "KER001"):
        found.pop("KER001")
    return [
        f"{words}: {found[check]['title']} ({check})."
        for check, words in _MEASUREMENTS.items()
        if check in found and found[check]["status"] == "skip"
    ]


def _next_steps(document: Document) -> list[str]:
    live = [finding for finding in document["findings"] if finding["ignored"] is None]
    lines = []
    if any(fix["automatic"] for finding in live for fix in finding["fixes"]):
        lines.append("`fa-doctor fix` applies the automatic fixes; it asks first, and can undo.")
    failed = [finding for finding in live if finding["status"] == "fail"]
    # No GPU to work with is a verdict, not a fault that anybody could mend.
    unexplained = [finding for finding in failed if not finding["fixes"] and not finding["id"].startswith("GPU0")]
    if unexplained:
        tracker = _tracker(unexplained[0]["cause"])
        lines.append(
            f"No fix is known for {unexplained[0]['id']}. To report it{f' to {tracker}' if tracker else ''}: "
            "`fa-doctor snapshot DIR` records this machine, secrets removed."
        )
    worst = next(
        (finding for status in ("fail", "warn", "unknown") for finding in live if finding["status"] == status), None
    )
    if worst:
        lines.append(f"`fa-doctor checks {worst['id']}` explains {worst['id']}; -v shows all that was read.")
    return lines


def _tracker(cause: str | None) -> str | None:
    """Whose tracker a cause belongs to, where it is anybody's."""
    from fa_doctor.knowledge import tables

    rows = tables.load("causes")["cause"] if cause else ()
    tracker = next((str(row["tracker"]) for row in rows if row["id"] == cause), "")
    return None if tracker.startswith("nobody") else tracker or None
