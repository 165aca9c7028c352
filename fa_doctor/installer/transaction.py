"""Carries a plan out as a whole or not at all.

Everything is built beside the environment, in a copy; the environment itself changes in one
rename, after the copy was verified and is on the disk. Before that moment an error, an interrupt or a power cut leaves
the environment as it was; after it, it is the new one. The journal says which, for --resume and --rollback.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import requests

from fa_doctor import __version__
from fa_doctor.environment_file import NAME as ENVIRONMENT_FILE
from fa_doctor.environment_file import EnvironmentFile
from fa_doctor.installer import lockfile, placing, record
from fa_doctor.installer.compile import Compiled, compile_kernels
from fa_doctor.installer.download import Downloader, sha256_of
from fa_doctor.installer.errors import InstallFailed
from fa_doctor.installer.index import new_session
from fa_doctor.installer.journal import Journal
from fa_doctor.installer.package_tool import PackageTool, Pin
from fa_doctor.installer.plan import Plan, Step, steps_of
from fa_doctor.installer.preconditions import check_preconditions
from fa_doctor.installer.recover import digest
from fa_doctor.installer.relocate import relocate
from fa_doctor.installer.tree import Entry, clone, differences, flush, manifest, remove
from fa_doctor.installer.upstream import build_source
from fa_doctor.installer.verify import Verdict, verify

__all__ = ["Outcome", "Transaction"]

Verifier = Callable[[Plan, Path, Mapping[str, str]], Verdict]
Compiler = Callable[[Path, Path, Path, tuple[str, ...], Mapping[str, str]], tuple[Compiled, ...]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, in words, and where the environment as it was is kept (None: there was none)."""

    done: tuple[str, ...]
    previous: Path | None
    verified: tuple[str, ...]
    compiled: tuple[Compiled, ...] = ()


@dataclass
class Transaction:
    """One install. `on_step(step, event)` is told of "start" and "done" of each; `progress` of arriving bytes.

    `run` must be called under the lock of the environment. `done` are the titles of the steps so far, `at` the present one.
    """

    plan: Plan
    tool: PackageTool
    environ: Mapping[str, str]
    session: requests.Session = field(default_factory=new_session)
    verifier: Verifier = verify
    compiler: Compiler = compile_kernels
    on_step: Callable[[Step, str], None] = lambda step, event: None
    progress: Callable[[str, int, int | None], None] = lambda name, done, total: None
    offline: bool = False
    identity: str = field(default_factory=lambda: uuid.uuid4().hex)
    done: list[str] = field(default_factory=list)
    at: Step | None = None
    compiled: tuple[Compiled, ...] = ()
    _verdict: Verdict = field(default_factory=lambda: Verdict(True))
    _before: dict[str, Entry] = field(default_factory=dict)

    def run(self) -> Outcome:
        """Carries the plan out. Whatever is raised, the environment is as it was, and nothing is left beside it but
        the journal and finished downloads."""
        paths = self.plan.paths
        check_preconditions(self.plan, self.session, offline=self.offline)
        paths.state.mkdir(parents=True, exist_ok=True)
        journal = Journal(paths.journal)
        try:
            remove(paths.state / "stage")
            paths.plan.write_text(
                lockfile.dump(self.plan, f"fa-doctor {__version__}", for_others=False), encoding="utf-8"
            )
            journal.write("begin", transaction=self.identity, environment=str(self.plan.environment), **self._facts())
            self._before = manifest(self.plan.environment) if self.plan.exists else {}
            for step in steps_of(self.plan):
                self.at = step
                self.on_step(step, "start")
                journal.write("start", step=step.name)
                self._carry_out(step, journal)
                journal.write("done", step=step.name)
                self.done.append(step.title)
                self.on_step(step, "done")
        except BaseException as error:
            # An interrupt between the rename and its record must not undo a finished install.
            if not placing.is_in_place(paths, self.identity):
                journal.write("failed", why=f"{type(error).__name__}: {error}"[:2000])
                remove(paths.state / "stage")
                remove(paths.scratch)
                journal.write("undone")
                raise
        placing.settle(paths, self.identity, journal)
        previous = paths.previous if paths.previous.exists() else None
        return Outcome(tuple(self.done), previous, self._verdict.passed, self.compiled)

    def _facts(self) -> dict[str, object]:
        return {"tool": __version__, "exists": self.plan.exists, "base_python": self.plan.base_python}

    def _carry_out(self, step: Step, journal: Journal) -> None:
        actions: dict[str, Callable[[], None]] = {
            "download": self._download,
            "make": self._make,
            "copy": self._copy,
            "remove": self._remove,
            "install": self._install,
            "kernels": self._install_kernels,
            "upstream": self._install_upstream,
            "compile": self._compile,
            "environment": self._write_environment_file,
            "verify": self._verify,
            "place": lambda: self._place(journal),
        }
        actions[step.name]()

    @property
    def _python(self) -> Path:
        return self.plan.paths.stage / "bin" / "python"

    @property
    def _wheel_folder(self) -> Path:
        return self.plan.paths.wheels

    def _download(self) -> None:
        downloader = Downloader(self._wheel_folder, self.session, self.progress)
        for package in self.plan.downloads:
            assert package.file is not None
            downloader.fetch(package.file)

    def _make(self) -> None:
        stage = self.plan.paths.stage
        stage.parent.mkdir(parents=True, exist_ok=True)
        self.tool.make_environment(stage, self.plan.base_python)

    def _copy(self) -> None:
        stage = self.plan.paths.stage
        stage.parent.mkdir(parents=True, exist_ok=True)
        clone(self.plan.environment, stage)

    def _remove(self) -> None:
        self.tool.uninstall(self._python, [entry.name for entry, _ in self.plan.remove])

    def _install(self) -> None:
        pins = []
        for package in self.plan.packages:
            assert package.file is not None
            digest = package.file.sha256 or sha256_of(self._wheel_folder / package.file.filename)
            pins.append(Pin(package.name, package.version, digest))
        if pins:
            self.tool.install(self._python, self._wheel_folder, pins, self.plan.paths.scratch)

    def _install_kernels(self) -> None:
        kernels = self.plan.kernels
        assert kernels is not None
        self._wheel_folder.mkdir(parents=True, exist_ok=True)
        (self._wheel_folder / kernels.filename).write_bytes(kernels.content)
        pin = Pin("flash-attn", kernels.version, kernels.sha256)
        self.tool.install(self._python, self._wheel_folder, [pin], self.plan.paths.scratch)

    def _install_upstream(self) -> None:
        source = self.plan.upstream
        assert source is not None
        assert source.file is not None
        archive = self._wheel_folder / source.file.filename
        environ = {**self.environ, "PATH": f"{self._python.parent}:{self.environ.get('PATH', '')}"}
        built = build_source(archive, self._python, self._wheel_folder, self.plan.targets, environ)
        pin = Pin("flash-attn", built.name.split("-")[1], sha256_of(built))
        self.tool.install(self._python, self._wheel_folder, [pin], self.plan.paths.scratch)

    def _compile(self) -> None:
        stage, final = self.plan.paths.stage, self.plan.environment
        self.compiled = self.compiler(self._python, stage, final, self.plan.targets, self.environ)

    def _write_environment_file(self) -> None:
        EnvironmentFile(self.plan.paths.stage / ENVIRONMENT_FILE).write(dict(self.plan.variables))

    def _verify(self) -> None:
        self._verdict = self.verifier(self.plan, self._python, self.environ)
        if not self._verdict.ok:
            raise InstallFailed(f"what was installed does not work: {self._verdict.problem}")

    def _place(self, journal: Journal) -> None:
        paths = self.plan.paths
        relocate(paths.stage, paths.stage, paths.environment)
        record.write(paths.stage, record.record_of(self.plan, self.identity, __version__))
        if self.plan.exists:
            changed = differences(self._before, manifest(paths.environment))
            if changed:
                raise InstallFailed(
                    f"{paths.environment} was changed by something else meanwhile ({len(changed)} files, such as "
                    f"{changed[0]}): it is left as it is now"
                )
        flush(paths.stage)
        before = digest(self._before) if self.plan.exists else None
        journal.write("ready", transaction=self.identity, before=before)
        placing.place(paths, journal, exists=self.plan.exists)
