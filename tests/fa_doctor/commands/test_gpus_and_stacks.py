"""`fa-doctor gpus` and `fa-doctor stacks`: lists, pages, JSON and wrong names."""

from __future__ import annotations

import json

import pytest

from fa_doctor.cli import run
from fa_doctor.errors import EXIT_USAGE
from fa_doctor.knowledge.gpus import architectures
from fa_doctor.knowledge.stacks import recommendations, stacks


def test_every_gpu_is_listed_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gpus"]) == 0
    text = capsys.readouterr().out
    assert all(gfx in text for gfx in architectures())
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("name", "gfx"), [("gfx90a:sramecc+", "gfx90a"), ("MI300X", "gfx942"), ("7900 xtx", "gfx1100")]
)
def test_a_gpu_is_found_by_target_and_by_product(name: str, gfx: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gpus", name]) == 0
    assert capsys.readouterr().out.startswith(gfx)
    assert run(["gpus", name, "--format", "json"]) == 0
    assert [row["gfx"] for row in json.loads(capsys.readouterr().out)] == [gfx]


def test_every_gpu_has_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    for gfx in architectures():
        assert run(["gpus", gfx]) == 0
        assert "sources" in capsys.readouterr().out


def test_every_stack_has_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stacks"]) == 0
    listed = capsys.readouterr().out
    for name in (*stacks(), *recommendations()):
        assert name in listed
        assert run(["stacks", name]) == 0
        assert "Triton" in capsys.readouterr().out
    assert run(["stacks", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["stacks"]) == len(stacks())


@pytest.mark.parametrize("argv", [["gpus", "gfx9999"], ["stacks", "torch1"], ["stacks", "gfx1250"]])
def test_an_unknown_name_is_a_usage_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(argv) == EXIT_USAGE
    assert "fa-doctor" in capsys.readouterr().err
