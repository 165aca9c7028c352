"""`fa-doctor install` from the command line, against the index on loopback and with a package tool of each kind."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tarfile
import textwrap
import time
from io import BytesIO, StringIO
from pathlib import Path

import pytest
import wheels
from conftest import Install, make_old_environment, snapshot

from fa_doctor.cli import run
from fa_doctor.installer.children import telling_lines
from fa_doctor.installer.destination import existing
from fa_doctor.installer.errors import Refused
from fa_doctor.installer.package_tool import PackageTool, find_tool
from fa_doctor.installer.pip import find_pip
from fa_doctor.installer.sources import configured_sources

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests must not reach pip and uv, and their indexes not be asked."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)


def command(install: Install, *extra: str, stack: bool = True) -> list[str]:
    words = ["install", "--venv", str(install.environment), "--python", install.base.executable]
    if stack:
        words += ["--arch", "gfx942", "--attention", "none"]
    words += ["--index-url", f"{install.server.url}/default", "--pytorch-index", f"{install.server.url}/whl"]
    return [*words, *extra]


def test_a_dry_run_says_everything_and_changes_nothing(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(tmp_path)
    assert run(command(install, "--dry-run")) == 0
    text = capsys.readouterr().out
    assert "torch-2.13.0+rocm7.2" in text
    assert "undo:" in text
    assert max(map(len, text.splitlines())) <= 80 + len(str(tmp_path))
    assert run(command(install, "--dry-run", "--format", "json")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["schema"] == "fa-doctor/plan/1"
    assert {"torch": "2.13.0+rocm7.2", "triton-rocm": "3.7.1"}.items() <= {
        row["name"]: row["version"] for row in plan["packages"]
    }.items()
    assert all(len(row["sha256"]) == 64 for row in plan["packages"])
    assert all(step["undo"] for step in plan["steps"])
    assert snapshot(tmp_path) == before


def test_a_second_run_changes_nothing_and_asks_no_index(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command(install, "--yes")) == 0
    first = capsys.readouterr().out
    assert "Done:" in first
    assert f"source {install.environment}/bin/activate" in first
    before, asked = snapshot(install.environment), sum(install.server.requests.values())
    started = time.monotonic()
    assert run(command(install, "--yes")) == 0
    assert time.monotonic() - started < 5
    assert "Nothing was changed" in capsys.readouterr().out
    assert snapshot(install.environment) == before
    assert sum(install.server.requests.values()) == asked


def test_a_damaged_environment_is_noticed_and_mended(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command(install, "--yes")) == 0
    (next(install.environment.glob("lib/python*/site-packages")) / "torch" / "version.py").unlink()
    assert run(command(install, "--yes")) == 0
    assert "Done:" in capsys.readouterr().out
    assert next(install.environment.glob("lib/python*/site-packages/torch/version.py")).exists()


def test_a_failing_verification_ends_with_what_was_undone(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word if word != "none" else "bundled" for word in command(install, "--stack", "rdna", "--yes")]
    words[words.index("gfx942")] = "gfx1100"
    assert run(words) == 1
    said = capsys.readouterr().err
    assert "undone:" in said
    assert "Next:" in said
    assert not install.environment.exists()


def test_without_yes_and_without_a_terminal_nothing_is_done(
    install: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO())
    assert run(command(install)) == 2
    assert "--yes" in capsys.readouterr().err
    assert not install.environment.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--arch", "gfx9999"],
        ["--stack", "no-such"],
        ["--offline"],
        ["--resume", "--rollback"],
        ["--rollback"],
        ["--wheels", "/no/such/folder"],
        ["--lock", __file__, "--yes"],
        ["--machine", "/no/such/machine"],
        ["--stack", "installed"],
        ["--venv", ""],
        ["--venv", "/"],
        ["--lock", ""],
        ["--lock", "/no/such/folder/lock.toml"],
        ["--download", ""],
        ["--download", __file__],
        ["--download", "/proc/no/such"],
        ["--index-url", "not-an-address"],
        ["--python", "/bin/ls"],
        ["--python", "/bin"],
        ["--python", "no-such-python"],
        ["--stack", "cpu", "--attention", "upstream"],
        ["--stack", "cpu", "--arch", "gfx942"],
        ["--rollback", "--dry-run"],
        ["--resume", "--arch", "gfx942"],
        ["--wait", "nan"],
    ],
)
def test_wrong_use_is_told(words: list[str], install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command(install, *words, stack=False)) in ([1, 2] if "/proc/no/such" in words else [2])
    said = capsys.readouterr().err
    assert said
    assert max(map(len, said.splitlines())) < 300, "a program's own text is not thrown at the user"
    assert "Traceback" not in said
    assert "internal error" not in said
    assert not install.environment.exists()


def test_the_name_of_a_product_is_answered_with_its_target(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(install, "--arch", "MI300X", stack=False)) == 2
    assert "Instinct MI300X is --arch gfx942" in capsys.readouterr().err


def test_a_dry_run_of_an_undo_undoes_nothing(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command(install, "--yes")) == 0
    before = snapshot(install.environment)
    assert run(["install", "--venv", str(install.environment), "--rollback", "--dry-run"]) == 2
    assert snapshot(install.environment) == before


def test_an_environment_that_may_not_be_looked_into(
    install: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    install.environment.mkdir()
    (install.environment / "bin").mkdir()
    monkeypatch.setattr(Path, "exists", lambda path: denied(path) if path.name == "python" else os.path.exists(path))
    assert run(command(install, "--yes")) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_commands_that_are_shown_can_be_pasted(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install.environment = install.environment.with_name("räume mit blanks")
    assert run(command(install, "--yes")) == 0
    quoted = shlex.quote(str(install.environment / "bin" / "activate"))
    assert f"  source {quoted}\n" in capsys.readouterr().out


def test_json_stands_alone_on_standard_output(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    for steps in (True, False):
        assert run(command(install, "--yes", "--format", "json")) == 0
        said = capsys.readouterr()
        assert bool(json.loads(said.out)["steps"]) == steps
        assert "Done:" in said.err or "Nothing was changed" in said.err


def test_rocm_that_exists_as_source_only_is_told_with_what_to_type(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    wants = ("rocm[libraries]==10.1.0", "triton==3.8.0+rocm10.1.0")
    install.server.indexes["amd"]["torch"].clear()
    install.server.offer("amd", wheels.torch("2.14.0+rocm10.1.0", wants, hip="10.1.0"))
    install.server.offer_file("amd", "rocm", "rocm-10.1.0.tar.gz", b"")
    words = command(install, "--dry-run", "--amd-index", f"{install.server.url}/amd")
    words[words.index("gfx942")] = "gfx1152"
    assert run(words) == 1
    said = capsys.readouterr().err
    assert "source only (rocm-10.1.0.tar.gz)" in said
    assert "pip install --index-url" in said
    assert "'torch[device-gfx1152]==2.14.0+rocm10.1.0'" in said


def test_something_else_in_the_place_of_an_environment(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install.environment.mkdir()
    (install.environment / "letters.txt").write_text("dear\n")
    assert run(command(install, "--yes")) == 2
    assert (install.environment / "letters.txt").read_text() == "dear\n"


def test_a_lock_file_gives_the_same_environment_elsewhere(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "pylock.gpu.toml"
    assert run(command(install, "--lock", str(lock), "--yes")) == 0
    content = tomllib.loads(lock.read_text())
    assert content["lock-version"] == "1.0"
    assert all(len(row["wheels"][0]["hashes"]["sha256"]) == 64 for row in content["packages"])
    # The index moves on; the lock file does not.
    install.server.offer("default", wheels.plain("filelock", "4.0"))
    second = Install(install.server, install.base, install.tool, tmp_path / "elsewhere" / "env")
    text = lock.read_bytes()
    assert run(command(second, "--lock", str(lock), "--yes", stack=False)) == 0
    assert lock.read_bytes() == text
    assert contents(second.environment) == contents(install.environment)
    # A second time there is nothing to do, as without a lock file.
    capsys.readouterr()
    after = snapshot(second.environment)
    assert run(command(second, "--lock", str(lock), "--yes", stack=False)) == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert snapshot(second.environment) == after
    # Written anew from the environment that is there, it is the same file.
    again = tmp_path / "pylock.again.toml"
    install.server.indexes["default"]["filelock"].pop()
    assert run(command(second, "--lock", str(again), "--dry-run")) == 0
    assert again.read_bytes() == text


def contents(environment: Path) -> dict[str, bytes]:
    """What a program can see of an environment: files by path, without the paths and names of this very install."""
    found = {}
    for path in environment.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name not in ("fa-doctor-install.json", "pyvenv.cfg"):
            text = path.read_bytes().replace(os.fsencode(environment), b"ENVIRONMENT")
            if path.name == "RECORD":  # the hashes of scripts hold the path of the environment
                text = b"\n".join(line for line in text.splitlines() if b"/bin/" not in line)
            found[str(path.relative_to(environment))] = text
    return found


def test_wheels_are_fetched_here_and_installed_there_without_a_network(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "wheels"
    assert run(command(install, "--download", str(folder))) == 0
    assert "--offline --wheels" in capsys.readouterr().out
    assert not install.environment.exists()
    asked = sum(install.server.requests.values())
    assert run(command(install, "--offline", "--wheels", str(folder), "--yes")) == 0
    assert sum(install.server.requests.values()) == asked
    there = existing(install.environment)
    assert there is not None
    assert there.installed["torch"].version == "2.13.0+rocm7.2"
    (next(folder.glob("filelock*"))).unlink()
    other = Install(install.server, install.base, install.tool, tmp_path / "other")
    assert run(command(other, "--offline", "--wheels", str(folder), "--yes")) == 1
    assert "filelock" in capsys.readouterr().err
    assert not other.environment.exists()


def test_rollback_and_resume_from_the_command_line(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_old_environment(install.environment, install.base, install.tool, tmp_path)
    before = snapshot(install.environment)
    assert run(command(install, "--yes")) == 0
    assert run(["install", "--venv", str(install.environment), "--resume"]) == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert run(["install", "--venv", str(install.environment), "--rollback"]) == 0
    assert "from before the install" in capsys.readouterr().out
    assert snapshot(install.environment) == before
    assert run(["install", "--venv", str(install.environment), "--rollback"]) == 2


def test_pip_does_what_uv_does(install: Install, tmp_path: Path) -> None:
    assert find_tool(os.environ, install.base.with_pip, "pip").kind == "pip"
    assert run(command(install, "--installer", "pip", "--yes")) == 0
    there = existing(install.environment)
    assert there is not None
    assert there.installed["torch"].version == "2.13.0+rocm7.2"
    old = Install(install.server, install.base, install.tool, tmp_path / "old")
    make_old_environment(old.environment, old.base, old.tool, tmp_path)
    before = snapshot(old.environment)
    assert run(command(old, "--installer", "pip", "--yes")) == 0
    taken = existing(old.environment)
    assert taken is not None
    assert "triton" not in taken.installed
    assert taken.installed["mine"].version == "1.0"
    assert run(["install", "--venv", str(old.environment), "--rollback"]) == 0
    assert snapshot(old.environment) == before


def test_the_pip_that_python_keeps_for_new_environments_will_do(install: Install, tmp_path: Path) -> None:
    """As on Debian and Ubuntu with python3-venv and nothing else: no uv, and no pip that is installed."""
    bare = tmp_path / "bare"
    subprocess.run([install.base.executable, "-m", "venv", "--without-pip", bare], check=True)
    pip = find_pip([str(bare / "bin" / "python")], os.environ)
    if pip is None:
        pytest.skip("this Python keeps no pip: it was built without ensurepip")
    assert pip.wheel
    install.tool = PackageTool(os.environ, pip=pip)
    install.transaction().run()
    there = existing(install.environment)
    assert there is not None
    assert there.installed["torch"].version == "2.13.0+rocm7.2"
    assert "pip" in there.installed, "a new environment has a pip"
    assert configured_sources([str(bare / "bin" / "python")], os.environ).default


def test_without_uv_and_pip_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fa_doctor.installer.package_tool.find_uv", lambda environ: None)
    with pytest.raises(Refused, match="python3-venv"):
        find_tool({"PATH": str(tmp_path)}, [])
    with pytest.raises(Refused, match="no uv"):
        find_tool({"PATH": str(tmp_path)}, [], "uv")


def test_the_lines_of_a_tool_that_tell_why() -> None:
    noise = "".join(f"Processing ./wheel{number}.whl\n" for number in range(40))
    assert telling_lines(f"{noise}ERROR: No space left on device\n") == "ERROR: No space left on device"
    assert telling_lines(noise).count("\n") < 12


def test_torch_and_triton_can_stay_as_they_are(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_old_environment(install.environment, install.base, install.tool, tmp_path)
    words = command(install, "--stack", "installed", "--yes")
    words[words.index("gfx942")] = "sm_90"
    assert run(words) == 0
    there = existing(install.environment)
    assert there is not None
    assert there.installed["torch"].version == "2.6.0"
    assert there.installed["triton"].version == "3.2.0"


UPSTREAM_SETUP = """
import os
from setuptools import setup
import packaging, psutil, ninja  # there without build isolation
wanted = {"FLASH_ATTENTION_TRITON_AMD_ENABLE": "TRUE", "FLASH_ATTENTION_FORCE_BUILD": "TRUE", "AITER_USE_SYSTEM_TRITON": "1",
          "AITER_TRITON_ONLY": "1", "ENABLE_CK": "0"}
for name, value in wanted.items():
    assert os.environ.get(name) == value, (name, os.environ.get(name))
assert int(os.environ["MAX_JOBS"]) >= 1
setup(name="flash-attn", version="2.8.3.post2", py_modules=["flash_attn"])
"""


def test_flash_attn_itself_is_built_as_its_release_wants_it(install: Install) -> None:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        body = "def flash_attn_func(*arguments, **options):\n    raise NotImplementedError\n"
        for name, text in {"setup.py": UPSTREAM_SETUP, "flash_attn.py": body}.items():
            entry = tarfile.TarInfo(f"flash_attn-2.8.3.post2/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, BytesIO(text.encode()))
    install.server.offer_file("default", "flash-attn", "flash_attn-2.8.3.post2.tar.gz", buffer.getvalue())
    for name in ("psutil", "ninja"):
        install.server.offer("default", wheels.plain(name, "99.0"))
    offer_real(install, "setuptools", "wheel", "pip", "packaging")
    install.attention = "upstream"
    transaction = install.transaction()
    assert transaction.plan.upstream is not None
    assert transaction.plan.variables["FLASH_ATTENTION_TRITON_AMD_ENABLE"].value == "TRUE"
    transaction.run()
    there = existing(install.environment)
    assert there is not None
    assert there.installed["flash-attn"].version == "2.8.3.post2"
    environment = json.loads((install.environment / "fa-doctor-environment.json").read_text())
    assert environment["variables"]["FLASH_ATTENTION_TRITON_AMD_ENABLE"]["value"] == "TRUE"


def offer_real(install: Install, *names: str) -> None:
    """Offers packages that are installed here as wheels: made from the files that their RECORD names."""
    from importlib import metadata

    for name in names:
        distribution = metadata.distribution(name)
        modules = {}
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            if (
                path.suffix in (".py", ".txt", ".toml", ".pem")
                and ".." not in file.parts
                and "__pycache__" not in file.parts
            ):
                modules[str(file)] = path.read_text(encoding="utf-8", errors="replace")
        points = distribution.read_text("entry_points.txt")
        info = f"{name}-{distribution.version}.dist-info"
        kept = {path: text for path, text in modules.items() if not path.startswith(info)}
        if points:
            kept[f"{info}/entry_points.txt"] = textwrap.dedent(points)
        install.server.offer("default", wheels.Wheel(name, distribution.version, (), kept))
