"""Searching for configurations and keeping what was found."""

from __future__ import annotations

import json
import multiprocessing
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from fa_doctor.kernels import compat, tuning  # noqa: E402
from fa_doctor.kernels.config import Config, candidates, choose  # noqa: E402

PLAIN: frozenset[str] = frozenset()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FA_DOCTOR_TUNING_DIR", str(tmp_path / "tuned"))
    monkeypatch.delenv("FLASH_ATTENTION_TRITON_AMD_AUTOTUNE", raising=False)
    monkeypatch.setattr(tuning, "_known", {})
    monkeypatch.setattr(compat, "interpreting", lambda: False)

    def bench(run: Callable[[], None], quantiles: Any) -> list[float]:
        run()
        return [launched[-1].block_n / 10.0] * len(quantiles)  # the smaller its tile the faster

    active = SimpleNamespace(get_benchmarker=lambda: bench)
    monkeypatch.setattr(triton.runtime, "driver", SimpleNamespace(active=active))
    launched.clear()
    return tmp_path / "tuned"


launched: list[Config] = []


def pick(length: int = 1000) -> Config:
    return tuning.pick("gfx942", "forward", 128, torch.float16, PLAIN, (length, length), 8, launched.append)


def test_nothing_is_searched_unless_asked_for(folder: Path) -> None:
    assert pick() == choose("gfx942", "forward", 128, torch.float16, PLAIN)
    assert not launched
    assert not folder.exists()


def test_a_search_is_kept_and_used_without_the_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_ATTENTION_TRITON_AMD_AUTOTUNE", "TRUE")
    shipped = choose("gfx942", "forward", 128, torch.float16, PLAIN)
    tried = [shipped, *candidates("gfx942", "forward", 128, torch.float16, shipped)]
    best = pick()
    assert {c.block_n for c in launched} == {c.block_n for c in tried}
    assert best.block_n == min(c.block_n for c in tried)
    launched.clear()
    monkeypatch.delenv("FLASH_ATTENTION_TRITON_AMD_AUTOTUNE")
    assert pick(900) == best  # same power of two
    assert not launched
    monkeypatch.setattr(tuning, "_known", {})  # as a new process
    assert pick() == best
    assert not launched
    assert pick(5000) == shipped  # another class, and nobody asked
    (path,) = folder.glob("*.json")
    assert path == tuning.store_path("gfx942")
    assert triton.__version__ in path.name
    (row,) = json.loads(path.read_text())["rows"].values()
    assert row["milliseconds"] == best.block_n / 10.0


def test_candidates_that_fail_are_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_ATTENTION_TRITON_AMD_AUTOTUNE", "TRUE")

    def launch(config: Config) -> None:
        if config.block_n < 64:
            raise RuntimeError("out of resource: shared memory")
        launched.append(config)

    best = tuning.pick("gfx942", "forward", 128, torch.float16, PLAIN, (1000, 1000), 8, launch)
    assert best.block_n == 64


def test_a_damaged_store_is_ignored_with_a_warning_and_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tuning.store_path("gfx942")
    for damage in ("{", '{"schema": "other"}', '{"schema": "fa-doctor/tuning/1", "rows": {"a": {"block_m": 1}}}', "[]"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(damage)
        monkeypatch.setattr(tuning, "_known", {})
        with pytest.warns(UserWarning, match="is damaged"):
            assert pick() == choose("gfx942", "forward", 128, torch.float16, PLAIN)
    monkeypatch.setenv("FLASH_ATTENTION_TRITON_AMD_AUTOTUNE", "TRUE")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = pick()
    monkeypatch.setattr(tuning, "_known", {})
    assert pick() == best


def test_a_folder_that_cannot_be_written_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("a file in its place")
    monkeypatch.setenv("FLASH_ATTENTION_TRITON_AMD_AUTOTUNE", "TRUE")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = pick()
    count = len(launched)
    assert pick() == best  # known in this process
    assert len(launched) == count


def _keep_one(number: int, folder: str) -> None:
    os.environ["FA_DOCTOR_TUNING_DIR"] = folder
    tuning._keep(tuning.store_path("gfx942"), f"row {number}", Config(64, 32, 4, 1), 1.0)


def test_processes_that_finish_together_lose_nothing(folder: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=_keep_one, args=(n, str(folder))) for n in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    (path,) = folder.glob("*.json")
    assert sorted(json.loads(path.read_text())["rows"]) == [f"row {n}" for n in range(8)]


def test_a_forced_search_reports_each_candidate(folder: Path) -> None:
    seen: list[tuple[int, int, float | str]] = []

    def progress(kind: str, number: int, count: int, config: Config, outcome: float | str) -> None:
        assert kind == "forward"
        seen.append((number, count, outcome))

    with tuning.searching(progress):
        pick()
    assert [number for number, _, _ in seen] == list(range(seen[0][1]))
    assert all(isinstance(outcome, float) for _, _, outcome in seen)
    launched.clear()
    pick()
    assert not launched


@pytest.mark.parametrize("target", ["gfx908", "gfx942", "gfx950", "gfx1100", "gfx1201", "sm_90"])
@pytest.mark.parametrize("kind", ["forward", "dkdv", "dq"])
def test_every_target_has_candidates(target: str, kind: str) -> None:
    for head_dim in (64, 128, 256):
        shipped = choose(target, kind, head_dim, torch.float16, PLAIN)
        found = candidates(target, kind, head_dim, torch.float16, shipped)
        assert found
        assert shipped not in found
        assert len(found) <= 20


def test_what_was_found_is_forgotten_when_any_tuned_kernel_changes() -> None:
    folder = Path(tuning.__file__).parent
    kernels = {path.name for path in folder.glob("*.py") if "@triton.jit" in path.read_text(encoding="utf-8")}
    assert kernels - set(tuning._SOURCES) == {"append.py", "rotary.py"}  # these two are not searched for
    assert all((folder / name).is_file() for name in tuning._SOURCES)
