"""Rules for the source of kernels that no Triton release states, kept so that each of them compiles what is written."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "kernels"
LAUNCHING = sorted([*KERNELS.glob("*.py"), *(ROOT / "fa_doctor" / "probe" / "child").glob("*.py")])


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


def _launches(source: str) -> list[tuple[int, bool]]:
    """(line, whether it says what becomes of a product and a sum) of each launch: kernel[grid](..., BLOCK=128)."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Subscript):
            names = [
                word.arg or ast.unparse(word.value).rpartition(".")[2]  # the second is that of **something
                for word in call.keywords
            ]
            if any(name.isupper() or name == "constants" for name in names):
                found.append((call.lineno, "FUSED" in names or "enable_fp_fusion" in names))
    return found


def test_each_launch_says_whether_products_and_sums_are_fused() -> None:
    """Triton 3.9 warns of a launch that leaves it out, and the next release will compile it to other numbers."""
    launches = [(path.name, *launch) for path in LAUNCHING for launch in _launches(path.read_text(encoding="utf-8"))]
    assert {name for name, *_ in launches} >= {"launching.py", "rotary.py", "smoke.py"}
    assert [(name, line) for name, line, said in launches if not said] == []


def test_the_rule_finds_launches() -> None:
    assert _launches("k[(3,)](x, BLOCK=8)") == [(1, False)]
    assert _launches("k[(3,)](x, BLOCK=8, enable_fp_fusion=True)\nk[(3,)](x, **constants, **compat.FUSED)") == [
        (1, True),
        (2, True),
    ]
