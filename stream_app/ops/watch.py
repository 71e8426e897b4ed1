"""``stream-app watch``: what goes out, as it comes."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.text import Text

from stream_app.config import Settings
from stream_app.errors import TopicError, UnreachableError
from stream_app.event import ChurnAlert, Prediction
from stream_app.ops import words


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
        await consumer.stop()
        raise UnreachableError(settings.brokers, error) from None
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
    with Console(stderr=True).status(f"waiting for a record of {topic}; Ctrl-C ends") as status:
        async for record in records(settings, topic, from_beginning=from_beginning):
            status.stop()  # from here on the records are the sign of life
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
