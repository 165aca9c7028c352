"""One HTML page with all pictures and tables, which needs nothing but itself."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from fa_doctor.bench.picture import machine_line
from fa_doctor.bench.summary import Table, gain_table, setting, table
from fa_doctor.bench.training import training_table

__all__ = ["write_page"]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
figure { margin: 1rem 0; overflow-x: auto; } svg { min-width: 40rem; width: 100%; height: auto; background: #fff; border-radius: 6px; }
"""
# What stands under each picture.
_MEANING = {
    "share": "",
    "speed": "Higher is better. A pass of 4 B H N&#178; D floating-point operations forward, 2.5 times that backward, half of "
    "it if causal; softmax is not counted.",
    "gain": "Higher is better; unfused attention is 1.",
    "memory": "Lower is better: the peak of PyTorch's allocator in one call, less what goes in and comes out.",
    "ceiling": "What the card reaches in a large matrix product of the same type is 100%.",
    "training": "Equal losses mean equal results; the dashed line lies on the others.",
}
_METHOD = (
    "Every figure is the median of single calls, with caches flushed before each. In the "
    'tables d is the head dimension, n the length, b the batch; "refused" stands where an implementation cannot do a shape, "no memory" where it needed more than there is, "crashed" where it took its process with it.'
)


def write_page(document: dict[str, Any], pictures: list[Path], path: Path) -> None:
    """Writes the page; the SVG files of `pictures` are put into it."""
    machine = document["machine"]
    head = f"Attention on {machine.get('name', 'an unknown GPU')}"
    points, shown = document.get("points"), {picture.stem: picture for picture in pictures}
    parts = [f"<h1>{html.escape(head)}</h1>"]
    facts = [machine_line(machine)]
    if points:
        facts.append(setting(points))
    parts.append(f"<p>{html.escape('; '.join(facts))}.{f' {_METHOD}' if points else ''}</p>")
    if "share" in shown:
        parts.append(_figure(shown.pop("share")))
    if points:
        parts.append("<h2>Unfused and bundled attention</h2>" + _table(gain_table(document)))
    if document.get("runs"):
        parts.append("<h2>A small GPT with each attention</h2>" + _table(training_table(document)))
    parts += [_figure(picture) for picture in shown.values()]
    if points:
        parts.append("<h2>Everything that was measured</h2>" + _table(table(document)))
    body = "\n".join(parts)
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8">{viewport}<title>{html.escape(head)}</title>'
        f"<style>{_STYLE}</style><body>{body}</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _figure(picture: Path) -> str:
    meaning = _MEANING.get(picture.stem, "")
    return f"<figure>{_inline(picture)}{f'<figcaption>{meaning}</figcaption>' if meaning else ''}</figure>"


def _inline(picture: Path) -> str:
    """The SVG element of a file, its ids made its own: several drawings on one page would share them otherwise."""
    text = picture.read_text(encoding="utf-8")
    text = text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{picture.stem}" ', 1)
    return re.sub(r'(\bid="|"#|\(#)(?=[^")]+["\)])', rf"\g<1>{picture.stem}-", text)


def _table(content: Table) -> str:
    header, rows = content
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells}</tr>{lines}</table></div>'
