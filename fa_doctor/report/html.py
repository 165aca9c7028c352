"""The report as one HTML page that needs nothing but itself: to keep with a build, to send to whoever mends the machine."""

from __future__ import annotations

from html import escape

from fa_doctor.report.document import Document
from fa_doctor.report.words import counted, fix_notes, is_bare, next_steps, not_measured, overview, undecided, verdict

__all__ = ["render"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --dim: #59636e; --line: #d1d9e0; --code: #f6f8fa; --page: #fff;
  --fail: #b3261e; --warn: #8a5a00; --unknown: #6639a6; --pass: #1a7f37; --skip: #59636e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9198a1; --line: #3d444d; --code: #161b22;
  --page: #0d1117; --fail: #ff7b72; --warn: #e3b341; --unknown: #c297ff; --pass: #56d364; --skip: #9198a1; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; } h2 { font-size: 1.05rem; margin: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { color: var(--dim); } dd { margin: 0; }
section { border: 1px solid var(--line); border-left: .35rem solid var(--tone); border-radius: .3rem;
  padding: .7rem 1rem; margin: 1rem 0; }
.status { color: var(--tone); font-weight: 700; text-transform: uppercase; font-size: .85rem; }
.id, .evidence { color: var(--dim); } .evidence { font-size: .9rem; margin: .3rem 0; padding-left: 1.2rem; }
pre { background: var(--code); border: 1px solid var(--line); border-radius: .3rem; padding: .5rem .7rem;
  white-space: pre-wrap; margin: .3rem 0; }
summary { cursor: pointer; color: var(--dim); } p { margin: .4rem 0; } a { color: inherit; }
.fail { --tone: var(--fail); } .warn { --tone: var(--warn); } .unknown { --tone: var(--unknown); }
.pass { --tone: var(--pass); } .skip { --tone: var(--skip); }
"""


def render(document: Document) -> str:
    """The page: the verdict, the machine, what is wrong with its fixes, and what passed, folded away."""
    summary = document["summary"]
    title = f"fa-doctor: {document['machine']['description']}"
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in overview(document["machine"]))
    live = [finding for finding in document["findings"] if finding["ignored"] is None]
    troubles = [
        _trouble(finding)
        for status in ("fail", "warn", "unknown")
        for finding in live
        if finding["status"] == status and not is_bare(finding)
    ]
    troubles.append(_undecided([finding for finding in live if is_bare(finding)]))
    rest = [finding for finding in document["findings"] if finding not in live or finding["status"] in ("pass", "skip")]
    steps = "".join(f"<p>{escape(line)}</p>" for line in (*not_measured(document), *next_steps(document)))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="{summary["status"]}"><span class="status">{escape(verdict(summary).rstrip(":"))}</span> {counted(summary)}</p>
<p class="id">fa-doctor {escape(document["tool"]["version"])}, level {escape(document["level"])},
{escape(document["generated_at"])}, {document["duration_s"]:.2f} s</p>
<dl>{facts}</dl>
{"".join(troubles)}
{steps}
<details><summary>{len(rest)} passed, skipped or ignored</summary>{"".join(map(_quiet, rest))}</details>
</body></html>
"""


def _trouble(finding: Document) -> str:
    evidence = "".join(f"<li>{escape(one['source'])}: {escape(one['text'])}</li>" for one in finding["evidence"])
    return (
        f'<section class="{finding["status"]}">{_heading(finding)}'
        + (f"<p>{escape(finding['detail'])}</p>" if finding["detail"] else "")
        + (f'<ul class="evidence">{evidence}</ul>' if evidence else "")
        + "".join(map(_fix, finding["fixes"]))
        + "</section>"
    )


def _undecided(findings: list[Document]) -> str:
    if not findings:
        return ""
    rows = "".join(
        f'<p>{escape(reason)} <span class="id">{escape(", ".join(ids))}</span></p>'
        for reason, ids in undecided(findings).items()
    )
    return f'<section class="unknown"><h2><span class="status">unknown</span></h2>{rows}</section>'


def _heading(finding: Document) -> str:
    return (
        f'<h2><span class="status">{finding["status"]}</span> <span class="id">{escape(finding["id"])}</span> '
        f"{escape(finding['title'])}</h2>"
    )


def _fix(fix: Document) -> str:
    commands = "\n".join(fix["commands"])
    return f"<p><b>Fix:</b> {escape(fix['title'] + fix_notes(fix))}</p>" + (
        f"<pre><code>{escape(commands)}</code></pre>" if commands else ""
    )


def _quiet(finding: Document) -> str:
    ignored = f" (ignored: {finding['ignored']})" if finding["ignored"] else ""
    return (
        f'<p class="{finding["status"]}"><span class="status">{finding["status"]}</span> '
        f'<span class="id">{escape(finding["id"])}</span> {escape(finding["title"] + ignored)}</p>'
    )
