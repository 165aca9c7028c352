"""The target Python: the interpreter that is examined and installed into, and its distributions, from metadata."""

from __future__ import annotations

import ast
import posixpath
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fa_doctor.evidence import Evidence
from fa_doctor.facts.distributions import Distribution, in_folder, parse_pth
from fa_doctor.host import CommandOutput, Host, Problem

__all__ = ["QUESTION", "Answer", "Distribution", "Python", "gather", "parse_answer", "parse_pyvenv_cfg"]

_DEADLINE_S = 3.0  # after which an interpreter that says nothing is taken to hang
# Where uv and pipx keep the environments of tools. `uvx fa-doctor` puts its own first on PATH: it is not what is meant.
_TOOL_ENVIRONMENT = re.compile(r"/uv/(archive-v\d+|tools|environments-v\d+)/|/pipx/(venvs|\.cache)/")
_PTH_LIMIT = 64  # .pth files of one folder that are followed

# Asked of the target with -I (no PYTHON* variables, no user site) and -S (no site, so no .pth code of packages runs).
# Under -S sys.prefix is that of the base interpreter up to Python 3.13: what belongs to the virtual environment is
# found from its files. The include folder is asked for as Triton asks for it (triton/runtime/build.py).
# It prints a Python literal: importing json would double the time that the interpreter takes.
QUESTION = """
import sys, sysconfig, site
scheme = sysconfig.get_default_scheme() if hasattr(sysconfig, "get_default_scheme") else "posix_prefix"
if scheme == "posix_local":
    scheme = "posix_prefix"
user = None
try:
    user = site.getusersitepackages()
except Exception:
    pass
print("fa-doctor:" + repr({
    "version": "%d.%d.%d" % sys.version_info[:3], "abiflags": getattr(sys, "abiflags", ""),
    "implementation": sys.implementation.name, "base_prefix": sys.base_prefix,
    "include": sysconfig.get_path("include", scheme), "stdlib": sysconfig.get_path("stdlib"),
    "site_packages": site.getsitepackages([sys.base_prefix]), "user_site": user}))
"""


@dataclass(frozen=True, slots=True)
class Python:
    """`environment`: "venv", "conda", "system" or "other"; `chosen_because` says which rule picked this interpreter.

    `site_packages` are the folders that packages are installed into, the one that pip writes to first;
    `search_path` is the order in which `import` looks through folders of packages: those of PYTHONPATH, the user's own
    site, site-packages, and the folders that .pth files add.
    """

    executable: str | None
    version: str | None
    prefix: str | None = None
    base_prefix: str | None = None
    environment: str | None = None
    chosen_because: str = ""
    free_threaded: bool | None = None
    externally_managed: bool | None = None
    include_folder: str | None = None  # where Python.h should be
    has_headers: bool | None = None
    site_packages: tuple[str, ...] = ()
    user_site: str | None = None
    search_path: tuple[str, ...] = ()
    python_path: tuple[str, ...] = ()  # the folders of PYTHONPATH
    writable: bool | None = None
    distributions: tuple[Distribution, ...] | None = None
    uv: str | None = None  # where PATH finds uv, which installs faster than pip
    problem: str | None = None  # what happened when it did not start
    hurried: bool = False  # it was given less time than an interpreter may take on a slow disk
    evidence: tuple[Evidence, ...] = ()

    def find(self, *names: str) -> tuple[Distribution, ...]:
        """The installed distributions of these (normalised) names."""
        return tuple(found for found in self.distributions or () if found.name in names)

    @property
    def minor(self) -> str | None:
        """The version as wheels name it: "3.12", or "3.13t" for a free-threaded build."""
        match = re.match(r"\d+\.\d+", self.version or "")
        return f"{match[0]}{'t' if self.free_threaded else ''}" if match else None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the interpreter said of itself."""

    version: str
    abiflags: str = ""
    base_prefix: str | None = None
    include: str | None = None
    stdlib: str | None = None
    site_packages: tuple[str, ...] = ()
    user_site: str | None = None


def gather(host: Host, python: str | None = None) -> Python:
    """Finds the target (`python`, else the active environment, else python3 on PATH, else the doctor's own), asks it
    once under a deadline, and reads what is installed. A target that does not start is described from its files."""
    executable, because = _choose(host, python)
    if executable is None:
        return Python(None, None, chosen_because=because, problem=because)
    evidence = [Evidence(executable, because)]
    # Files tell most of it too: some of the time is kept for them and for the report.
    timeout = _DEADLINE_S if host.deadline is None else min(_DEADLINE_S, 0.7 * (host.deadline - time.monotonic()))
    output = host.run([executable, "-I", "-S", "-c", QUESTION], timeout_s=timeout)
    answer = parse_answer(output.stdout)
    problem = None if answer or output.problem is Problem.UNRECORDED else _what_went_wrong(output, timeout)
    if problem:
        evidence.append(Evidence(f"{executable} -I -S -c ...", problem))

    home = posixpath.dirname(posixpath.dirname(executable))
    cfg_path = f"{home}/pyvenv.cfg"
    cfg_text = host.read(cfg_path).text
    cfg = parse_pyvenv_cfg(cfg_text or "")
    is_venv = cfg_text is not None
    base = answer.base_prefix if answer else _base_from_files(host, executable, cfg if is_venv else {})
    prefix = home if is_venv else (base or home)
    version = answer.version if answer else _version_from_files(host, executable, prefix, base, cfg)
    environment = _environment(host, prefix, is_venv)
    free_threaded = "t" in answer.abiflags if answer else None

    sites = _site_packages(host, prefix, version, answer, is_venv)
    user_site = _user_site(host, answer, cfg, is_venv)
    inherited: list[str] = []
    if is_venv and cfg.get("include-system-site-packages", "").lower() == "true":
        theirs = answer.site_packages if answer else _site_packages(host, base or "/usr", version, None, False)
        inherited = [path for path in theirs if host.exists(path)]
    search = _search_path(host, sites, user_site, inherited)
    distributions = _distributions(host, search)
    stdlib = answer.stdlib if answer else _stdlib_from_files(host, base or prefix, version)
    managed = host.exists(f"{stdlib}/EXTERNALLY-MANAGED") if stdlib and not is_venv else (False if is_venv else None)
    include = answer.include if answer else _include_from_files(base or prefix, version)
    return Python(
        executable=executable,
        version=version,
        prefix=prefix,
        base_prefix=base,
        environment=environment,
        chosen_because=because,
        free_threaded=free_threaded,
        externally_managed=managed,
        include_folder=include,
        has_headers=host.exists(f"{include}/Python.h") if include else None,
        site_packages=tuple(sites),
        user_site=user_site,
        search_path=tuple(search),
        python_path=_python_path(host),
        writable=host.can_write_folder(sites[0]) if sites else None,
        distributions=distributions,
        uv=host.which("uv"),
        problem=problem,
        hurried=output.problem is Problem.TIMED_OUT and timeout < _DEADLINE_S,
        evidence=tuple(evidence),
    )


def parse_answer(output: str) -> Answer | None:
    """The answer to QUESTION, wherever in the output its line stands; None if there is none that can be read."""
    # A start-up script may print before us, and a broken one may print without end: few lines are tried, and no long one.
    for line in islice(re.finditer(r"^fa-doctor:(.{1,20000})$", output, re.MULTILINE), 3):
        try:
            content = ast.literal_eval(line[1])
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(content, dict) and re.fullmatch(r"\d+\.\d+\.\d+", str(content.get("version"))):
            return Answer(
                version=str(content["version"]),
                abiflags=str(content.get("abiflags") or ""),
                base_prefix=_text(content, "base_prefix"),
                include=_text(content, "include"),
                stdlib=_text(content, "stdlib"),
                site_packages=_texts(content, "site_packages"),
                user_site=_text(content, "user_site"),
            )
    return None


def parse_pyvenv_cfg(text: str) -> dict[str, str]:
    """The `key = value` lines of pyvenv.cfg, keys in lower case."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip().lower(): value.strip() for key, equals, value in pairs if equals}


def _choose(host: Host, python: str | None) -> tuple[str | None, str]:
    environ: Mapping[str, str] = host.environ or {}
    if python:
        found = python if "/" in python else host.which(python)
        if found and host.kind == "live":
            found = posixpath.abspath(found)
        if found and host.exists(found) is not False:
            return found, f"--python {python}"
        return None, f"--python {python}: there is no such program"
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        folder = environ.get(variable)
        if not folder:
            continue
        for name in ("python", "python3"):
            if host.exists(f"{folder}/bin/{name}"):
                return f"{folder}/bin/{name}", f"the active environment ({variable}={folder})"
    found = host.which("python3")
    if found and _TOOL_ENVIRONMENT.search(found):
        others = (f"{folder}/python3" for folder in environ.get("PATH", "").split(":") if folder.startswith("/"))
        found = next((path for path in others if not _TOOL_ENVIRONMENT.search(path) and host.exists(path)), found)
    if found:
        return found, "python3 on PATH"
    if host.kind == "live":
        return sys.executable, "the Python of fa-doctor itself: no environment is active and PATH has no python3"
    if host.environ is None:
        return None, "which Python is used there is not recorded"
    return None, "no environment is active and PATH has no python3"


def _what_went_wrong(output: CommandOutput, timeout: float) -> str:
    if output.problem is Problem.TIMED_OUT:
        return f"it did not answer within {max(timeout, 0):.1f} s"
    if output.problem is not None:
        return f"it could not be started: {output.problem.value}"
    last = (output.stderr.strip().splitlines() or output.stdout.strip().splitlines() or ["nothing"])[-1][:200]
    printable = "".join(letter if letter.isprintable() else "?" for letter in last)
    if output.returncode is not None and output.returncode < 0:
        return f"it was killed by signal {-output.returncode}; last it said: {printable}"
    return f"it ended with status {output.returncode} and no answer; last it said: {printable}"


def _environment(host: Host, prefix: str, is_venv: bool) -> str:
    if is_venv:
        return "venv"
    if host.exists(f"{prefix}/conda-meta"):
        return "conda"
    return "system" if prefix in ("/usr", "/usr/local") else "other"


def _base_from_files(host: Host, executable: str, cfg: Mapping[str, str]) -> str | None:
    """The base installation: `home` of pyvenv.cfg is its bin folder; without one, what the links lead to."""
    if cfg.get("home"):
        return posixpath.dirname(cfg["home"].rstrip("/")) or "/"
    real = host.real_path(executable)
    return posixpath.dirname(posixpath.dirname(real)) if real else None


def _version_from_files(
    host: Host, executable: str, prefix: str, base: str | None, cfg: Mapping[str, str]
) -> str | None:
    for key in ("version_info", "version"):
        match = re.match(r"\d+\.\d+(\.\d+)?", cfg.get(key, ""), re.ASCII)
        if match:
            return match[0]
    named = re.search(r"/python(3\.\d+)t?$", host.real_path(executable) or "", re.ASCII)
    if named:
        return named[1]
    for folder in dict.fromkeys((prefix, base)):
        found = [name for name in host.list(f"{folder}/lib").names if re.fullmatch(r"python3\.\d+", name)]
        if folder and len(found) == 1:
            return found[0].removeprefix("python")
    return None


def _minor(version: str | None) -> str | None:
    return ".".join(version.split(".")[:2]) if version else None


def _stdlib_from_files(host: Host, base: str, version: str | None) -> str | None:
    for lib in ("lib", "lib64"):
        if version and host.exists(f"{base}/{lib}/python{_minor(version)}"):
            return f"{base}/{lib}/python{_minor(version)}"
    return None


def _include_from_files(base: str, version: str | None) -> str | None:
    return f"{base}/include/python{_minor(version)}" if version else None


def _site_packages(host: Host, prefix: str, version: str | None, answer: Answer | None, is_venv: bool) -> list[str]:
    """The folders that packages of this environment lie in, the one that pip writes to first."""
    if answer and not is_venv:
        return [path for path in answer.site_packages if host.exists(path)] or list(answer.site_packages[:1])
    if version is None:
        return []
    flags = "t" if answer and "t" in answer.abiflags else ""
    found = [f"{prefix}/{lib}/python{_minor(version)}{flags}/site-packages" for lib in ("lib", "lib64")]
    if not is_venv and prefix == "/usr":  # Debian's own layout
        found += ["/usr/local/lib/python3/dist-packages", "/usr/lib/python3/dist-packages"]
    real: dict[str, str] = {}
    for path in found:
        if host.exists(path):
            real.setdefault(host.real_path(path) or path, path)  # lib64 is a link to lib in a virtual environment
    return list(real.values()) or found[:1]


def _user_site(host: Host, answer: Answer | None, cfg: Mapping[str, str], is_venv: bool) -> str | None:
    """The user's own site-packages if `import` looks there (site's rules), whether it exists or not."""
    if is_venv and cfg.get("include-system-site-packages", "").lower() != "true":
        return None
    environ = host.environ or {}
    if environ.get("PYTHONNOUSERSITE"):
        return None
    if environ.get("PYTHONUSERBASE") and answer:
        return f"{environ['PYTHONUSERBASE']}/lib/python{_minor(answer.version)}/site-packages"
    return answer.user_site if answer else None


def _search_path(host: Host, sites: list[str], user_site: str | None, inherited: list[str]) -> list[str]:
    before = _python_path(host)
    own = [user_site] if user_site and host.exists(user_site) else []
    search: dict[str, None] = dict.fromkeys(before)
    for folder in (*own, *sites, *inherited):
        search.setdefault(folder)
        names = [name for name in host.list(folder).names if name.endswith(".pth")]
        for name in names[:_PTH_LIMIT]:
            for added in parse_pth(host.read(f"{folder}/{name}", limit=64 << 10).text or ""):
                path = posixpath.normpath(posixpath.join(folder, added))
                if host.exists(path):
                    search.setdefault(path)
    return list(search)


def _python_path(host: Host) -> tuple[str, ...]:
    folders = (host.environ or {}).get("PYTHONPATH", "").split(":")
    return tuple(folder.rstrip("/") for folder in folders if folder.startswith("/") and host.exists(folder))


def _distributions(host: Host, search: list[str]) -> tuple[Distribution, ...] | None:
    """Those in every folder of the search path; of one name the first is the one that counts, all are kept."""
    known = [host.list(folder) for folder in search]
    if not any(listing.problem is None for listing in known):
        return None
    return tuple(found for folder in search for found in in_folder(host, folder))


def _text(content: Mapping[str, Any], key: str) -> str | None:
    value = content.get(key)
    return value if isinstance(value, str) else None


def _texts(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = content.get(key)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
