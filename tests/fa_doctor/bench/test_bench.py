"""The sweep around the measurement: stopped and resumed, a point that kills its child, comparison, tables, pictures.

The measurement itself needs a GPU (tests marked gpu); here a small script stands in its place.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from fa_doctor.bench import sweep as sweep_module
from fa_doctor.bench.compare import compare
from fa_doctor.bench.grid import grid, key_of
from fa_doctor.bench.page import write_page
from fa_doctor.bench.store import Store, load_results
from fa_doctor.bench.summary import gain_table, table
from fa_doctor.bench.sweep import run_sweep
from fa_doctor.errors import Undecided, UsageProblem
from fa_doctor.host import LiveHost

POINTS = grid(
    (512, 1024), (64,), (True,), ("forward",), ("unfused", "bundled"), tokens=2048, hidden=256, dtype="float16"
)

CHILD = """
import json, os, sys
fd = int(os.environ["FA_DOCTOR_REPORT_FD"])
def say(**entry):
    os.write(fd, (json.dumps(entry) + "\\n").encode())
request = json.loads(sys.argv[1])
say(event="machine", step="machine", name="a card", gfx="gfx942", torch="2", triton="3", matrix_product_tflops=500.0)
for point in request["points"]:
    say(event="begin", step="point", number=point["number"])
    if DEADLY(point):
        print("Memory access fault by GPU node-1", file=sys.stderr, flush=True); os.abort()
    speed = 4.0 if point["provider"] == "bundled" else 1.0
    result = {"ms": 1 / speed, "low": 0.9 / speed, "high": 1.1 / speed, "runs": 9, "tflops": speed, "peak_bytes": 1 << 20}
    say(event="end", step="point", number=point["number"], result=result)
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    def write(deadly: str) -> None:
        folder = tmp_path / "child"
        folder.mkdir(exist_ok=True)
        (folder / "__main__.py").write_text(CHILD.replace("DEADLY(point)", deadly))
        import contextlib

        @contextlib.contextmanager
        def folders():  # type: ignore[no-untyped-def]
            yield folder, folder

        monkeypatch.setattr(sweep_module, "package_folders", folders)

    return write


def test_a_point_that_kills_its_child_costs_that_point_only(tmp_path: Path, child) -> None:  # type: ignore[no-untyped-def]
    child("point['provider'] == 'unfused' and point['length'] == 512")
    store = Store(tmp_path / "out")
    seen: list[dict[str, Any]] = []
    run_sweep(LiveHost(), sys.executable, POINTS, store, seen.append, 0.1)
    assert len(seen) == len(store.points) == len(POINTS)
    (broken,) = [point for point in store.points.values() if "error" in point]
    assert "Memory access fault" in broken["error"]
    header, rows = table(store.document())
    assert header == ["TFLOP/s", "unfused", "bundled"]
    assert rows[0][1:] == ["crashed", "4.0"]
    assert gain_table(store.document())[1][1:] == [["d64 causal n1024 b2 forward", "1.0", "4.0", "+300%", "1", "1"]]


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, child) -> None:  # type: ignore[no-untyped-def]
    child("False")
    store = Store(tmp_path / "out")
    run_sweep(LiveHost(), sys.executable, POINTS[:2], store, lambda point: None, 0.1)
    with open(store.path, "a") as stream:
        stream.write('{"provider": "half a li')
    again = Store(tmp_path / "out")
    assert set(again.points) == {key_of(point) for point in POINTS[:2]}
    seen: list[dict[str, Any]] = []
    run_sweep(LiveHost(), sys.executable, POINTS, again, seen.append, 0.1)
    assert [key_of(point) for point in seen] == [key_of(point) for point in POINTS[2:]]
    again.write_summaries()
    assert len(load_results(str(tmp_path / "out"))["points"]) == len(POINTS)
    assert load_results(str(tmp_path / "out/results.json")) == again.document()
    assert (tmp_path / "out/results.csv").read_text().count("\n") == 1 + len(POINTS)


def test_results_of_another_machine_are_not_mixed_in(tmp_path: Path, child) -> None:  # type: ignore[no-untyped-def]
    child("False")
    store = Store(tmp_path)
    store.set_machine({"name": "another card", "gfx": "gfx1100", "torch": "2", "triton": "3"})
    with pytest.raises(UsageProblem, match="another machine"):
        run_sweep(LiveHost(), sys.executable, POINTS, Store(tmp_path), lambda point: None, 0.1)


def test_a_child_that_cannot_begin_says_why(tmp_path: Path, child) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Undecided, match="nothing could be measured"):
        run_sweep(LiveHost(), "/bin/false", POINTS, Store(tmp_path), lambda point: None, 0.1)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": "fa-doctor/bench/1"}'])
def test_what_is_no_result_is_a_usage_problem(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UsageProblem):
        load_results(str(tmp_path / "results.json"))


def result(ms: float, low: float, high: float) -> dict[str, Any]:
    return {"points": [{**POINTS[0], "ms": ms, "low": low, "high": high}]}


def test_slower_is_said_only_beyond_the_spread() -> None:
    quiet = result(1.0, 0.98, 1.02)
    assert compare(quiet, result(1.2, 1.15, 1.3))[0][0].verdict == "slower"
    assert compare(quiet, result(0.8, 0.79, 0.81))[0][0].verdict == "faster"
    assert compare(quiet, result(1.2, 1.0, 1.6))[0][0].verdict == "same"
    assert compare(quiet, result(1.02, 1.019, 1.03))[0][0].verdict == "same"
    assert compare(quiet, {"points": []})[1] == quiet["points"]


def test_pictures_and_a_page_that_needs_nothing_else(tmp_path: Path, child) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("matplotlib")
    from fa_doctor.bench.card import draw_card
    from fa_doctor.bench.plots import draw

    child("point['provider'] == 'unfused' and point['length'] == 512")
    store = Store(tmp_path)
    run_sweep(LiveHost(), sys.executable, POINTS, store, lambda point: None, 0.1)
    document = store.document()
    card = draw_card(document, tmp_path)
    assert card is not None
    pictures = [card, *draw(document, tmp_path)]
    assert [picture.stem for picture in pictures] == ["share", "speed", "gain", "memory", "ceiling"]
    assert all(picture.with_suffix(".png").read_bytes()[:4] == b"\x89PNG" for picture in pictures)
    write_page(document, pictures, tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert page.count("<svg") == 5
    assert "+300%" in page
    assert "crashed" in page
    assert not any(word in page for word in ("<script", 'src="', "@import", "<link"))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', page)) <= set(ids)


def test_without_the_bundled_kernels_or_memory_there_is_no_picture_of_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from fa_doctor.bench.card import draw_card
    from fa_doctor.bench.plots import draw

    point = {**POINTS[0], "provider": "sdpa", "ms": 1.0, "low": 1.0, "high": 1.0, "tflops": 0.02, "peak_bytes": None}
    document = {"machine": {"name": "the CPU"}, "points": [point]}
    assert draw_card(document, tmp_path) is None
    assert [picture.stem for picture in draw(document, tmp_path)] == ["speed"]
    assert table(document)[1] == [["d64 causal n512 b4 forward", "0.02"]]


def test_a_shape_that_only_the_bundled_kernels_can_do_is_in_the_table(tmp_path: Path) -> None:
    unfused = {**POINTS[0], "provider": "unfused", "error": "out of memory"}
    bundled = {**POINTS[0], "provider": "bundled", "tflops": 300.0, "peak_bytes": 2 << 20}
    document = {"machine": {}, "points": [unfused, bundled]}
    assert gain_table(document)[1] == [["d64 causal n512 b4 forward", "no memory", "300.0", "-", "-", "2"]]


@pytest.mark.parametrize(("point", "words"), [({"provider": "bundled"}, "need a GPU"), ({"provider": "sdpa"}, "")])
def test_the_real_child_measures_on_the_cpu(tmp_path: Path, point: dict[str, str], words: str) -> None:
    """The way from the command to torch and back, for real; only the GPU's clock and memory are not in it."""
    pytest.importorskip("torch")
    points = [{**POINTS[0], **point, "length": 64, "batch": 1, "heads": 1, "head_dim": 16, "pass": "backward"}]
    store = Store(tmp_path)
    run_sweep(LiveHost(), sys.executable, points, store, lambda point: None, 0.02, "cpu")
    (found,) = store.document()["points"]
    assert words in found.get("error", "")
    if not words:
        assert 0 < found["low"] <= found["ms"] <= found["high"]
        assert found["tflops"] == pytest.approx(2.5 * 0.5 * 4 * 64 * 64 * 16 / found["ms"] / 1e9)
        assert found["peak_bytes"] is None
        assert found["runs"] >= 5
    assert store.machine is not None
    assert store.machine["device"] == "cpu"


def test_training_is_real_and_the_same_with_each_attention(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    from fa_doctor.bench.training import train, training_table
    from fa_doctor.bench.training_plot import draw_training

    setting = {"length": 32, "batch": 2, "steps": 8, "dtype": "bfloat16", "layers": 1, "heads": 1, "head_dim": 16}
    setting |= {"device": "cpu", "seed": 1, "longest": True}
    document = train(LiveHost(), sys.executable, ("unfused", "sdpa"), setting, 120.0, lambda *_: None)
    unfused, sdpa = (document["runs"][name] for name in ("unfused", "sdpa"))
    assert len(unfused["losses"]) == 8
    assert unfused["losses"] == pytest.approx(sdpa["losses"], abs=0.02)
    assert unfused["samples_per_s"] > 0
    assert training_table(document)[1][0][2:4] == ["-", "-"]
    document["runs"]["bundled"] = {"error": "what it said"}
    assert training_table(document)[1][2][1] == "what it said"
    picture = draw_training(json.loads(json.dumps(document)), tmp_path)
    assert "<!-- failed -->" in picture.read_text()


STOPPED = """
import sys
from pathlib import Path
from fa_doctor.bench import sweep
from fa_doctor.commands import bench
import contextlib

@contextlib.contextmanager
def folders():
    yield Path(CHILD), Path(CHILD)

sweep.package_folders = folders
bench._target = lambda python, device: sys.executable
argv = ["--lengths", "512,1024", "--head-dims", "64", "--causal", "yes", "--pass", "forward", "--no-plots"]
argv += ["--provider", "unfused", "--provider", "bundled", "--output", OUT]
sys.exit(bench.command.main(argv, standalone_mode=False))
"""


def test_ctrl_c_leaves_nothing_running_and_the_same_command_goes_on(tmp_path: Path, child) -> None:  # type: ignore[no-untyped-def]
    """A real process, a real signal: the second point hangs, Ctrl-C comes, and only the three others are measured then."""
    import os
    import signal
    import subprocess
    import time

    import psutil

    hang = tmp_path / "hang"
    hang.touch()
    place = "point['length'] == 512 and point['provider'] == 'bundled'"
    child(f"{place} and os.path.exists({str(hang)!r}) and __import__('time').sleep(600)")
    out = tmp_path / "out"
    script = STOPPED.replace("CHILD", repr(str(tmp_path / "child"))).replace("OUT", repr(str(out)))
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    results = out / "results.jsonl"
    deadline = time.monotonic() + 60
    while not (results.exists() and results.read_text().count("\n") == 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    grandchildren = psutil.Process(process.pid).children(recursive=True)
    assert grandchildren
    os.kill(process.pid, signal.SIGINT)
    _, words = process.communicate(timeout=20)
    assert process.returncode == 130, words
    assert "goes on" in words
    _, alive = psutil.wait_procs(grandchildren, timeout=5)
    assert not alive
    hang.unlink()
    again = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0, again.stderr
    assert "1 of 4 points are there already" in again.stderr
    assert again.stderr.count("TFLOP/s") == 3
    assert len(load_results(str(out))["points"]) == 4
    assert "+300%" in again.stdout


def test_compare_says_what_got_slower_with_the_spread(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from fa_doctor.bench.store import SCHEMA
    from fa_doctor.commands.bench import command

    for name, ms in (("a", 1.0), ("b", 1.5)):
        document = {"schema": SCHEMA, "machine": {}, **result(ms, 0.98 * ms, 1.02 * ms)}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    both = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    slower = CliRunner().invoke(command, ["--compare", *both], standalone_mode=False)
    assert slower.return_value == 1
    assert "1.000 (0.980..1.020)  1.500 (1.470..1.530)  1.50  slower" in slower.stdout
    same = CliRunner().invoke(command, ["--compare", both[0], both[0]], standalone_mode=False)
    assert same.return_value == 0
    assert "0 of 1 points differ" in same.stdout
