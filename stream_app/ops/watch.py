"""``stream-app watch`` and ``stream-app user``: what goes out, and what is known of one user."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from stream_app.config import Settings
from stream_app.errors import TopicError
from stream_app.event import EVENT_TYPES, ChurnAlert, Prediction, Recommendation, rfc3339
from stream_app.hashing import partition_for
from stream_app.ops import words
from stream_app.runtime.changelog import KafkaReader, restore
from stream_app.runtime.topics import topology
from stream_app.stages import behavior, churn
from stream_app.stages.admit import erased_key
from stream_app.state import PartitionState

_SHOWN = 10  # rows of each table


def topic_named(settings: Settings, name: str) -> str:
    """Return the real name of a topic, given by its real or its logical name.

    Raises
    ------
    TopicError
        When there is no such topic.
    """
    logical = {field: settings.topic(field) for field in type(settings.topics).model_fields}
    known = {**logical, **{real: real for real in logical.values()}}
    if name not in known:
        raise TopicError(f"no topic {name!r}; there are: {', '.join(sorted(logical.values()))}")
    return known[name]


async def records(settings: Settings, topic: str, *, from_beginning: bool) -> AsyncIterator[Any]:
    """Yield the committed records of a topic as they come."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=settings.brokers,
        isolation_level="read_committed",
        auto_offset_reset="earliest" if from_beginning else "latest",
        enable_auto_commit=False,
    )
    try:
        await consumer.start()
    except KafkaError as error:
        raise TopicError(f"cannot reach a broker at {settings.brokers}: {error}") from None
    try:
        async for record in consumer:
            yield record
    finally:
        await consumer.stop()


async def watch(
    settings: Settings, name: str, limit: int | None, *, from_beginning: bool, as_json: bool
) -> None:
    """Print the records of a topic, one after another, ``limit`` of them at most."""
    console = Console(soft_wrap=True)
    topic = topic_named(settings, name)
    count = 0
    async for record in records(settings, topic, from_beginning=from_beginning):
        text = (record.value or b"").decode(errors="replace")
        if as_json:
            console.print(text, markup=False, highlight=False)
        else:
            _print_record(console, record, text)
        count += 1
        if count == limit:
            return


def _print_record(console: Console, record: Any, text: str) -> None:
    key = (record.key or b"").decode(errors="replace")
    headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    where = f"{record.topic} {record.partition}@{record.offset}"
    console.print(Text.assemble((key, "bold"), "  ", (where, "dim")))
    for name in ("ce_type", "ce_time", "reject_reason", "reject_detail"):
        if name in headers:
            console.print(f"  {name}: {headers[name]}", markup=False, style="dim")
    console.print("  " + _said(headers.get("ce_type", ""), text), markup=False)


def _said(ce_type: str, text: str) -> str:
    """Return a prediction or an alert in words, and anything else as it is."""
    if ce_type.startswith("stream_app.prediction."):
        return words.prediction(msgspec.json.decode(text, type=Prediction))
    if ce_type.startswith("stream_app.churn-alert."):
        return words.alert(msgspec.json.decode(text, type=ChurnAlert))
    return text


async def show_user(settings: Settings, user_id: str) -> bool:
    """Print what the state holds of a user and what was last recommended; tell whether any is."""
    described = await asyncio.to_thread(topology, settings)
    partition = partition_for(user_id.encode(), described.partitions[settings.topic("events")])
    reader = KafkaReader(settings.brokers)
    state = await restore(reader, settings.state_topic, partition, settings.live_rows_max)
    key = user_id if state.admissions.get(user_id) is not None else erased_key(user_id)
    admission = state.admissions.get(key)
    console = Console()
    if admission is None:
        console.print(f"There is nothing of a user {user_id!r} in partition {partition}.")
        return False
    console.print(f"[bold]{escape(user_id)}[/]  partition {partition}")
    console.print(f"consent: {'yes' if admission.consent else 'no'}")
    if admission.erased_ms:
        console.print(f"erased at {rfc3339(admission.erased_ms)}")
    console.print(f"newest record: {rfc3339(admission.newest_ms)}")
    _print_profile(console, state, key)
    _print_outlook(console, state, key)
    _print_watch(console, state, settings, key)
    topic = settings.topic("recommendations")
    where = partition_for(user_id.encode(), described.partitions[topic])
    await _print_recommendations(console, settings, TopicPartition(topic, where), user_id)
    return True


def _print_profile(console: Console, state: PartitionState, key: str) -> None:
    profile, repeats = state.profiles.get(key), state.tables.repeats.get(key)
    if profile is not None:
        console.print(
            f"orders: {profile.spend.orders}, spent lately: {profile.spend.spend:.2f}, "
            f"usual gap: {profile.spend.gap_days:.1f} days"
        )
        table = Table("when", "what", "item", title="Last events", title_justify="left")
        history = profile.history
        last = list(zip(history.seconds, history.kinds, history.items, strict=True))[-_SHOWN:]
        for second, kind, item in reversed(last):
            table.add_row(
                rfc3339(second * 1000), EVENT_TYPES[kind], escape(_item_name(state, item))
            )
        console.print(table)
    if repeats is not None and len(repeats.items):
        table = Table("item", "count", "last", "gap, days", title="Buys again")
        columns = zip(repeats.counts, repeats.items, repeats.last_s, repeats.gaps, strict=True)
        for count, item, last_s, gap in sorted(columns, reverse=True)[:_SHOWN]:
            gap_text = f"{gap:.1f}" if gap > 0 else ""
            table.add_row(
                escape(_item_name(state, item)), f"{count:.2f}", rfc3339(last_s * 1000), gap_text
            )
        console.print(table)


def _print_outlook(console: Console, state: PartitionState, key: str) -> None:
    """Print the predictions of a user that wait for their outcome."""
    outlook = state.foresight.users.get(key)
    if outlook is None or not outlook.pending:
        return
    table = Table("known at", title="Predictions that wait", title_justify="left")
    for target in behavior.TARGETS:
        table.add_column(target, justify="right")
    for pending in outlook.pending:
        cells = [
            ("" if math.isnan(probability) else f"{probability:.1%}")
            + (" (has come true)" if pending.flags >> place & 1 else "")
            for place, probability in enumerate(pending.probabilities)
        ]
        table.add_row(rfc3339(pending.closes_ms), *cells)
    console.print(table)


def _print_watch(console: Console, state: PartitionState, settings: Settings, key: str) -> None:
    """Print how likely a user is to stay away, and what was last said about it."""
    watch = state.watchlist.users.get(key)
    if watch is None:
        return
    level = churn.LEVELS[watch.level - 1] if watch.level else "none"
    alerted = f"last alert at {rfc3339(watch.alerted_ms)}" if watch.alerted_ms else "no alert yet"
    console.print(f"churn level: {level}, {alerted}")
    if watch.pending:
        days = settings.stages.churn_horizon_days
        table = Table("known at", f"risk, {days} days", "bought since", title="Risks that wait")
        for pending in watch.pending:
            risk = "" if math.isnan(pending.risk) else f"{pending.risk:.1%}"
            bought = "yes" if pending.bought else "not yet"
            table.add_row(rfc3339(pending.closes_ms), risk, bought)
        console.print(table)


def _item_name(state: PartitionState, item: int) -> str:
    facts = state.tables.items.get(item)
    return facts.item_id if facts is not None else f"(gone: {item:016x})"


async def _print_recommendations(
    console: Console, settings: Settings, where: TopicPartition, user_id: str
) -> None:
    """Print the last recommendation of a user, with its reasons."""
    reader = KafkaReader(settings.brokers)
    last: bytes | None = None
    async for chunk in reader.read(where.topic, where.partition):
        for key, value in chunk:
            if key == user_id.encode() and value:
                last = value
    if last is None:
        console.print("Nothing has been recommended yet.")
        return
    answer = msgspec.json.decode(last, type=Recommendation)
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
