"""What `env` prints, evaluated by the real shells, gives exactly the values."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fa_doctor.diagnosis.actions import SetVariable
from fa_doctor.diagnosis.model import Finding, Fix, Safety, failed
from fa_doctor.entrypoint.needed import needed_variables
from fa_doctor.entrypoint.shells import render
from fa_doctor.environment_file import Variable

VALUES = [
    "TRUE",
    "",
    "two words",
    " blanks at both ends ",
    "it's",
    '"quoted"',
    "$HOME and `id` and $(id) and ${x}",
    "back\\slash \\n \\' \\",
    "line one\nline two\n",
    "tab\there",
    "größe 測試 🙂",
    "!history #comment ; & | < > * ? [a] {b,c} ~ =",
    "/opt/rocm/lib:/usr/lib",
    "%h %n",
]
# Every character that an environment can hold: not NUL, no lone surrogates.
TEXT = st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8"), max_size=60)

SHELLS = {
    "bash": ("bash", ["bash", "--norc", "-c"]),
    "dash": ("bash", ["dash", "-c"]),
    "fish": ("fish", ["fish", "--no-config", "-c"]),
}


def evaluated(shell: str, values: list[str]) -> list[str]:
    """The values of FA_0, FA_1, … as a child of the shell sees them after evaluating what `render` printed."""
    form, argv = SHELLS[shell]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    text = render({f"FA_{number}": Variable(value, "a 'reason'\n$(id)") for number, value in enumerate(values)}, form)
    script = text + "\nenv -0\n"
    done = subprocess.run([*argv, script], capture_output=True, timeout=30, check=True)
    seen = dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if "=" in entry)
    return [seen[f"FA_{number}"] for number in range(len(values))]


@pytest.mark.parametrize("shell", SHELLS)
def test_values_survive_the_shell(shell: str) -> None:
    assert evaluated(shell, VALUES) == VALUES


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=8, deadline=None)
@given(values=st.lists(TEXT, min_size=1, max_size=20))
def test_any_value_survives_the_shell(shell: str, values: list[str]) -> None:
    assert evaluated(shell, values) == values


def test_json_holds_value_and_reason() -> None:
    text = render({"A": Variable("x\ny", "why")}, "json")
    assert json.loads(text) == {"A": {"value": "x\ny", "reason": "why"}}
    assert json.loads(render({}, "json")) == {}
    assert render({}, "bash") == ""


@given(value=TEXT)
def test_github_reads_the_value_back(value: str) -> None:
    """The runner's rule: NAME<<DELIMITER, lines, DELIMITER alone on a line."""
    lines = render({"A": Variable(value, "r")}, "github").split("\n")
    name, _, delimiter = lines[0].partition("<<")
    end = lines.index(delimiter)
    assert name == "A"
    assert "\n".join(lines[1:end]) == value


@given(value=TEXT)
def test_systemd_and_docker_are_one_line_each(value: str) -> None:
    for form in ("systemd", "docker"):
        lines = render({"A": Variable(value, "r")}, form).split("\n")
        assert len(lines) == 3 or any(end in value for end in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
    assert render({"A": Variable('50% "x" $y \\', "r")}, "systemd").endswith('Environment="A=50%% \\"x\\" $y \\\\"\n')
    assert render({"A": Variable('"x" $y \\', "r")}, "docker").endswith('ENV A="\\"x\\" \\$y \\\\"\n')


def finding(value: str | None, safety: Safety = Safety.SAFE) -> Finding:
    fix = Fix("set it", action=SetVariable("A", value), safety=safety)
    return Finding("VAR001", "variables.a", failed("A is not set", cause="c", fixes=[fix]))


def test_only_what_is_proven_missing_is_needed() -> None:
    assert needed_variables({}, [finding("1")], {})["A"].value == "1"
    assert needed_variables({}, [finding("1")], {"A": "1"}) == {}, "evaluating twice changes nothing"
    assert needed_variables({}, [finding(None)], {"A": "1"}) == {}
    assert needed_variables({}, [finding("1", Safety.UNSAFE)], {}) == {}
    kept = {"A": Variable("kept", "installed so")}
    assert needed_variables(kept, [], {})["A"].value == "kept"
    assert needed_variables(kept, [], {"A": "the user's own"}) == {}
