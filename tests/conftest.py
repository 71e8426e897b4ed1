"""Factories that the tests share: events, records, logs, and a partition that eats them."""

import tests.environment  # noqa: F401 - stands before what imports those libraries

# isort: split
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from types import EllipsisType
from typing import Any

import msgspec
import pytest
from hypothesis import settings as hypothesis_settings

from stream_app.codec import Rows, Sections, SectionSpec
from stream_app.config import DAY_MS, StageSettings
from stream_app.event import Event, Item, encode
from stream_app.hashing import id_hash
from stream_app.pipeline import Context, Outputs, next_batch, process
from stream_app.sources import completejourney
from stream_app.stages.decode import TICK_VALUE
from stream_app.stages.emit import JOINED_EVENTS
from stream_app.stages.features import NOBODY
from stream_app.state import PartitionState
from stream_app.steps import (
    FEATURE_NAMES,
    Admitted,
    Arrival,
    Due,
    Joined,
    Judged,
    OutputRecord,
    RawRecord,
    Request,
    Step,
)

# The same examples in every run: what fails here fails there.
hypothesis_settings.register_profile("same", derandomize=True, deadline=None, max_examples=50)
hypothesis_settings.load_profile("same")

START_MS = 1_704_067_200_000  # 2024-01-01
TOPIC = "clickstream.events"
SETTINGS = StageSettings()
MINUTE_MS = 60_000
NO_ITEMS: Mapping[str, Item] = {}


class Record(msgspec.Struct, frozen=True):
    """A record as Kafka's clients hand it out."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests away from them."""
    for name in list(os.environ):
        if name.startswith("STREAM_APP_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def real_load() -> Iterator[Callable[[], dict[str, Any]]]:
    """Read the tables of the real shop once a process, in three seconds; yield what reads them."""
    real = completejourney._load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completejourney, "_load", cache(real))
        yield real


def event(**over: Any) -> Event:
    """Return a view of ``i-1`` by ``u-1`` at the start of 2024, less what is given."""
    fields: dict[str, Any] = {
        "event_id": "e-1",
        "type": "view",
        "user_id": "u-1",
        "timestamp": START_MS,
        "item_id": "i-1",
    }
    return Event(**(fields | over))


def record(
    offset: int = 0,
    log_ms: int = START_MS,
    *,
    key: bytes | EllipsisType | None = ...,
    value: bytes | EllipsisType | None = ...,
    headers: tuple[tuple[str, bytes], ...] = (),
    **over: Any,
) -> Record:
    """Return the record of an event, with its offset's id and the record's time unless given."""
    made = event(**({"event_id": f"e-{offset}", "timestamp": log_ms} | over))
    return Record(
        offset,
        log_ms,
        made.user_id.encode() if isinstance(key, EllipsisType) else key,
        encode(made) if isinstance(value, EllipsisType) else value,
        headers,
    )


def tick(offset: int, log_ms: int) -> Record:
    """Return a record that only moves log time."""
    return Record(offset, log_ms, None, TICK_VALUE)


def arrival(*, offset: int = 0, log_ms: int = START_MS, late: bool = False, **over: Any) -> Arrival:
    """Return a decoded event, which has its offset's id and the record's time unless given."""
    made = event(**({"event_id": f"e-{offset}", "timestamp": log_ms} | over))
    assert isinstance(made.timestamp, int)
    return Arrival(made, made.timestamp, offset, log_ms, late)


def admitted(*, key: str = "", profiled: bool = True, **over: Any) -> Admitted:
    """Return an admitted event, filed under the user's id unless a key is given."""
    arrived = arrival(**over)
    return Admitted(arrived, key or arrived.event.user_id, profiled)


def sections(
    name: str, decode: Callable[[bytes], Any], bytes_max: int = 65_535, live_max: int = 100
) -> Sections[Any, Any]:
    """Return the sections of one stage, in rows that hold nothing else."""
    return Sections(Rows((SectionSpec(name, decode, bytes_max),), live_max), 0)


def lenient(**over: Any) -> StageSettings:
    """Return settings that are not checked, so that limits are small enough to be reached."""
    return SETTINGS.model_copy(update=over)


USERS = 5
OTHER_TYPES = ("cart", "click", "comment", "share", "search", "recommend", "impression")
TYPES = (*["view"] * 4, *["purchase"] * 2, *OTHER_TYPES)


def _draw(rng: random.Random, offset: int, log_ms: int, items: int) -> Record:
    """Return one record of a log: mostly good, some late, unwelcome or broken."""
    kind = rng.choice(TYPES)
    over: dict[str, Any] = {
        "type": kind,
        "user_id": f"u-{rng.randrange(USERS)}",
        "item_id": f"i-{min(rng.randrange(items), rng.randrange(items))}",
        "session_id": f"s-{rng.randrange(3)}" if rng.random() < 0.6 else None,
        "text": "red shoes",
        "category": (None, "food", "toys")[offset % 3],
        "context": {"place": offset % 5} if offset % 2 else None,
    }
    if kind == "purchase":
        over |= {"order_id": f"o-{offset // 3}", "price": rng.choice([0.5, 3.0, 12.25])}
    if kind in JOINED_EVENTS and rng.random() < 0.7:
        asked = max(offset - rng.randrange(1, 12), 0)  # an earlier record, which may be answered
        over["recommendation_id"] = f"{TOPIC}-0-{asked}-recommendation"
    chance = rng.random()
    if chance < 0.04:
        over["timestamp"] = log_ms - rng.randrange(2 * DAY_MS)
    elif chance < 0.06:
        over |= {"type": "consent", "consent": rng.random() < 0.7}
    elif chance < 0.07:
        over["type"] = "erase"
    elif chance < 0.09:
        return tick(offset, log_ms)
    elif chance < 0.12:
        return record(offset, log_ms, key=b"somebody else", **over)
    return record(offset, log_ms, **over)


def batch(
    n: int, seed: int, *, items: int = 12, step_ms: int = 60_000, leaps: float = 0.0
) -> list[Record]:
    """Return a log of ``n`` records drawn from a seed; ``leaps`` is the share of long silences."""
    rng = random.Random(seed)
    log_ms = START_MS
    records: list[Record] = []
    for offset in range(n):
        log_ms += rng.randrange(step_ms)
        if rng.random() < leaps:
            log_ms += rng.randrange(12 * DAY_MS)
        drawn = _draw(rng, offset, log_ms, items)
        if records and rng.random() < 0.06:
            again = records[-rng.randrange(1, min(len(records), 60) + 1)]
            drawn = Record(offset, log_ms, again.key, again.value)
        records.append(drawn)
        if rng.random() < 0.05:
            log_ms -= min(step_ms, log_ms - START_MS)  # record timestamps need not ascend
    return records


def context(settings: StageSettings = SETTINGS, **over: Any) -> Context:
    """Return what comes from outside the log: one partition and an empty catalogue unless given."""
    fields: dict[str, Any] = {"settings": settings, "partitions": 1}
    return Context(**(fields | over))


def fresh(live_max: int = 1_000) -> PartitionState:
    """Return an empty state that is bound to the topic's only partition."""
    state = PartitionState(live_max)
    state.begin(0, 1, "topic-id")
    return state


class Passed(msgspec.Struct):
    """What a whole log has given: the outputs of all batches, joined."""

    records: list[OutputRecord] = []
    steps: list[Step] = []
    judged: list[Judged] = []
    joined: list[Joined] = []

    @property
    def judged_by_stage(self) -> tuple[list[Judged], list[Judged]]:
        """What `behavior` judged and what `churn` did; in a batch one comes after the other."""
        churn = [one for one in self.judged if one.target == "churn"]
        return [one for one in self.judged if one.target != "churn"], churn

    def add(self, done: Outputs) -> None:
        """Append what one batch has given."""
        self.records += done.records
        self.steps += done.steps
        self.judged += done.judged
        self.joined += done.joined


def run(
    state: PartitionState,
    records: Sequence[RawRecord],
    settings: StageSettings = SETTINGS,
    records_max: int = 128,
    **over: Any,
) -> Passed:
    """Return what comes of a log, batch after batch, each followed by the commit of its rows."""
    given = context(settings, **over)
    passed = Passed()
    place = 0
    while place < len(records):
        window = records[place : place + records_max]
        piece = next_batch(state, TOPIC, 0, window, records_max)
        done = process(state, piece, given)
        state.changes()
        place += len(piece.records)
        passed.add(done)
    return passed


def dues(steps: Sequence[Step]) -> list[Due]:
    """Return the timers that fired."""
    return [step for step in steps if type(step) is Due]


def restored(state: PartitionState, live_max: int = 1_000) -> PartitionState:
    """Return the state as another worker would read it back."""
    return PartitionState.restore(state.rows().items(), live_max)


def request(count: int = 0, *, bought: Sequence[int] = (), **over: Any) -> Request:
    """Return a request with candidates ``c-0``, ``c-1`` and so on, caused by an event."""
    ids = tuple(f"c-{n}" for n in range(count))
    step = admitted(**({"type": "recommend", "item_id": None} | over))
    return Request(
        step=0,
        arrival=step.arrival,
        key=step.key,
        profiled=step.profiled,
        view=NOBODY,
        items=tuple(id_hash(item_id) for item_id in ids),
        item_ids=ids,
        features=((0.0,) * len(FEATURE_NAMES),) * count,
        sources=(8,) * count,
        bought=tuple(n in bought for n in range(count)),
    )
