"""``stream-app user``: what is known of one user, what is foreseen, and what was said last."""

import asyncio
import math

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stream_app.config import Settings
from stream_app.event import EVENT_TYPES, Recommendation, Target, rfc3339
from stream_app.hashing import partition_for
from stream_app.runtime.changelog import KafkaReader, restore
from stream_app.runtime.topics import topology
from stream_app.stages import behavior, churn
from stream_app.stages.admit import erased_key
from stream_app.state import PartitionState

_SHOWN = 10  # rows of each table


class Happened(msgspec.Struct, frozen=True):
    """An event of the history; times are RFC 3339."""

    time: str
    type: str
    item_id: str


class Repeat(msgspec.Struct, frozen=True):
    """An item that the user buys again: its decayed count, and the usual gap once it is known."""

    item_id: str
    count: float
    last: str
    gap_days: float | None


class Waiting(msgspec.Struct, frozen=True):
    """A prediction or risk whose outcome is not known yet; ``happened`` has what has come true."""

    known_at: str
    probabilities: dict[Target, float]
    happened: list[Target]


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """All that the state holds of a user, newest first, and the last recommendation.

    ``spent`` is the decayed sum, in the shop's currency; ``churn_level`` is None where the user is
    not watched.
    """

    user_id: str
    partition: int
    consent: bool
    erased_at: str | None
    newest_record: str
    orders: int | None = None
    spent: float | None = None
    usual_gap_days: float | None = None
    events: list[Happened] = []
    repeats: list[Repeat] = []
    predictions: list[Waiting] = []
    churn_level: str | None = None
    churn_alerted_at: str | None = None
    churn_horizon_days: int
    risks: list[Waiting] = []
    recommendation: Recommendation | None = None


async def known_of(settings: Settings, user_id: str) -> Known | None:
    """Return what is known of a user, or None for one of whom nothing is.

    Raises
    ------
    UnreachableError
        When no broker answers.
    TopicError
        When a topic is missing.
    """
    described = await asyncio.to_thread(topology, settings)
    partition = partition_for(user_id.encode(), described.partitions[settings.topic("events")])
    reader = KafkaReader(settings.brokers)
    state = await restore(reader, settings.state_topic, partition, settings.live_rows_max)
    key = user_id if state.admissions.get(user_id) is not None else erased_key(user_id)
    admission = state.admissions.get(key)
    if admission is None:
        return None
    topic = settings.topic("recommendations")
    where = partition_for(user_id.encode(), described.partitions[topic])
    profile, watch = state.profiles.get(key), state.watchlist.users.get(key)
    return Known(
        user_id=user_id,
        partition=partition,
        consent=admission.consent,
        erased_at=rfc3339(admission.erased_ms) if admission.erased_ms else None,
        newest_record=rfc3339(admission.newest_ms),
        orders=profile.spend.orders if profile else None,
        spent=profile.spend.spend if profile else None,
        usual_gap_days=profile.spend.gap_days if profile else None,
        events=_events(state, key),
        repeats=_repeats(state, key),
        predictions=_predictions(state, key),
        churn_level=(churn.LEVELS[watch.level - 1] if watch.level else "none") if watch else None,
        churn_alerted_at=rfc3339(watch.alerted_ms) if watch and watch.alerted_ms else None,
        churn_horizon_days=settings.stages.churn_horizon_days,
        risks=_risks(state, key),
        recommendation=await _last_recommendation(reader, topic, where, user_id),
    )


def _events(state: PartitionState, key: str) -> list[Happened]:
    profile = state.profiles.get(key)
    if profile is None:
        return []
    history = profile.history
    last = list(zip(history.seconds, history.kinds, history.items, strict=True))[-_SHOWN:]
    return [
        Happened(rfc3339(second * 1000), EVENT_TYPES[kind], _item_name(state, item))
        for second, kind, item in reversed(last)
    ]


def _repeats(state: PartitionState, key: str) -> list[Repeat]:
    repeats = state.tables.repeats.get(key)
    if repeats is None:
        return []
    columns = zip(repeats.counts, repeats.items, repeats.last_s, repeats.gaps, strict=True)
    return [
        Repeat(_item_name(state, item), count, rfc3339(last_s * 1000), gap if gap > 0 else None)
        for count, item, last_s, gap in sorted(columns, reverse=True)[:_SHOWN]
    ]


def _predictions(state: PartitionState, key: str) -> list[Waiting]:
    outlook = state.foresight.users.get(key)
    if outlook is None:
        return []
    return [
        Waiting(
            rfc3339(pending.closes_ms),
            {
                target: probability
                for target, probability in zip(behavior.TARGETS, pending.probabilities, strict=True)
                if not math.isnan(probability)
            },
            [target for place, target in enumerate(behavior.TARGETS) if pending.flags >> place & 1],
        )
        for pending in outlook.pending
    ]


def _risks(state: PartitionState, key: str) -> list[Waiting]:
    """Return the risks of churn; what would prove one wrong, a purchase, is what has happened."""
    watch = state.watchlist.users.get(key)
    if watch is None:
        return []
    return [
        Waiting(
            rfc3339(pending.closes_ms),
            {} if math.isnan(pending.risk) else {"churn": pending.risk},
            ["purchase"] if pending.bought else [],
        )
        for pending in watch.pending
    ]


def _item_name(state: PartitionState, item: int) -> str:
    facts = state.tables.items.get(item)
    return facts.item_id if facts is not None else f"(gone: {item:016x})"


async def _last_recommendation(
    reader: KafkaReader, topic: str, partition: int, user_id: str
) -> Recommendation | None:
    last: bytes | None = None
    async for chunk in reader.read(topic, partition):
        for key, value in chunk:
            if key == user_id.encode() and value:
                last = value
    return None if last is None else msgspec.json.decode(last, type=Recommendation)


def show(known: Known) -> None:
    """Print what is known of a user, in tables."""
    console = Console()
    console.print(f"[bold]{escape(known.user_id)}[/]  partition {known.partition}")
    console.print(f"consent: {'yes' if known.consent else 'no'}")
    if known.erased_at:
        console.print(f"erased at {known.erased_at}")
    console.print(f"newest record: {known.newest_record}")
    if known.orders is not None:
        console.print(
            f"orders: {known.orders}, spent lately: {known.spent:.2f}, "
            f"usual gap: {known.usual_gap_days:.1f} days"
        )
        table = Table("when", "what", "item", title="Last events", title_justify="left")
        for event in known.events:
            table.add_row(event.time, event.type, escape(event.item_id))
        console.print(table)
    if known.repeats:
        table = Table("item", "count", "last", "gap, days", title="Buys again")
        for each in known.repeats:
            gap = "" if each.gap_days is None else f"{each.gap_days:.1f}"
            table.add_row(escape(each.item_id), f"{each.count:.2f}", each.last, gap)
        console.print(table)
    _show_predictions(console, known)
    _show_risks(console, known)
    _show_recommendation(console, known.recommendation)


def _show_predictions(console: Console, known: Known) -> None:
    if not known.predictions:
        return
    table = Table("known at", title="Predictions that wait", title_justify="left")
    for target in behavior.TARGETS:
        table.add_column(target, justify="right")
    for each in known.predictions:
        cells = [
            (f"{each.probabilities[target]:.1%}" if target in each.probabilities else "")
            + (" (has come true)" if target in each.happened else "")
            for target in behavior.TARGETS
        ]
        table.add_row(each.known_at, *cells)
    console.print(table)


def _show_risks(console: Console, known: Known) -> None:
    """Print how likely a user is to stay away, and what was last said about it."""
    if known.churn_level is None:
        return
    at = known.churn_alerted_at
    alerted = f"last alert at {at}" if at else "no alert yet"
    console.print(f"churn level: {known.churn_level}, {alerted}")
    if known.risks:
        risk = f"risk, {known.churn_horizon_days} days"
        table = Table("known at", risk, "bought since", title="Risks that wait")
        for each in known.risks:
            shown = f"{each.probabilities['churn']:.1%}" if each.probabilities else ""
            table.add_row(each.known_at, shown, "yes" if each.happened else "not yet")
        console.print(table)


def _show_recommendation(console: Console, answer: Recommendation | None) -> None:
    if answer is None:
        console.print("Nothing has been recommended yet.")
        return
    table = Table("", "item", "score", "from", "why", title="Last recommendation")
    for item in answer.items:
        table.add_row(
            str(item.rank),
            escape(item.item_id),
            f"{item.score:.3f}",
            ", ".join(item.sources),
            "; ".join(item.reasons),
        )
    console.print(table)
    console.print(
        f"at {rfc3339(answer.timestamp)} after event {answer.cause.event_id}, by {answer.model} "
        f"{answer.model_version} ({answer.variant})",
        markup=False,
    )
