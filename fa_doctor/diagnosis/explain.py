"""From an error text to ranked causes: weighs what a log and a machine say for and against each known failure.

How evidence is weighed. Each failure starts with a prior in log-odds (-3: it accounts for one log in twenty) and gains
the weights of what is found:

1. Its signatures. Lines of one event are not independent witnesses, so the strongest signature counts whole, the next
   half, the third a quarter, and so on; further lines of the same signature count nothing.
2. Symptoms it shares with other failures, in the same sum: the weight is lower, since others print them too.
3. Supporting lines and facts (of the log, given, or of this machine), which count only once a signature or symptom
   was found; for and against, capped at +-6 together. In favour they count in proportion to the testimony so far, up to
   2.4: a mere mention (weight 1) opens the door only part of the way.
4. The vendor (VENDOR_WEIGHTS). A log that shows hardware of another vendor and nothing of AMD all but rules out what is AMD's
   own, one that shows only CUDA software makes it unlikely; AMD hardware or software adds a little.

A failure that is likely by then (above even odds) explains away the causes it lists, since the same lines are accounted
for: they lose as much as its own log-odds, 2.5 at most. A cause takes the score of its best failure. The confidence of a cause is its share in

    exp(score) / (1 + sum of exp(score) over all causes),

where the 1 stands for "nothing that we know": two causes that explain a log equally well are both below one half, which
says that it is not decided. Above one half is "this is it".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from fa_doctor.diagnosis.conditions import FactValue, holds
from fa_doctor.diagnosis.context import FOREIGN, LOG, Context, compiled, facts_from_text
from fa_doctor.diagnosis.derived import derive
from fa_doctor.diagnosis.failures import Failure, Knowledge, Signature, knowledge
from fa_doctor.diagnosis.logtext import Block, blocks_of_text
from fa_doctor.diagnosis.scan import Line, PhraseIndex

__all__ = ["CONFIDENT", "Candidate", "Explanation", "Finder", "explain", "explain_text"]

CONFIDENT = 0.5
# Below this a candidate is not worth a line of output.
FAINT = 0.04
FAINTEST = 0.01
SAMPLE_BYTES = 48 * 1024
CONTEXT_CAP = 6.0
EXPLAINED_AWAY = 2.5
# What the vendor of the GPUs named says of a failure that is AMD's own, one known on AMD, and one of every machine.
VENDOR_WEIGHTS: dict[str, dict[str, float]] = {
    "amd": {"amd": 0.5, **dict.fromkeys(FOREIGN, -8.0), "nvidia-software": -3.5},
    "any": {**dict.fromkeys(FOREIGN, -5.0), "nvidia-software": -2.5},
    "every": {},
}
TRUSTED = 2.4
# Servers print what they do as INFO and WARNING; the same words count less there than in an error.
ROUTINE = re.compile(r"\b(?:INFO|DEBUG|WARNING)\b[ :]")
ROUTINE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cause with its best failure, its score in log-odds, its confidence (0..1) and the lines and facts for it."""

    failure: Failure
    score: float
    confidence: float
    lines: tuple[Line, ...]
    facts: tuple[str, ...]

    @property
    def cause(self) -> str:
        return self.failure.cause

    @property
    def evidence(self) -> str:
        """The lines as one text."""
        return "\n".join(line.text for line in self.lines)


@dataclass(frozen=True, slots=True)
class Explanation:
    """All candidates, best first; the symptoms that were seen; the facts that the judgement rests on."""

    candidates: tuple[Candidate, ...]
    symptoms: tuple[str, ...]
    context: Context

    @property
    def confident(self) -> Candidate | None:
        """The cause that is it, or None."""
        first = self.candidates[0] if self.candidates else None
        return first if first and first.confidence >= CONFIDENT else None


@dataclass(slots=True)
class _Weighing:
    failure: Failure
    score: float
    lines: list[Line] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


def explain(blocks: Iterable[Block], context: Context | None = None, known: Knowledge | None = None) -> Explanation:
    """Explains a log, given as blocks of lines, with what is known of the machine.

    `context` holds given facts and those of the machine (None: nothing is known); it is completed with what the log
    says. Memory does not grow with the log.
    """
    known = known or knowledge()
    context = context or Context()
    index = PhraseIndex(known.phrases())
    sample = _Sample()
    for block in blocks:
        sample.add(block.data)
        index.scan(block)
    hits = index.hits()
    if context.lines:
        beside = index.another()
        beside.scan(Block("\n".join(context.lines).encode(), 1))
        for phrase, lines in beside.hits().items():
            hits.setdefault(phrase, []).extend(Line(0, line.text) for line in lines)
    matched = "\n".join(dict.fromkeys(line.text for lines in hits.values() for line in lines if line.number))
    facts_from_text(sample.text(matched), LOG, context)
    context.settle()
    derive(context, matched)

    found = Finder(hits)
    symptoms = {
        symptom.id: lines
        for symptom in known.symptoms.values()
        if (lines := [line for signature in symptom.signatures for line in found.lines(signature)])
    }
    values = context.values()
    weighed = [
        result for failure in known.failures if (result := weigh(failure, found, symptoms, values, context)) is not None
    ]
    return Explanation(tuple(rank(weighed)), tuple(symptoms), context)


def explain_text(text: str, context: Context | None = None) -> Explanation:
    """Explains a text that is in memory, such as what a child process printed."""
    return explain(blocks_of_text(text), context)


class _Sample:
    """The beginning and the end of a log, where versions and machines stand; the middle is too much to read."""

    def __init__(self) -> None:
        self.head = b""
        self.tail = b""

    def add(self, data: bytes) -> None:
        if len(self.head) < SAMPLE_BYTES:
            taken = data[: SAMPLE_BYTES - len(self.head)]
            self.head += taken
            data = data[len(taken) :]
        if data:
            self.tail = (self.tail + data)[-SAMPLE_BYTES:] if len(data) < SAMPLE_BYTES else data[-SAMPLE_BYTES:]

    def text(self, matched: str) -> str:
        ends = self.head + b"\n" + self.tail
        whole = ends.decode("utf-8", "replace")
        return whole if not self.tail else f"{whole}\n{matched}"


class Finder:
    """The lines of a signature among the hits of its phrases."""

    def __init__(self, hits: dict[str, list[Line]]) -> None:
        self.hits = hits

    def lines(self, signature: Signature) -> list[Line]:
        found = [line for phrase in signature.phrases for line in self.hits.get(phrase, ())]
        if found and signature.pattern:
            pattern = compiled(f"(?i){signature.pattern}")
            matching = []
            for line in found:
                if match := pattern.search(line.text):
                    matching.append(replace(line, at=match.start()))
                elif line.joined and pattern.search(line.joined):
                    matching.append(line)
            found = matching
        if found and signature.excludes:
            unwanted = compiled(f"(?i){signature.excludes}")
            found = [line for line in found if not unwanted.search(line.text)]
        return found


def weigh(
    failure: Failure,
    found: Finder,
    symptoms: dict[str, list[Line]],
    values: dict[str, FactValue],
    context: Context,
) -> _Weighing | None:
    """The log-odds of one failure and what they rest on, or None where nothing in the log points to it."""
    witnesses: list[tuple[float, Line]] = []
    for signature in failure.signatures:
        lines = found.lines(signature)
        if lines:
            telling = next((line for line in lines if not ROUTINE.search(line.text)), None)
            witnesses.append((signature.weight, telling) if telling else (ROUTINE_SHARE * signature.weight, lines[0]))
    for name, weight in failure.symptoms:
        if name in symptoms:
            witnesses.append((weight, symptoms[name][0]))
    if not witnesses:
        return None
    witnesses.sort(key=lambda witness: -witness[0])
    result = _Weighing(failure, failure.prior)
    testimony = 0.0
    for rank_, (weight, line) in enumerate(witnesses):
        testimony += weight * 0.5**rank_
        if line not in result.lines:
            result.lines.append(line)
    result.score += testimony
    side = 0.0
    for signature in failure.support:
        lines = found.lines(signature)
        if lines:
            side += signature.weight
            if signature.weight > 0 and lines[0] not in result.lines:
                result.lines.append(lines[0])
    for weighted in failure.context:
        if holds(weighted.conditions, values):
            side += weighted.weight
            if weighted.weight > 0:
                result.facts += (
                    context.facts[condition.fact].text
                    for condition in weighted.conditions
                    if condition.fact in context.facts and not condition.negated
                )
    # Facts in favour of a failure that nothing but a mention points to are worth as little as the mention.
    trust = min(1.0, testimony / TRUSTED) if side > 0 else 1.0
    result.score += max(-CONTEXT_CAP, min(CONTEXT_CAP, trust * side)) + vendor_weight(failure, values)
    return result


def vendor_weight(failure: Failure, values: dict[str, FactValue]) -> float:
    return VENDOR_WEIGHTS[failure.vendor].get(str(values.get("vendor")), 0.0)


def rank(weighed: list[_Weighing]) -> Iterator[Candidate]:
    """Lets failures explain others away as far as they are likely, keeps the best of each cause, and turns scores into shares."""
    likely = [(each.failure.explains, each.score) for each in weighed if each.score > 0 and each.failure.explains]
    for explains, score in likely:
        for other in weighed:
            if other.failure.cause in explains and other.score < score + EXPLAINED_AWAY:
                other.score -= min(EXPLAINED_AWAY, score)
    best: dict[str, _Weighing] = {}
    for each in weighed:
        kept = best.get(each.failure.cause)
        if kept is None or each.score > kept.score:
            best[each.failure.cause] = each
    ranked = sorted(best.values(), key=lambda each: (-each.score, each.failure.id))
    total = 1.0 + sum(math.exp(min(each.score, 60.0)) for each in ranked)
    for each in ranked:
        confidence = math.exp(min(each.score, 60.0)) / total
        if confidence >= FAINT or (each is ranked[0] and confidence >= FAINTEST):
            yield Candidate(each.failure, each.score, confidence, tuple(each.lines), tuple(dict.fromkeys(each.facts)))


def shortened(text: str, length: int = 300, at: int = 0) -> str:
    """A line for output: white space folded, cut to `length` so that what stands at the offset `at` can be read."""
    begin = 0 if len(text) <= length or at < length // 2 else at - length // 4
    text = ("…" if begin else "") + re.sub(r"\s+", " ", text[begin:]).strip()
    return text if len(text) <= length else text[: length - 1] + "…"
