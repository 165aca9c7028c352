"""Memory by the tightest limit."""

from __future__ import annotations

from pathlib import Path

from fa_doctor.installer.memory import available_bytes
from fa_doctor.installer.upstream import jobs_that_fit


def test_the_tightest_limit_counts(tmp_path: Path) -> None:
    meminfo, limit, use = (tmp_path / name for name in ("meminfo", "max", "current"))
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:     2048 kB\n")
    limit.write_text("1000000\n")
    use.write_text("400000\n")
    assert available_bytes(meminfo, ((limit, use),)) == 600000
    limit.write_text("max\n")
    assert available_bytes(meminfo, ((limit, use),)) == 2048 << 10
    assert available_bytes(tmp_path / "none", ()) is None
    meminfo.write_text("MemAvailable: much\n")
    assert available_bytes(meminfo, ()) is None


def test_jobs_follow_memory_and_processors() -> None:
    assert jobs_that_fit(100 << 30, 64) == 20
    assert jobs_that_fit(100 << 30, 8) == 4
    assert jobs_that_fit(1 << 30, 64) == 1
