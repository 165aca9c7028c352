"""Rules for the source of kernels that no Triton release states, kept so that each of them compiles what is written."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[2] / "kernels"


def _assigned_loop_variables(source: str) -> list[str]:
    """ "function: variable" for each loop of a kernel that assigns its own variable."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or "jit" not in "".join(map(ast.dump, function.decorator_list)):
            continue
        for loop in ast.walk(function):
            if isinstance(loop, ast.For) and isinstance(loop.target, ast.Name):
                stored = {
                    name.id
                    for statement in loop.body
                    for name in ast.walk(statement)
                    if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
                }
                if loop.target.id in stored:
                    found.append(f"{function.name}: {loop.target.id}")
    return found


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.py")), ids=lambda path: path.stem)
def test_no_kernel_assigns_the_variable_of_its_loop(path: Path) -> None:
    """Triton 3.2 takes it for one that is carried from round to round: wrong blocks are read, without an error."""
    assert _assigned_loop_variables(path.read_text(encoding="utf-8")) == []


def test_the_rule_finds_what_it_is_about() -> None:
    source = "@triton.jit\ndef f(n):\n    for i in range(n):\n        if n:\n            i = g(i)\n"
    assert _assigned_loop_variables(source) == ["f: i"]
    assert _assigned_loop_variables(source.replace("i = g(i)", "j = g(i)")) == []
