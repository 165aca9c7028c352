"""Gathers the facts of a machine, in the order in which one rests on another."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from fa_doctor.evidence import Evidence
from fa_doctor.facts import (
    container,
    driver,
    gpus,
    health,
    libraries,
    loaded,
    node,
    packages,
    python,
    resources,
    rocm,
    system,
    toolchain,
    variables,
)
from fa_doctor.facts.container import Container
from fa_doctor.facts.driver import Driver
from fa_doctor.facts.gpus import Gpus
from fa_doctor.facts.health import Health
from fa_doctor.facts.libraries import Libraries
from fa_doctor.facts.loaded import Loaded
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.node import Node
from fa_doctor.facts.packages import Packages
from fa_doctor.facts.probes import Probe
from fa_doctor.facts.python import Python
from fa_doctor.facts.resources import Resources
from fa_doctor.facts.system import System
from fa_doctor.facts.toolchain import Toolchain
from fa_doctor.host import Host
from fa_doctor.level import Level

__all__ = ["gather"]

Fact = TypeVar("Fact")


def gather(host: Host, *, level: Level, python: str | None = None, deadline: float | None = None) -> Machine:
    """Reads all facts of a machine, each gatherer fed with what those before it found.

    `python` names the target interpreter. `deadline` (time.monotonic seconds) bounds every command that is run. From
    `level` standard on, a child of the target Python also imports torch and Triton.
    """
    faults: list[Evidence] = []

    def ask(subject: str, gatherer: Callable[[], Fact], unknown: Fact) -> Fact:
        try:
            return gatherer()
        except Exception as error:  # noqa: BLE001 - a gatherer of ours that breaks costs its facts, not the run
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = f"{where.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{where.tb_lineno}" if where else "?"
            faults.append(Evidence(place, f"reading the facts on {subject} broke: {type(error).__name__}: {error}"))
            return unknown

    host.deadline = deadline
    # The interpreter takes longer to answer than all files to be read: it is asked meanwhile.
    asked_python = _Meanwhile(
        "target Python", lambda: ask("the target Python", lambda: _python(host, python), _NO_PYTHON)
    )
    the_container = ask("the container", lambda: container.gather(host), Container(None))
    the_variables = ask("variables", lambda: variables.gather(host), None)
    the_gpus = ask("GPUs", lambda: gpus.gather(host, deep=level.depth > 1), Gpus(None, None))
    the_system = ask("the system", lambda: system.gather(host, the_gpus.versions), System())
    the_driver = ask(
        "the driver", lambda: driver.gather(host, the_gpus, the_system, deep=level.depth > 1), Driver(None)
    )
    the_container = container.inferred(the_container, the_driver, the_system.wsl)
    the_health = ask("the cards' health", lambda: health.gather(host, the_gpus, the_driver), Health())
    the_node = ask("the node's settings", lambda: node.gather(host, the_gpus, the_system), Node())
    the_python = asked_python.result()
    the_packages = ask("packages", lambda: packages.gather(host, the_python), Packages())
    the_rocm = ask("ROCm", lambda: rocm.gather(host, the_python, the_packages.torch, the_gpus.versions), None)
    the_libraries = ask("libraries", lambda: libraries.gather(host, the_python, the_packages, the_rocm), Libraries())
    the_toolchain = ask(
        "the toolchain",
        lambda: toolchain.gather(host, the_python, the_packages.triton, the_rocm, the_libraries),
        Toolchain(),
    )
    the_loaded: Loaded | None = None
    if level.depth > 1:
        the_loaded = ask("the import of torch", lambda: loaded.gather(host, the_python, the_rocm), None)
    the_resources = ask("resources", lambda: resources.gather(host, the_system, the_container, the_python), Resources())
    the_probes: tuple[Probe, ...] = ()
    if level.depth > 1 and deadline is not None:
        the_probes = ask("the probe", lambda: _probes(host, the_python, the_gpus, the_packages, level, deadline), ())
    return Machine(
        host_kind=host.kind,
        description=host.description,
        gpus=the_gpus,
        driver=the_driver,
        health=the_health,
        node=the_node,
        system=the_system,
        container=the_container,
        user=host.user,
        rocm=the_rocm,
        python=the_python,
        torch=the_packages.torch,
        triton=the_packages.triton,
        flash_attention=the_packages.flash_attention,
        aiter=the_packages.aiter,
        companions=the_packages.companions,
        variables=the_variables,
        libraries=the_libraries,
        toolchain=the_toolchain,
        loaded=the_loaded,
        resources=the_resources,
        probes=the_probes,
        faults=tuple(faults),
    )


_NO_PYTHON = Python(None, None)


class _Meanwhile:
    """A gatherer that runs in a thread of its own, a daemon: one that hangs in the kernel keeps no process alive."""

    def __init__(self, name: str, gatherer: Callable[[], Python]) -> None:
        self._found: list[Python] = []
        self._thread = Thread(target=lambda: self._found.append(gatherer()), daemon=True, name=f"facts: {name}")
        self._thread.start()

    def result(self) -> Python:
        """Waits for it. A gatherer lost to an exception that `ask` lets through (an exit) counts as not known."""
        self._thread.join()
        return self._found[0] if self._found else _NO_PYTHON


def _probes(
    host: Host, python: Python, gpus: Gpus, packages: Packages, level: Level, deadline: float
) -> tuple[Probe, ...]:
    from fa_doctor.probe.gather import gather as gather_probes

    return gather_probes(
        host, python, gpus, packages.torch, packages.flash_attention, deadline, speed=level.depth >= 600
    )


def _python(host: Host, executable: str | None) -> Python:
    return python.gather(host, executable)
