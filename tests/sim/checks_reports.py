"""Checks what workers were told of committed batches: each step's outcome once, as it truly was."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

from stream_app.pipeline import Outputs
from stream_app.steps import Joined, Judged
from tests.sim.oracle import StepName, Truth, name_of

SHOWN_MAX = 5  # findings of one kind
T = TypeVar("T", Judged, Joined)


def check_reports(
    reports: Sequence[Outputs], truths: Mapping[int, Truth], *, complete: bool
) -> list[str]:
    """Return what is wrong with what was reported after confirmed commits.

    Parameters
    ----------
    reports
        What came of the batches whose commits were confirmed, of all workers.
    truths
        What each source partition must give.
    complete
        Whether nothing may be missing. A commit that was stored but never confirmed, because the
        answer or the worker was lost, is reported by nobody: figures may miss a batch, but they
        never count one twice.
    """
    steps: Counter[StepName] = Counter()
    judged: dict[StepName, list[Judged]] = {}
    joined: dict[StepName, list[Joined]] = {}
    for truth in truths.values():
        steps += truth.steps
        judged |= truth.judged
        joined |= truth.joined
    problems: list[str] = []
    told: Counter[StepName] = Counter()
    for report in reports:
        names = [name for step in report.steps if (name := name_of(step)) is not None]
        told.update(names)
        fresh = [name for name in dict.fromkeys(names) if told[name] == names.count(name)]
        problems += _compare("judged", report.judged, _wanted(fresh, judged))
        problems += _compare("joined", report.joined, _wanted(fresh, joined))
    twice = [name for name, count in told.items() if count > steps[name]]
    problems += [f"{name} was reported {told[name]} times" for name in twice[:SHOWN_MAX]]
    if complete:
        missing = [name for name, count in steps.items() if count > told[name]]
        problems += [f"{name} was never reported" for name in missing[:SHOWN_MAX]]
    return problems[: 2 * SHOWN_MAX]


def _wanted(names: Sequence[StepName], by_name: Mapping[StepName, list[T]]) -> Counter[T]:
    return Counter(one for name in names for one in by_name.get(name, ()))


def _compare(what: str, have: Sequence[T], want: Counter[T]) -> list[str]:
    """Return how what one batch reported differs from what its steps must give."""
    counts = Counter(have)
    if counts == want:
        return []
    return [f"{what} too much: {counts - want}, too little: {want - counts}"]
