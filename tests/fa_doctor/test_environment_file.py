"""The environment file: what is written comes back; a damaged one is said to be so."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa_doctor.environment_file import EnvironmentFile, Variable, environment_file_of
from fa_doctor.errors import UsageProblem


def test_it_lies_in_the_environment_that_it_belongs_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert environment_file_of("/opt/venv", "venv").path == Path("/opt/venv/fa-doctor-environment.json")
    assert environment_file_of("/usr", "system").path.is_relative_to(tmp_path / "config")


def test_set_and_remove(tmp_path: Path) -> None:
    file = EnvironmentFile(tmp_path / "new/environment.json")
    assert file.read() == {}
    file.set("A", Variable("1", "because"))
    file.set("B", Variable("x y\n'\"$", "why"))
    assert file.read() == {"A": Variable("1", "because"), "B": Variable("x y\n'\"$", "why")}
    file.set("A", None)
    file.set("B", None)
    assert not file.path.exists()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": "other", "variables": {}}', '{"schema": "fa-doctor/environment/1", "variables": []}',
     '{"schema": "fa-doctor/environment/1", "variables": {"A B": {"value": "1", "reason": ""}}}', "\x00"],
)  # fmt: skip
def test_damage_is_a_usage_problem(tmp_path: Path, text: str) -> None:
    file = EnvironmentFile(tmp_path / "environment.json")
    file.path.write_text(text)
    with pytest.raises(UsageProblem):
        file.read()


@given(value=st.text(alphabet=st.characters(codec="utf-8")))
def test_any_value_comes_back(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    file = EnvironmentFile(tmp_path_factory.mktemp("any") / "environment.json")
    file.write({"NAME": Variable(value, "r")})
    assert file.read()["NAME"].value == value
