"""One direction of flow: Host -> facts -> checks -> report -> commands. No import goes back, so none goes round."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# From the ground up: a package may import those before it (and itself), for types too.
ORDER = (
    "__version__",
    "errors",
    "package_files",
    "evidence",
    "level",
    "user_folders",
    "redaction",
    "environment_file",
    "kernels",
    "kernel_process",
    "knowledge",
    "host",
    "facts",
    "probe",
    "diagnosis",
    "checks",
    "report",
    "bench",
    "installer",
    "entrypoint",
    "fixing",
    "commands",
    "cli",
    "__main__",
)
# The registry of checks is filled by importing them, when the list is asked for.
ALLOWED = {("diagnosis/check.py", "checks")}


def sources() -> Iterator[tuple[str, str, Path]]:
    """(package, path below it, file) of every module of fa_doctor and of the checks."""
    for path in sorted((ROOT / "fa_doctor").rglob("*.py")):
        below = path.relative_to(ROOT / "fa_doctor")
        yield below.parts[0].removesuffix(".py"), str(below), path
    for path in sorted((ROOT / "checks").glob("*.py")):
        yield "checks", f"checks/{path.name}", path


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, wherever the statement stands."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (
                [node.module] if node.module != "fa_doctor" else [f"fa_doctor.{one.name}" for one in node.names]
            )
        elif isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        else:
            yield from imports(node)


def test_imports_go_one_way() -> None:
    wrong = []
    for package, name, path in sources():
        if package == "__init__":
            continue
        assert package in ORDER, f"{name}: where does it stand?"
        for module in imports(ast.parse(path.read_text())):
            parts = module.split(".")
            if parts[0] != "fa_doctor" or len(parts) < 2:
                continue
            if ORDER.index(parts[1]) > ORDER.index(package) and (name, parts[1]) not in ALLOWED:
                wrong.append(f"{name} imports {module}")
    assert wrong == []


def test_the_kernels_know_nothing_of_the_doctor() -> None:
    """They are installed as `flash_attn` too: no module of fa_doctor, and of other packages torch and Triton only."""
    for path in sorted((ROOT / "kernels").rglob("*.py")):
        for module in imports(ast.parse(path.read_text())):
            assert module.split(".")[0] != "fa_doctor", path.name


def test_the_doctor_never_imports_what_it_examines() -> None:
    """torch and Triton are imported in children only (their programs are the files named here)."""
    children = ("probe/child/", "installer/flash_attn/")
    for _, name, path in sources():
        if name.startswith(children):
            continue
        for module in imports(ast.parse(path.read_text())):
            assert module.split(".")[0] not in ("torch", "triton", "flash_attn", "aiter"), f"{name} imports {module}"


def test_checks_touch_nothing_outside() -> None:
    """A check is a pure function of a Machine: no file, no process, no clock."""
    for path in sorted((ROOT / "checks").glob("*.py")):
        modules = {module.split(".")[0] for module in imports(ast.parse(path.read_text()))}
        assert not modules & {"os", "io", "pathlib", "subprocess", "socket", "time", "datetime", "shutil"}, path.name
        assert "open(" not in path.read_text().replace("_open(", ""), path.name
