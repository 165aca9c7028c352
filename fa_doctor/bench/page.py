"""One HTML page with all pictures and tables, which needs nothing but itself."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from fa_doctor.bench.summary import Table, gain_table, table
from fa_doctor.bench.training import training_table

__all__ = ["write_page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } svg { max-width: 100%; height: auto; } .scroll { overflow-x: auto; }
"""
_TITLES = {
    "speed": "Speed",
    "gain": "Gain over unfused attention",
    "memory": "Memory",
    "share": "Share of the card's ceiling",
    "training": "Training a small GPT",
}


def write_page(document: dict[str, Any], pictures: list[Path], path: Path) -> None:
    """Writes the page; the SVG files of `pictures` are put into it."""
    machine = document["machine"]
    head = f"Attention on {machine.get('name', 'an unknown GPU')}"
    facts = ", ".join(f"{name} {machine[name]}" for name in ("gfx", "torch", "triton") if machine.get(name))
    parts = [f"<h1>{html.escape(head)}</h1><p>{html.escape(facts)}</p>"]
    if document.get("points"):
        parts.append("<h2>Unfused and bundled attention</h2>" + _table(gain_table(document)))
    if document.get("runs"):
        parts.append("<h2>A small GPT with each attention</h2>" + _table(training_table(document)))
    parts += [f"<h2>{_TITLES.get(picture.stem, picture.stem)}</h2>{_inline(picture)}" for picture in pictures]
    if document.get("points"):
        parts.append("<h2>Everything that was measured</h2>" + _table(table(document)))
    body = "\n".join(parts)
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(head)}</title><style>{_STYLE}</style><body>{body}</body></html>\n'
    path.write_text(page, encoding="utf-8")


def _inline(picture: Path) -> str:
    """The SVG element of a file, its ids made its own: several drawings on one page would share them otherwise."""
    text = picture.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    for name in set(re.findall(r'id="([^"]+)"', text)):
        text = re.sub(rf'(id="|#){re.escape(name)}(?=["\)])', rf"\g<1>{picture.stem}-{name}", text)
    return text


def _table(content: Table) -> str:
    header, rows = content
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells}</tr>{lines}</table></div>'
