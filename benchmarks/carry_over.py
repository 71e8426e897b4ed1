"""How a new shop fares that knows nothing yet: recall along its first 100,000 events.

The events stream through ``pipeline.process`` from an empty state, ranked by the formula alone. A
``recommend`` event asks 1 ms before each visit in which something is bought, and the ten items of
the answer are compared with what is bought in it, by what was known until then (prequential
evaluation, Dawid 1984). A basket of completejourney is a visit of its own; a visit to the synthetic
shop is a session, asked for before its first event, so that nothing of it is known::

    python -m benchmarks.carry_over [--write]

The last line is JSON; the exit code is 1 unless the last fifth of the events is better than the
first, in both shops.
"""

import argparse
import math
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.progress import Progress

from benchmarks.basket_references import References
from benchmarks.basket_runs import STAGES
from benchmarks.carry_over_report import (
    BARE,
    BASELINES,
    CONTENT,
    FOREIGN,
    LATE,
    MAIN,
    ONE,
    Carried,
    ShopResult,
    met,
    result,
    summary,
    table,
    write,
)
from models.evaluate import TOP
from models.replay import ASKED, Partition
from stream_app.clock import monotonic_seconds
from stream_app.event import Event, Item, encode, to_ms
from stream_app.hashing import partition_for
from stream_app.manifest import read_folder
from stream_app.ops.demo_shops import MODEL_FOLDER
from stream_app.pipeline import Context, Outputs
from stream_app.ranker import Ranker
from stream_app.shelves import Shelves
from stream_app.sources.completejourney import CompleteJourney
from stream_app.sources.synthetic import SyntheticShop
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import SOURCES

EVENTS, PARTITIONS = 100_000, 4
ShopName = Literal["synthetic", "completejourney"]
Moment = Literal["visit", "order"]


class Way(msgspec.Struct, frozen=True):
    """One stream of a shop: with a catalogue or not, how it ranks, and when it is asked.

    ``model`` is the folder of a ranking model; None stands for the formula. At the ``order`` the
    stream knows all that came before it in its session, the cart included.
    """

    catalogue: bool = True
    model: Path | None = None
    partitions: int = PARTITIONS
    moment: Moment = "visit"


WAYS: dict[ShopName, dict[str, Way]] = {
    "synthetic": {
        MAIN: Way(),
        BARE: Way(catalogue=False),
        FOREIGN: Way(model=MODEL_FOLDER),
        ONE: Way(partitions=1),
        LATE: Way(moment="order"),
    },
    # The demo's model was trained on completejourney, and so is no stranger to it.
    "completejourney": {MAIN: Way(), BARE: Way(catalogue=False), ONE: Way(partitions=1)},
}


class Visit(msgspec.Struct, frozen=True):
    """What a user buys at once, and before which event, by its place, the stream is asked."""

    name: str
    user_id: str
    place: int
    items: frozenset[str]


# --- what is asked, and what is right -------------------------------------------------------------


def events_of(shop: ShopName, count: int) -> list[Event]:
    """Return the first events of a shop, in time order."""
    if shop == "synthetic":
        return list(SyntheticShop().events(count))
    return list(islice(CompleteJourney().events(), count))


def items_of(shop: ShopName) -> Iterator[Item]:
    """Return what is in a shop's catalogue."""
    return SyntheticShop().items() if shop == "synthetic" else CompleteJourney().items()


def visits(events: Sequence[Event], moment: Moment) -> list[Visit]:
    """Return the visits in which something is bought, in the order in which they are asked for.

    >>> def event(name, kind, order=None):
    ...     own = {"event_id": name, "item_id": name, "order_id": order}
    ...     return Event(type=kind, user_id="u", timestamp=0, session_id="s", **own)
    >>> events = [event("a", "view"), event("b", "purchase", "1"), event("c", "purchase", "1")]
    >>> [(v.place, sorted(v.items)) for v in visits(events, "visit")]
    [(0, ['b', 'c'])]
    >>> [(v.place, sorted(v.items)) for v in visits(events, "order")]
    [(1, ['b', 'c'])]
    """

    def name_of(event: Event) -> str | None:
        return (event.session_id if moment == "visit" else None) or event.order_id

    bought: defaultdict[str, set[str]] = defaultdict(set)
    for event in events:
        name = name_of(event)
        if event.type == "purchase" and event.item_id is not None and name is not None:
            bought[name].add(event.item_id)
    found: dict[str, Visit] = {}
    for place, event in enumerate(events):
        name = name_of(event)
        if name is not None and name in bought and name not in found:
            found[name] = Visit(name, event.user_id, place, frozenset(bought[name]))
    return list(found.values())


def before(found: Sequence[Visit]) -> dict[int, list[Visit]]:
    """Return visits by the place of the event before which they are asked for."""
    at: defaultdict[int, list[Visit]] = defaultdict(list)
    for visit in found:
        at[visit.place].append(visit)
    return dict(at)


# --- what is answered -----------------------------------------------------------------------------

Answer = list[tuple[str, int]]  # items, best first, each with the bits of its sources


def stream(
    events: Sequence[Event],
    found: Sequence[Visit],
    way: Way,
    items: Iterator[Item],
) -> dict[str, Answer]:
    """Stream events from an empty state; return the answer for each visit, by its name."""
    ranker = None
    if way.model is not None:
        ranker = Ranker.load(
            way.model, clock=monotonic_seconds, milliseconds_max=math.inf, pool_min=POOL_SIZE
        )
    shelves = Shelves(items if way.catalogue else ())
    context = Context(STAGES, way.partitions, shelves, ranker=ranker)
    parts = [Partition(number, context) for number in range(way.partitions)]
    answers: dict[str, Answer] = {}

    def take(outputs: Sequence[Outputs]) -> None:
        for ranked in (each for out in outputs for each in out.answers.ranked):
            request = ranked.request
            answers[request.arrival.event.event_id.removeprefix(ASKED)] = [
                (request.item_ids[place], request.sources[place]) for place in ranked.places
            ]

    asked = before(found)
    for place, event in enumerate(events):
        key, time_ms = event.user_id.encode(), to_ms(event.timestamp)
        part = parts[partition_for(key, way.partitions)]
        for visit in asked.get(place, ()):
            question = Event(
                event_id=ASKED + visit.name,
                type="recommend",
                user_id=event.user_id,
                timestamp=time_ms - 1,
            )
            take(part.append((key, encode(question), time_ms - 1)))
        take(part.append((key, encode(event), time_ms)))
    for part in parts:
        take(part.run())
    return answers


def references(events: Sequence[Event], found: Sequence[Visit]) -> dict[str, dict[str, Answer]]:
    """Return what the baselines would have answered, by their name and the visit's."""
    known, asked = References(), before(found)
    answers: dict[str, dict[str, Answer]] = {name: {} for name in BASELINES}
    for place, event in enumerate(events):
        for visit in asked.get(place, ()):
            said = known.answer(visit.user_id)
            for name, own in answers.items():
                own[visit.name] = [(item, 0) for item in said[name]]
        if event.type == "purchase" and event.item_id is not None:
            known.learn(event.user_id, to_ms(event.timestamp), [event.item_id])
    return answers


def judge(found: Sequence[Visit], answers: Mapping[str, Answer]) -> list[Carried]:
    """Compare each visit with its answer; one without an answer is missed.

    A hit that several sources proposed is credited to them in equal parts, so that the credits of
    a visit add up to its recall.

    >>> visit = Visit("v", "u", 0, frozenset("ab"))
    >>> judge([visit], {"v": [("a", 1 | 8), ("x", 1)]})[0].recall
    0.5
    """
    judged = []
    for visit in found:
        answer = answers.get(visit.name, [])[:TOP]
        credit, proposed = [0.0] * len(SOURCES), [0] * len(SOURCES)
        hits = [bits for item, bits in answer if item in visit.items]
        for bits in hits:
            own = [number for number, bit in enumerate(SOURCES) if bits & bit]
            for number in own:
                credit[number] += 1 / len(own) / len(visit.items)
                proposed[number] += 1
        judged.append(
            Carried(
                place=visit.place,
                user_id=visit.user_id,
                recall=len(hits) / len(visit.items),
                hits=len(hits),
                credit=tuple(credit),
                proposed=tuple(proposed),
                shown=len(answer),
                alike=sum(bits == CONTENT for _, bits in answer),
            )
        )
    return judged


# --- the run --------------------------------------------------------------------------------------


def run(shop: ShopName, name: str, count: int) -> dict[str, list[Carried]]:
    """Stream a shop in one way; return what came of it, with the main way the baselines too."""
    way, events = WAYS[shop][name], events_of(shop, count)
    found = visits(events, way.moment)
    judged = {name: judge(found, stream(events, found, way, items_of(shop)))}
    if name in {MAIN, LATE}:
        for reference, answers in references(events, found).items():
            own = reference if name == MAIN else f"{reference}, {LATE}"
            judged[own] = judge(found, answers)
    return judged


def measure(count: int = EVENTS, processes: int = 2) -> dict[str, ShopResult]:
    """Stream both shops in every way."""
    jobs = [(shop, name) for shop, ways in WAYS.items() for name in ways]
    jobs.sort(key=lambda job: job[0])  # completejourney first, which takes longest
    judged: dict[ShopName, dict[str, list[Carried]]] = {shop: {} for shop in WAYS}
    screen = Console(stderr=True)
    spawn = multiprocessing.get_context("spawn")
    with (
        Progress(console=screen, disable=not screen.is_terminal) as progress,
        ProcessPoolExecutor(processes, mp_context=spawn) as pool,
    ):
        task = progress.add_task("Streams", total=len(jobs))
        futures = {pool.submit(partial(run, shop, name, count)): shop for shop, name in jobs}
        for future in as_completed(futures):
            judged[futures[future]] |= future.result()
            progress.advance(task)
    return {shop: result(judged[shop], list(ways), count) for shop, ways in WAYS.items()}


def unknown_items() -> float:
    """Return the share of the synthetic shop's items that the demo's model does not know."""
    known = set(read_folder(MODEL_FOLDER, POOL_SIZE).item_ids)
    own = [item.item_id for item in SyntheticShop().items()]
    return sum(item not in known for item in own) / len(own)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.carry_over", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/results/carry_over.*")
    parser.add_argument("--events", type=int, default=EVENTS, metavar="N", help="of each shop")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="2 by default")
    options = parser.parse_args(arguments)
    if options.write and options.events != EVENTS:
        parser.error(f"--write is for a run of {EVENTS:,} events")
    results = measure(options.events, options.processes)
    for shop, found in results.items():
        Console(width=100).print(table(shop, found))
    if options.write:
        write(results, unknown_items())
    print(msgspec.json.encode(summary(results)).decode())
    return int(not all(met(found) for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
