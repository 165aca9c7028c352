"""Measures `fa-doctor explain` on a folder of cases: how often the first diagnosis is the right cause.

    python benchmarks/explain_cases.py FOLDER [--misses] [--leave-one-out]

A case is a JSON file with `text` and `environment` (the input) and `cause_id`, `also` (the answer, read only to mark
the result). Prints top-1 with the environment as context and from the text alone, confident diagnoses of cases whose
cause is none of ours (false alarms), calibration, and with --misses a line for each miss. --leave-one-out measures each
case without the signatures that match this case only and that do not come from the software itself: what remains is
what a case of other wording would have.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fa_doctor.diagnosis.context import Context, context_from_mapping
from fa_doctor.diagnosis.explain import CONFIDENT, Explanation, Finder, explain
from fa_doctor.diagnosis.failures import Failure, Knowledge, Signature, knowledge
from fa_doctor.diagnosis.logtext import blocks_of_text
from fa_doctor.diagnosis.scan import PhraseIndex


@dataclass(frozen=True)
class Case:
    """The input of one case and, apart, its answer."""

    id: str
    text: str
    environment: dict[str, Any]
    answer: str
    also: tuple[str, ...]


def read_cases(folder: Path) -> list[Case]:
    cases = []
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text())
        cases.append(
            Case(
                row.get("id", path.stem),
                row["text"],
                row.get("environment", {}),
                row["cause_id"],
                tuple(row.get("also", ())),
            )
        )
    return cases


def diagnose(case: Case, known: Knowledge, *, with_context: bool) -> Explanation:
    context = context_from_mapping(case.environment) if with_context else Context()
    return explain(blocks_of_text(case.text), context, known)


def is_right(case: Case, found: Explanation) -> bool:
    """The rule of the set: the first diagnosis is the cause or one of `also`; with cause none, nothing confident."""
    first = found.candidates[0] if found.candidates else None
    if case.answer == "none":
        return first is None or first.confidence < CONFIDENT or first.cause in case.also
    return first is not None and (first.cause == case.answer or first.cause in case.also)


def matched_signatures(case: Case, known: Knowledge) -> set[tuple[str, int]]:
    """Which signatures (failure id, position) match the case's text or environment."""
    index = PhraseIndex(known.phrases())
    text = "\n".join([case.text, *context_from_mapping(case.environment).lines])
    for block in blocks_of_text(text):
        index.scan(block)
    finder = Finder(index.hits())
    return {
        (failure.id, position)
        for failure in known.failures
        for position, signature in enumerate(failure.signatures)
        if finder.lines(signature)
    }


def lonely(cases: list[Case], known: Knowledge) -> dict[tuple[str, int], str]:
    """Signatures without a source in the software that match one case only: (failure id, position) -> case id."""
    owners: dict[tuple[str, int], list[str]] = {}
    for case in cases:
        for key in matched_signatures(case, known):
            owners.setdefault(key, []).append(case.id)
    by_id = {failure.id: failure for failure in known.failures}
    return {
        key: ids[0] for key, ids in owners.items() if len(ids) == 1 and by_id[key[0]].signatures[key[1]].source is None
    }


def without(known: Knowledge, removed: set[tuple[str, int]]) -> Knowledge:
    def kept(failure: Failure) -> tuple[Signature, ...]:
        return tuple(each for at, each in enumerate(failure.signatures) if (failure.id, at) not in removed)

    return replace(known, failures=tuple(replace(failure, signatures=kept(failure)) for failure in known.failures))


def report(name: str, cases: list[Case], results: dict[str, Explanation], *, misses: bool) -> None:
    positive = [case for case in cases if case.answer != "none"]
    negative = [case for case in cases if case.answer == "none"]
    right = [case for case in positive if is_right(case, results[case.id])]
    alarms = [case for case in negative if not is_right(case, results[case.id])]
    confident = [case for case in positive if results[case.id].confident]
    confident_right = [case for case in confident if is_right(case, results[case.id])]
    share = 100 * len(right) / max(1, len(positive))
    overall = 100 * (len(right) + len(negative) - len(alarms)) / max(1, len(cases))
    print(
        f"{name:<22} top-1 {len(right)}/{len(positive)} = {share:.1f} %   with none cases {overall:.1f} %   "
        f"false alarms {len(alarms)}/{len(negative)}   confident {len(confident)}, of these right {len(confident_right)}"
    )
    if misses:
        for case in cases:
            if is_right(case, results[case.id]):
                continue
            tops = ", ".join(f"{each.cause} {each.confidence:.2f}" for each in results[case.id].candidates[:3])
            print(f"    {case.id:<48} wanted {case.answer:<28} got {tops or 'nothing'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--misses", action="store_true", help="list what was missed")
    parser.add_argument("--leave-one-out", action="store_true", help="without signatures that only the case itself has")
    arguments = parser.parse_args()
    cases = read_cases(arguments.folder)
    if not cases:
        sys.exit(f"no cases in {arguments.folder}")
    known = knowledge()
    print(f"{len(cases)} cases, {len(known.failures)} failures, {len(known.phrases())} phrases")
    for name, with_context in (("with environment", True), ("text alone", False)):
        times, results = [], {}
        for case in cases:
            started = time.perf_counter()
            results[case.id] = diagnose(case, known, with_context=with_context)
            times.append(time.perf_counter() - started)
        report(name, cases, results, misses=arguments.misses)
        print(f"{'':<22} median {1000 * statistics.median(times):.1f} ms a case, without the start of the process")
    if arguments.leave_one_out:
        alone = lonely(cases, known)
        by_id = {failure.id: failure for failure in known.failures}
        elsewhere = [key for key in alone if len(by_id[key[0]].signatures[key[1]].seen) > 1]
        print(
            f"signatures from threads that match one case only: {len(alone)}, in {len(set(alone.values()))} cases; "
            f"{len(elsewhere)} of them name two or more other threads"
        )
        by_case: dict[str, set[tuple[str, int]]] = {}
        for key, owner in alone.items():
            by_case.setdefault(owner, set()).add(key)
        for name, with_context in (("leave-one-out", True), ("leave-one-out, text", False)):
            results = {
                case.id: diagnose(case, without(known, by_case.get(case.id, set())), with_context=with_context)
                for case in cases
            }
            report(name, cases, results, misses=arguments.misses)
    counts = Counter(case.answer for case in cases)
    print(f"causes in the set: {len(counts)} of {len(known.causes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
