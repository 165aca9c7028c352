"""Options that several commands have are read in one way."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from fa_doctor.cli import COMMANDS, main_group
from fa_doctor.commands.options import seconds


def options() -> Iterator[tuple[str, click.Option]]:
    """Every option of every command, with the name of its command."""
    context = click.Context(main_group)
    pending = [(name, main_group.get_command(context, name)) for name in COMMANDS]
    while pending:
        name, command = pending.pop()
        assert command is not None, name
        if isinstance(command, click.Group):
            pending += [(f"{name} {inner}", command.commands[inner]) for inner in command.commands]
        yield from ((name, option) for option in command.params if isinstance(option, click.Option))


def test_a_number_with_a_fraction_is_a_number_of_seconds() -> None:
    found = [(name, option) for name, option in options() if isinstance(option.type, click.types.FloatParamType)]
    assert len(found) >= 10
    kinds = {type(option.type) for _, option in found}
    assert kinds == {type(seconds(0))}, "click's own float reads nan and inf, with which no deadline would ever come"


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e300", "1000001", "-1", "soon", ""])
def test_what_is_no_number_of_seconds(word: str) -> None:
    with pytest.raises(click.BadParameter):
        seconds(0)(word)


def test_a_number_of_seconds() -> None:
    assert seconds(0)("0") == 0.0
    assert seconds(0.5)("1e3") == 1000.0
    with pytest.raises(click.BadParameter):
        seconds(0.5)("0.4")
