"""The configuration files: each row is well formed, and each call finds one whatever the Triton release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fa_doctor.kernels import config  # noqa: E402
from fa_doctor.kernels.config import Config, choose  # noqa: E402

FOLDER = Path(config.__file__).resolve().parent / "configs"
FILES = sorted(path for path in FOLDER.glob("*.json") if path.stem not in ("candidates", "targets"))
TARGETS = ("gfx908", "gfx90a", "gfx942", "gfx950", "gfx1030", "gfx1100", "gfx1151", "gfx1201", "sm_80", "sm_90")
RELEASES = ((3, 2), (3, 3), (3, 6), (3, 7), (3, 9), (3, 10))
CONDITIONS = {"kind", "head_dim", "itemsize", "features", "triton"}
SETTINGS = {"block_m", "block_n", "num_warps", "num_stages", "options", "pairs", "chunk", "split"}


@pytest.mark.parametrize(
    ("bounds", "held"),
    [
        ("", RELEASES),
        ("<3.3", ((3, 2),)),
        (">=3.9", ((3, 9), (3, 10))),
        (">=3.3,<3.9", ((3, 3), (3, 6), (3, 7))),
        ("<3.10", RELEASES[:-1]),
    ],
)
def test_bounds_of_a_row(bounds: str, held: tuple[tuple[int, int], ...]) -> None:
    assert tuple(release for release in RELEASES if config._within(release, bounds)) == held


@pytest.mark.parametrize("bounds", ["3.3", "=3.3", ">=", ">=three"])
def test_bounds_that_say_nothing_are_refused(bounds: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        config._within((3, 7), bounds)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rows_are_well_formed(path: Path) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["source"]
    for row in data["rows"]:
        assert set(row) <= CONDITIONS | SETTINGS, row
        Config.from_row(row)
        config._within((3, 7), row.get("triton", ""))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_is_used_with_some_release(path: Path) -> None:
    """The first row that fits is used: one whose every call earlier rows take, whatever the release, would never be."""
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]

    def hides(before: dict[str, Any], row: dict[str, Any]) -> bool:
        return (
            before["kind"] == row["kind"]
            and row["head_dim"] <= before["head_dim"]
            and row.get("itemsize", 2) <= before.get("itemsize", 2)
            and set(before.get("features", ())) <= set(row.get("features", ()))
        )

    def used(number: int, release: tuple[int, int]) -> bool:
        earlier = [row for row in rows[:number] if config._within(release, row.get("triton", ""))]
        return config._within(release, rows[number].get("triton", "")) and not any(
            hides(before, rows[number]) for before in earlier
        )

    for number, row in enumerate(rows):
        assert any(used(number, release) for release in RELEASES), row


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("target", TARGETS)
def test_every_call_finds_a_row(target: str, release: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = config._rows(target, release)
    monkeypatch.setattr(config, "_rows", lambda _: rows)
    config._choose.cache_clear()
    try:
        for kind in ("forward", "dkdv", "dq", "decode"):
            for head_dim in (16, 64, 128, 256):
                for dtype in (torch.float16, torch.bfloat16, torch.float32):
                    for features in ((), ("causal",), ("causal", "dropout", "gqa", "varlen")):
                        found = choose(target, kind, head_dim, dtype, frozenset(features))
                        assert not (dtype == torch.float32 and found.pairs), (kind, head_dim)
    finally:
        config._choose.cache_clear()
