"""`fa-doctor install`: plans and sets up a stack that fits, verified, or leaves everything as it was."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from fa_doctor.commands.options import seconds
from fa_doctor.errors import FaDoctorError, UsageProblem

__all__ = ["command"]


@click.command("install")
@click.option(
    "--stack",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="See `fa-doctor stacks`; `installed` keeps torch and Triton as they are.",
)
@click.option("--arch", "archs", multiple=True, metavar="GFX", help="Install for this GPU, which need not be here.")
@click.option("--venv", metavar="DIR", help="The environment (default: the active one, else one of fa-doctor's own).")
@click.option("--python", metavar="EXE", help="The Python whose environment is taken, or that makes a new one.")
@click.option(
    "--attention",
    type=click.Choice(["bundled", "upstream", "none"]),
    help="The kernels fa-doctor carries, flash-attn built from source, or none (default: what suits the GPU).",
)
@click.option("--replace", is_flag=True, help="Take the place of a flash-attn that fa-doctor did not install.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--lock", "lock", metavar="FILE", help="Install exactly what FILE names; written first if not there.")
@click.option("--download", "download", metavar="DIR", help="Only fetch the wheels into DIR, for --wheels.")
@click.option("--wheels", metavar="DIR", help="Take wheels from DIR, and with --offline from nowhere else.")
@click.option("--offline", is_flag=True, help="Use no network.")
@click.option("--resume", is_flag=True, help="Complete an install that was cut off.")
@click.option("--rollback", is_flag=True, help="Undo the last install of the environment, complete or not.")
@click.option("--wait", type=seconds(0), default=0.0, metavar="S", help="Wait for another install to end.")
@click.option("--index-url", metavar="URL", help="The index for everything that is not of the stack.")
@click.option("--pytorch-index", metavar="URL", envvar="FA_DOCTOR_PYTORCH_INDEX", help="A mirror of PyTorch's indexes.")
@click.option("--amd-index", metavar="URL", envvar="FA_DOCTOR_AMD_INDEX", help="A mirror of AMD's index.")
@click.option("--installer", type=click.Choice(["uv", "pip"]), help="What puts the wheels in place (default: uv).")
@click.option("--machine", metavar="DIR", help="Plan for a recorded machine; with --dry-run.")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", help="Of the plan.")
def command(**options: Any) -> int:
    """Sets up torch, Triton and attention kernels that fit this GPU, verified, or leaves everything as it was.

    Everything is built beside the environment and put in its place in one step. An interrupt, a failure or a power cut
    leaves the environment as it was.
    """
    return _Install(options).run()


# Options that name something: an empty name is a slip, and must not mean "not given".
_NAMES = ("stack", "venv", "python", "lock", "download", "wheels", "index_url", "pytorch_index", "amd_index", "machine")
_OF_A_PLAN = ("dry_run", "archs", "attention", "replace", "lock", "download", "wheels", "machine")


def _check(options: dict[str, Any]) -> None:
    """Raises UsageProblem for what cannot be meant; asks no index and no interpreter."""
    for name in _NAMES:
        if options[name] == "":
            raise UsageProblem(f"{_word(name)} is empty: is a variable of the shell not set?")
    for name in ("index_url", "pytorch_index", "amd_index"):
        if options[name] and not options[name].startswith(("https://", "http://", "file://")):
            raise UsageProblem(f"{_word(name)}: {options[name]} is no address of an index")
    _check_kinds(options)
    _check_places(options)


def _check_kinds(options: dict[str, Any]) -> None:
    """The options that make it something else than an install from the indexes, and what goes with them."""
    if options["resume"] and options["rollback"]:
        raise UsageProblem("--resume and --rollback exclude each other")
    more = [_word(name) for name in _OF_A_PLAN if options[name]]
    for name in ("resume", "rollback"):
        if options[name] and more:
            raise UsageProblem(f"{_word(name)} is about the last install as it was planned: it goes without {more[0]}")
    if options["machine"] and not options["dry_run"]:
        raise UsageProblem("--machine only plans: add --dry-run")
    if options["machine"] and options["archs"]:
        raise UsageProblem("--machine and --arch exclude each other")
    if options["stack"] == "cpu" and options["archs"]:
        raise UsageProblem(f"the stack cpu has nothing for a GPU: leave out --stack, or --arch {options['archs'][0]}")
    if options["offline"] and not (options["wheels"] or options["resume"] or options["rollback"]):
        raise UsageProblem("--offline needs --wheels DIR, a folder that `fa-doctor install --download DIR` filled")


def _check_places(options: dict[str, Any]) -> None:
    """Folders to read from and files to write, before the indexes are asked."""
    if options["wheels"] and not os.path.isdir(options["wheels"]):
        raise UsageProblem(f"--wheels: {options['wheels']} is not a folder")
    if options["download"]:
        if os.path.lexists(options["download"]) and not os.path.isdir(options["download"]):
            raise UsageProblem(f"--download: {options['download']} is not a folder")
        _check_writable("--download", Path(options["download"]).absolute())
    if options["lock"] and not os.path.exists(options["lock"]):
        folder = Path(options["lock"]).absolute().parent
        if not folder.is_dir():
            raise UsageProblem(f"--lock: there is no folder {folder}")
        _check_writable("--lock", folder)


def _check_writable(word: str, folder: Path) -> None:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageProblem(f"{word}: {there} cannot be written to by this user")


def _word(name: str) -> str:
    """An option as it is typed."""
    return f"--{'arch' if name == 'archs' else name.replace('_', '-')}"


class _Install:
    """One call of the command, with its options."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.environ = dict(os.environ)
        _check(options)

    def run(self) -> int:
        from fa_doctor.installer.destination import environment_folder
        from fa_doctor.installer.plan import Paths

        folder = environment_folder(self.options["venv"], self.options["python"], self.environ)
        paths = Paths(folder)
        if self.options["rollback"]:
            return self._roll_back(paths)
        if self.options["resume"]:
            return self._resume(paths)
        return self._install(paths)

    def _install(self, paths: Any) -> int:
        from fa_doctor.installer import record as records
        from fa_doctor.installer.destination import existing
        from fa_doctor.installer.recover import refuse_if_unfinished

        refuse_if_unfinished(paths)
        destination = existing(paths.environment)
        lock_exists = bool(self.options["lock"]) and Path(self.options["lock"]).exists()
        choice = None if lock_exists else self._choose(destination)
        files = self.options["lock"] or self.options["download"]
        if choice and destination and not files and self._is_done(choice, destination, records):
            return self._nothing_to_do(paths, choice.stack.name)
        plan, python = self._plan(paths.environment, destination, choice)
        tool = self._tool(python)
        if lock_exists and destination and not self.options["download"] and records.is_made_by(plan, destination):
            return self._nothing_to_do(paths, plan.stack)
        self._show(plan, tool)
        if self.options["lock"] and not lock_exists:
            self._write_lock(plan)
        if self.options["dry_run"]:
            return 0
        if self.options["download"]:
            return self._download(plan)
        if not self._agreed():
            return 1
        from fa_doctor.installer.index import new_session
        from fa_doctor.installer.locking import locked
        from fa_doctor.installer.preconditions import check_preconditions

        # Before the lock, which is a file beside the environment: a refusal leaves nothing behind.
        check_preconditions(plan, new_session(), offline=self.options["offline"])
        with locked(paths, self.options["wait"]):
            refuse_if_unfinished(paths)
            return self._carry_out(plan, tool)

    def _nothing_to_do(self, paths: Any, stack: str) -> int:
        if self.options["style"] == "json":
            nothing = {"schema": "fa-doctor/plan/1", "environment": str(paths.environment), "stack": stack, "steps": []}
            click.echo(json.dumps(nothing, indent=1))
        self._say(f"Nothing to do: {paths.environment} has the stack {stack} as it should be. Nothing was changed.")
        return 0

    def _say(self, text: str) -> None:
        """To standard output, unless that is for the plan as JSON."""
        click.echo(text, err=self.options["style"] == "json")

    def _show(self, plan: Any, tool: Any) -> None:
        from fa_doctor.installer.wording import describe_download, describe_plan, plan_as_json

        if self.options["style"] == "json":
            click.echo(json.dumps(plan_as_json(plan, tool.kind), indent=1))
        elif self.options["download"]:
            click.echo(describe_download(plan, Path(self.options["download"])))
        else:
            click.echo(describe_plan(plan, tool.kind))

    def _choose(self, destination: Any) -> Any:
        from fa_doctor.installer import as_installed
        from fa_doctor.installer.choose import choose
        from fa_doctor.installer.destination import available_pythons

        self.pythons = None if destination else available_pythons(self.options["python"], self.environ)
        minors = [destination.python.minor] if destination else list(self.pythons or {})
        if self.options["stack"] == as_installed.NAME:
            return as_installed.choose_installed(self._situation(), destination.installed if destination else None)
        return choose(self.options["stack"], self._situation(), minors)

    def _situation(self) -> Any:
        from fa_doctor.installer.as_installed import NAME
        from fa_doctor.installer.situation import Situation, from_machine, from_targets

        if self.options["archs"]:
            return from_targets(self.options["archs"], any_vendor=self.options["stack"] == NAME)
        if self.options["stack"] == "cpu":
            return Situation((), "the CPU stack was asked for")
        from fa_doctor.commands.options import open_host
        from fa_doctor.diagnosis.gather import gather
        from fa_doctor.level import Level

        return from_machine(gather(open_host(self.options["machine"], None), level=Level.QUICK))

    def _is_done(self, choice: Any, destination: Any, records: Any) -> bool:
        """Whether the environment came from this very plan and is still as it was made."""
        from fa_doctor.installer.flash_attn_package import build_wheel

        record = records.read(destination.environment)
        if record is None:
            return False
        attention = self.options["attention"] or choice.attention
        kernels = build_wheel().sha256 if attention == "bundled" else None
        chosen = {name: variable.value for name, variable in choice.variables.items()}
        return (
            record.stack == choice.stack.name
            and record.attention == attention
            and record.targets == choice.targets
            and record.kernels_sha256 == kernels
            and chosen.items() <= record.variables.items()
            and not records.differences(record, destination.installed)
        )

    def _plan(self, folder: Path, destination: Any, choice: Any) -> Any:
        from fa_doctor.installer import lockfile
        from fa_doctor.installer.destination import Destination, available_pythons, to_be_made
        from fa_doctor.installer.index import IndexClient
        from fa_doctor.installer.planner import plan_from_choice, plan_from_lock
        from fa_doctor.installer.sources import Sources, configured_sources, index_of_stack

        options = self.options
        if choice is None:
            locked = lockfile.load(Path(options["lock"]))
            if destination is None:
                pythons = available_pythons(options["python"], self.environ)
                python = pythons.get(locked.python)
                if python is None:
                    raise UsageProblem(f"{locked.path} is for Python {locked.python}: name one with --python")
                destination = Destination(folder, False, python, {})
            self._connect(destination.python)
            plan = plan_from_lock(locked, destination, replace=options["replace"])
            return self._with_wheels(plan), destination.python
        if destination is None:
            destination = to_be_made(folder, choice.stack, self.pythons or {})
        if options["download"]:
            destination = Destination(folder, False, destination.python, {})
        sources = Sources(None)
        if not options["offline"]:
            python = destination.python
            self._connect(python)
            sources = configured_sources((python.executable, *python.with_pip), self.environ, options["index_url"])
        client = IndexClient(offline=options["offline"])
        folders = (str(Path(options["wheels"]).resolve()),) if options["wheels"] else ()
        plan = plan_from_choice(
            choice,
            destination,
            attention=options["attention"],
            replace=options["replace"],
            sources=Sources(sources.default, sources.extra, (*folders, *sources.find_links)),
            stack_index=None
            if options["offline"]
            else index_of_stack(choice.stack, options["pytorch_index"], options["amd_index"]),
            client=client,
            everything=bool(options["lock"]),
            folders=folders,
        )
        return plan, destination.python

    def _with_wheels(self, plan: Any) -> Any:
        """A plan from a lock file whose files are taken from --wheels where they are there."""
        from fa_doctor.installer.planner import from_folder

        if not self.options["wheels"]:
            return plan
        return from_folder(plan, Path(self.options["wheels"]).resolve(), only=self.options["offline"])

    def _connect(self, python: Any) -> None:
        from fa_doctor.installer.connection import connection_variables

        found = connection_variables((python.executable, *python.with_pip), self.environ)
        self.environ.update(found)
        os.environ.update(found)  # requests reads those of its own process

    def _tool(self, python: Any) -> Any:
        from fa_doctor.installer.package_tool import find_tool

        return find_tool(self.environ, python.with_pip, self.options["installer"])

    def _write_lock(self, plan: Any) -> None:
        from fa_doctor import __version__
        from fa_doctor.commands.options import write_output
        from fa_doctor.installer.lockfile import dump
        from fa_doctor.installer.package import local_path

        write_output(dump(plan, f"fa-doctor {__version__}"), self.options["lock"])
        self._say(f"The lock file {self.options['lock']} was written.")
        local = [package.name for package in plan.downloads if local_path(package.file.url)]
        if local:
            self._say(f"It names files in folders of this machine ({', '.join(local)}): elsewhere add --wheels DIR.")

    def _agreed(self) -> bool:
        if self.options["yes"]:
            return True
        if not sys.stdin.isatty():
            raise UsageProblem("nobody is there to agree: say --yes to install, --dry-run to see the plan only")
        return click.confirm("Carry this out?", default=False)

    def _download(self, plan: Any) -> int:
        from fa_doctor.installer.download import Downloader
        from fa_doctor.installer.index import new_session
        from fa_doctor.installer.progress import Progress
        from fa_doctor.installer.wording import describe_downloaded

        folder = Path(self.options["download"]).absolute()
        downloader = Downloader(folder, new_session(), Progress().bytes)
        for package in plan.downloads:
            downloader.fetch(package.file)
        self._say(describe_downloaded(plan, folder))
        return 0

    def _carry_out(self, plan: Any, tool: Any) -> int:
        from fa_doctor.installer.errors import Refused
        from fa_doctor.installer.interruption import terminated_as_interrupt
        from fa_doctor.installer.plan import steps_of
        from fa_doctor.installer.progress import Progress
        from fa_doctor.installer.transaction import Transaction
        from fa_doctor.installer.wording import describe_failure, describe_success

        progress = Progress(steps_of(plan))
        transaction = Transaction(
            plan, tool, self.environ, on_step=progress.step, progress=progress.bytes, offline=self.options["offline"]
        )
        try:
            with terminated_as_interrupt():
                outcome = transaction.run()
        except Refused:
            raise
        except KeyboardInterrupt:
            # The terminal shows ^C where the cursor stood.
            text = describe_failure(plan, transaction, "it was interrupted", interrupted=True)
            click.echo(f"\n{text}" if sys.stderr.isatty() else text, err=True)
            return 130
        except FaDoctorError as error:
            click.echo(describe_failure(plan, transaction, str(error)), err=True)
            return error.exit_code
        self._say(describe_success(plan, outcome))
        return 0

    def _resume(self, paths: Any) -> int:
        from fa_doctor.installer import lockfile
        from fa_doctor.installer.destination import Destination, existing
        from fa_doctor.installer.locking import locked
        from fa_doctor.installer.planner import plan_from_lock
        from fa_doctor.installer.recover import complete_placing, unfinished
        from fa_doctor.installer.target import inspect_python
        from fa_doctor.installer.wording import next_steps

        if unfinished(paths) is None:
            click.echo(f"Nothing to do: no install of {paths.environment} was cut off. Nothing was changed.")
            return 0
        with locked(paths, self.options["wait"]):
            cut = unfinished(paths)
            if cut is None:
                return 0
            if complete_placing(paths, cut):
                click.echo(f"Done: {paths.environment} had been built and verified; it is in its place now.")
                click.echo("\n".join(next_steps(paths.environment, True)))
                return 0
            stored = lockfile.load(cut.plan)
            destination = existing(paths.environment) or Destination(
                paths.environment, False, inspect_python(cut.base_python), {}
            )
            self._connect(destination.python)
            plan = plan_from_lock(stored, destination, replace=True)
            click.echo(f"Resumes the install that was cut off at the step {cut.step!r}.")
            return self._carry_out(plan, self._tool(destination.python))

    def _roll_back(self, paths: Any) -> int:
        from fa_doctor.installer.locking import locked
        from fa_doctor.installer.recover import roll_back

        if not paths.journal.exists():
            raise UsageProblem(f"there is no install of {paths.environment} to undo")
        with locked(paths, self.options["wait"]):
            click.echo(f"Undone: {roll_back(paths)}.")
        return 0
