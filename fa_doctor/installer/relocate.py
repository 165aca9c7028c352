"""Makes an environment that was built at one path fit for another: scripts, pyvenv.cfg and what RECORD says of them.

What uv notes of the moment of the install (uv_cache.json) goes, too: the same plan gives the same files everywhere.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import shutil
from pathlib import Path

__all__ = ["relocate"]

MOMENT = "uv_cache.json"

LARGEST_SCRIPT = 1 << 20  # bytes; scripts and activation files are far smaller, programs are left alone


def relocate(environment: Path, built_at: Path, final: Path) -> list[str]:
    """Replaces the path `built_at` by `final` in the environment's scripts and settings; returns the files changed."""
    old, new = os.fsencode(built_at), os.fsencode(final)
    changed = []
    scripts = environment / "bin"
    candidates = [environment / "pyvenv.cfg", *(sorted(scripts.iterdir()) if scripts.is_dir() else ())]
    for path in candidates:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_SCRIPT:
            continue
        content = path.read_bytes()
        if old in content and b"\0" not in content:
            _replace(path, content.replace(old, new))
            changed.append(str(path.relative_to(environment)))
    for record in sorted(environment.glob("lib*/python*/site-packages/*.dist-info/RECORD")):
        _update_record(record, environment, changed)
    return changed


def _update_record(record: Path, environment: Path, changed: list[str]) -> None:
    """Corrects the hash and size of changed scripts in one RECORD, and drops uv's note."""
    text = record.read_text(encoding="utf-8", errors="surrogateescape")
    note = record.with_name(MOMENT)
    if not note.exists() and not any(os.path.basename(name) in text for name in changed):
        return
    site = record.parent.parent
    note.unlink(missing_ok=True)
    wanted = {os.path.normpath(environment / name) for name in changed}
    every = list(csv.reader(io.StringIO(text, newline="")))
    rows = [row for row in every if row and site / row[0] != note]
    touched = len(rows) < len(every)
    for row in rows:
        if len(row) == 3 and os.path.normpath(site / row[0]) in wanted:
            content = (site / row[0]).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            row[1:] = [f"sha256={digest}", str(len(content))]
            touched = True
    if touched:
        out = io.StringIO(newline="")
        csv.writer(out, lineterminator="\n").writerows(rows)
        _replace(record, out.getvalue().encode("utf-8", "surrogateescape"))


def _replace(path: Path, content: bytes) -> None:
    """Replaces a file as a whole: it may share its content with another environment (a hard link)."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    shutil.copymode(path, partial)
    os.replace(partial, path)
