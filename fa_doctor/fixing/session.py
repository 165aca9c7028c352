"""One run of `fa-doctor fix`: apply a fix, look again, keep it only if it helped, go on with what is still wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fa_doctor.diagnosis.actions import SetVariable
from fa_doctor.errors import FaDoctorError, UsageProblem
from fa_doctor.fixing.apply import PackageOptions, carry_out
from fa_doctor.fixing.candidates import Candidate, candidates
from fa_doctor.fixing.errors import Conflict
from fa_doctor.fixing.history import Entry, History
from fa_doctor.fixing.judge import judge
from fa_doctor.fixing.look import Look, Looker
from fa_doctor.fixing.places import paths_of
from fa_doctor.fixing.undo import take_back
from fa_doctor.installer.interruption import terminated_as_interrupt
from fa_doctor.installer.locking import locked
from fa_doctor.installer.plan import Paths
from fa_doctor.installer.recover import refuse_if_unfinished

__all__ = ["Outcome", "Result", "Session"]

_MOST = 40  # fixes of one run: a fix can uncover the next failure, but not for ever


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one fix: "planned" (--dry-run), "declined", "kept", "undone" (it did not help), "failed" (it could
    not be applied, nothing is changed), "interrupted" (and undone), or "stuck" (it could not be taken back)."""

    candidate: Candidate
    state: str
    why: str = ""
    changes: tuple[str, ...] = ()
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The outcomes in order, the last look, and what is left for the user. `is_interrupted`: Ctrl-C or SIGTERM came."""

    look: Look
    outcomes: tuple[Outcome, ...] = ()
    left: tuple[Candidate, ...] = ()
    is_interrupted: bool = False


@dataclass
class Session:
    """`wanted` are the ids of checks that the user named (None: all), `say` and `ask` talk to the user; `ask` raises
    UsageProblem where nobody is there. `yes`: nothing is asked."""

    looker: Looker
    packages: PackageOptions
    say: Callable[[str], None]
    ask: Callable[[str], bool]
    describe: Callable[[Candidate], str]
    wanted: frozenset[str] | None = None
    unsafe: bool = False
    yes: bool = False
    wait_s: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    _tried: set[object] = field(default_factory=set)

    def plan(self) -> Result:
        """What `run` would begin with; nothing is changed. The first fix of each finding counts."""
        look = self.looker.look()
        cut = self._history(look).cut_off()
        if cut:
            self.say(_cut_off(cut))
        done: set[int] = set()
        for candidate in self._candidates(look):
            if candidate.obstacle is None and id(candidate.finding) not in done:
                done.add(id(candidate.finding))
                self._tried.add(candidate.key)
                self.outcomes.append(Outcome(candidate, "planned", changes=candidate.changes))
        return self._result(look)

    def run(self) -> Result:
        """Applies what can be applied. Raises Refused where another fa-doctor works on the environment."""
        look = self.looker.look()
        paths = paths_of(look.machine.python)
        if look.is_undecided or (self._next(look) is None and self._history(look).cut_off() is None):
            return self._result(look)
        with locked(paths, self.wait_s), terminated_as_interrupt():
            try:
                look = self._work(paths, look)
            except KeyboardInterrupt:
                return self._result(look, is_interrupted=True)
        return self._result(look)

    def _work(self, paths: Paths, look: Look) -> Look:
        refuse_if_unfinished(paths)
        history = History(paths)
        cut = history.cut_off()
        if cut:
            self._offer_undo(history, cut)
        if cut or self.wait_s:
            look = self.looker.look()
        for _ in range(_MOST):
            candidate = self._next(look)
            if candidate is None:
                break
            look = self._try(candidate, look, history)
            if self.outcomes[-1].state in ("interrupted", "stuck"):
                break
        return look

    def _next(self, look: Look) -> Candidate | None:
        return next(
            (one for one in self._candidates(look) if one.obstacle is None and one.key not in self._tried), None
        )

    def _candidates(self, look: Look) -> list[Candidate]:
        return candidates(look, self.wanted, self.unsafe, self.looker.environ, self.packages.mirror)

    def _history(self, look: Look) -> History:
        return History(paths_of(look.machine.python))

    def _offer_undo(self, history: History, cut: Entry) -> None:
        self.say(_cut_off(cut))
        if not (self.yes or self.ask("Take it back?")):
            raise UsageProblem("nothing else is done before that: `fa-doctor fix --undo` takes it back")
        for line in take_back(history, cut, "it was cut off"):
            self.say(f"  taken back: {line}")

    def _try(self, candidate: Candidate, look: Look, history: History) -> Look:
        """Applies one fix and judges it; returns the look that holds afterwards."""
        self._tried.add(candidate.key)
        self.say(("\n" if self.outcomes else "") + self.describe(candidate))
        if not (self.yes or self.ask("Apply this?")):
            self._end(candidate, "declined", "you said no")
            return look
        number = history.next_number()
        environ = dict(self.looker.environ)
        try:
            _, changes = carry_out(candidate, look, history, number, self.packages)
            self._forget_removed(candidate, look)
            after = self.looker.look()
            judgement = judge(look, after, candidate.finding, candidate.fix)
            if judgement.helped:
                history.note("kept", self._entry(history, number), why=judgement.why)
                self._end(candidate, "kept", judgement.why, changes, number)
                return after
            state, why = "undone", judgement.why
        except KeyboardInterrupt:
            state, why = "interrupted", "it was interrupted"
        except (FaDoctorError, OSError) as error:
            state, why = "failed", str(error)
        return self._back(candidate, look, history, number, environ, state, why)

    def _back(
        self,
        candidate: Candidate,
        look: Look,
        history: History,
        number: int,
        environ: dict[str, str],
        state: str,
        why: str,
    ) -> Look:
        """After a fix that is not to stay: everything as it was, and a look that proves it."""
        entry = next((one for one in history.entries() if one.number == number), None)
        if entry is not None and entry.is_kept:  # the interrupt came after the proof
            self._end(candidate, "kept", "proved before the interrupt came", candidate.changes, number)
            raise KeyboardInterrupt
        self.looker.environ = environ
        if entry is not None:
            try:
                take_back(history, entry, why)
            except (Conflict, OSError) as error:
                self._end(candidate, "stuck", f"{why}; and it could not be taken back: {error}", number=number)
                return look
        self._end(candidate, state, why, number=number)
        return look if state == "interrupted" else self.looker.look()

    def _forget_removed(self, candidate: Candidate, look: Look) -> None:
        """A variable that was taken out of the file, and that this shell has from there, is gone for processes to come."""
        action = candidate.fix.action
        if not isinstance(action, SetVariable) or action.value is not None:
            return
        kept = look.kept.get(action.name)
        if kept is not None and self.looker.environ.get(action.name) == kept.value:
            del self.looker.environ[action.name]

    def _entry(self, history: History, number: int) -> Entry:
        return next(one for one in history.entries() if one.number == number)

    def _end(
        self, candidate: Candidate, state: str, why: str, changes: tuple[str, ...] = (), number: int | None = None
    ) -> None:
        outcome = Outcome(candidate, state, why, changes, number)
        self.outcomes.append(outcome)
        self.say(_became(outcome))

    def _result(self, look: Look, *, is_interrupted: bool = False) -> Result:
        is_interrupted = is_interrupted or any(one.state == "interrupted" for one in self.outcomes)
        left = tuple(self._candidates(look))
        return Result(look, tuple(self.outcomes), left, is_interrupted)


def _cut_off(entry: Entry) -> str:
    what = "Taking back" if entry.state == "undoing" else "Applying"
    return f"{what} fix {entry.number} was cut off: {entry.check}, {entry.title} (begun {entry.when})."


def _became(outcome: Outcome) -> str:
    words = {
        "declined": "  left alone",
        "kept": f"  done: {outcome.why}",
        "undone": f"  did not help, and was taken back: {outcome.why}",
        "failed": f"  failed, everything is as it was: {outcome.why}",
        "interrupted": "  interrupted: everything is as it was before this fix",
        "stuck": f"  {outcome.why}",
    }
    lines = [words[outcome.state]]
    if outcome.state == "kept":
        lines += [f"    {line}" for line in outcome.changes]
    return "\n".join(lines)
