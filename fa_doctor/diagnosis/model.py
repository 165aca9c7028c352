"""What a diagnosis is made of: findings, what proves them, and fixes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fa_doctor.diagnosis.actions import Action, SetVariable
from fa_doctor.evidence import Evidence

__all__ = [
    "Evidence",
    "Finding",
    "Fix",
    "Need",
    "Safety",
    "Status",
    "Verdict",
    "failed",
    "passed",
    "skipped",
    "unknown",
    "warned",
]


class Status(str, Enum):
    """The outcome of a check. UNKNOWN: it could not be decided; SKIP: it does not apply, or rests on a failed one."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    UNKNOWN = "unknown"


class Safety(str, Enum):
    """What applying a fix may cost, as a linter classes its fixes."""

    SAFE = "safe"  # touches only what fa-doctor can put back: the environment file, the target environment, a folder
    UNSAFE = "unsafe"  # changes versions or settings that other programs may rest on; read it first
    DISPLAY = "display"  # only a person can decide or do this: shown, never applied


class Need(str, Enum):
    """What a fix asks for beyond being typed."""

    ROOT = "root"
    RESTART = "restart"  # of the session, the container or the process under diagnosis
    REBOOT = "reboot"


@dataclass(frozen=True, slots=True)
class Fix:
    """One remedy for this machine. `commands` are lines for a shell, ready to type, or lines for a Dockerfile.

    `action`, if there is one, is what `fa-doctor fix` applies and can undo; `proof` the id of the check that shows
    whether it helped.
    """

    title: str
    commands: tuple[str, ...] = ()
    undo: tuple[str, ...] | None = None
    needs: Need | None = None
    safety: Safety = Safety.DISPLAY
    action: Action | None = None
    proof: str | None = None

    @property
    def automatic(self) -> bool:
        """Whether `fa-doctor fix --yes` may apply it. Taking a variable away is not: what a shell hands on, only that
        shell can unset."""
        if isinstance(self.action, SetVariable) and self.action.value is None:
            return False
        return self.action is not None and self.safety is Safety.SAFE


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says of a machine: a title that names the fact, why it matters here, what proves it, what to do."""

    status: Status
    title: str
    detail: str = ""
    cause: str | None = None  # an id of knowledge/causes.toml
    evidence: tuple[Evidence, ...] = ()
    fixes: tuple[Fix, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict with the check that gave it. `ignored` is the reason for which the user asked not to count it."""

    id: str
    check: str
    verdict: Verdict
    duration_s: float = 0.0
    ignored: str | None = None

    @property
    def status(self) -> Status:
        return self.verdict.status


def passed(title: str, *evidence: Evidence, detail: str = "") -> Verdict:
    """The machine is right in this respect."""
    return Verdict(Status.PASS, title, detail, evidence=evidence)


def failed(
    title: str, *evidence: Evidence, cause: str | None, detail: str = "", fixes: tuple[Fix, ...] | list[Fix] = ()
) -> Verdict:
    """FlashAttention cannot work, or works wrongly, because of this. `cause` is None where nobody can know it from here."""
    return Verdict(Status.FAIL, title, detail, cause, evidence, tuple(fixes))


def warned(
    title: str,
    *evidence: Evidence,
    cause: str | None = None,
    detail: str = "",
    fixes: tuple[Fix, ...] | list[Fix] = (),
) -> Verdict:
    """It works, but slower or less safely than it should, or will break under conditions that `detail` names."""
    return Verdict(Status.WARN, title, detail, cause, evidence, tuple(fixes))


def skipped(reason: str, *evidence: Evidence) -> Verdict:
    """The check does not apply to this machine."""
    return Verdict(Status.SKIP, reason, evidence=evidence)


def unknown(reason: str, *evidence: Evidence, detail: str = "", fixes: tuple[Fix, ...] | list[Fix] = ()) -> Verdict:
    """It cannot be decided: a fact is missing, `reason` says which and why."""
    return Verdict(Status.UNKNOWN, reason, detail, evidence=evidence, fixes=tuple(fixes))
