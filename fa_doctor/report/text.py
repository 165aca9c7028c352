"""The report for a person: what is wrong first, then why, then what to type. Readable without colour, at 80 columns."""

from __future__ import annotations

from typing import TextIO

from fa_doctor.report.document import Document
from fa_doctor.report.paragraphs import INDENT, STYLES, Paragraphs
from fa_doctor.report.words import counted, fix_notes, is_bare, next_steps, not_measured, overview, undecided, verdict

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
            if finding["status"] == status and (verbose or not is_bare(finding)):
                printer.finding(finding)
    if not verbose:
        printer.unknowns([finding for finding in findings if is_bare(finding)])
    quiet = [finding for finding in findings if finding["status"] in ("pass", "skip")]
    if verbose or all_findings:
        for finding in quiet:
            printer.line(finding)
    for finding in document["findings"]:
        if finding["ignored"] is not None:
            printer.ignored(finding)
    printer.foot(document, told=all_findings)


class _Printer(Paragraphs):
    def __init__(self, stream: TextIO, verbose: bool) -> None:
        super().__init__(stream)
        self.verbose = verbose

    def head(self, document: Document, subject: str | None) -> None:
        machine = document["machine"]
        subject = subject or f"{document['level']} check of {machine['description']}"
        self.indented(f"fa-doctor {document['tool']['version']}, {subject}", "bold", 0)
        for label, text in overview(machine):
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
        label = f"{'UNKNOWN':<8}"
        for number, (title, ids) in enumerate(undecided(findings).items()):
            from rich.text import Text

            text = Text.assemble((" " * 8 if number else label, STYLES["unknown"]), title)
            more = f" and {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else ""
            text.append(f" ({', '.join(ids[:_IDS_SHOWN])}{more})", "dim")
            self.hanging(text, len(label))
        if findings:
            self.console.print()

    def _fix(self, fix: Document) -> None:
        self.indented(f"Fix: {fix['title']}{fix_notes(fix)}", "bold")
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

    def foot(self, document: Document, told: bool) -> None:
        """`told`: what was skipped was named above, with its reason."""
        from rich.text import Text

        summary = document["summary"]
        took = f"{counted(summary)}; {document['duration_s']:.2f} s."
        self.hanging(Text.assemble((f"{verdict(summary)} ", STYLES[summary["status"]]), took), 0)
        for fault in document["machine"].get("faults", ()):
            self.indented(f"A part of fa-doctor itself broke: {fault['text']} ({fault['source']})", "bold magenta", 0)
        for line in (*(() if told else not_measured(document)), *next_steps(document)):
            self.indented(line, indent=0)

    def _labelled(self, label: str, text: str) -> None:
        from rich.text import Text

        self.hanging(Text.assemble((label, "dim"), text), len(label))


def _shorten(text: str, whole: bool) -> str:
    flat = " ".join(text.split())
    return flat if whole or len(flat) <= 160 else flat[:157] + "..."
