"""Producing from the command line: what goes where, and how events are dated anew."""

import json
from pathlib import Path

import pytest

from stream_app.clock import now_ms
from stream_app.config import load
from stream_app.errors import ConfigError
from stream_app.ops.broker import EmbeddedBroker
from stream_app.ops.produce import Order, dated_now, run
from stream_app.runtime.topics import create

LINES = [
    {"event_id": f"e-{n}", "type": "view", "user_id": "u", "timestamp": n * 1_000, "item_id": "i"}
    for n in range(7)
]


def test_produce_tells_how_many_were_acknowledged(tmp_path: Path) -> None:
    """The count is that of the lines sent, and a limit holds."""
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    with EmbeddedBroker(tmp_path) as broker:
        settings = load(brokers=broker.address)
        create(settings)
        order = Order(source="jsonl", file=file)
        assert run(settings, order).acknowledged == 7
        assert run(settings, Order(source="jsonl", file=file, limit=3, now=True)).acknowledged == 3


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (Order(source="jsonl", households=3), "jsonl has none"),
        (Order(source="completejourney", file=Path("f")), "a file is for jsonl"),
    ],
)
def test_produce_of_contradictory_options_is_refused(order: Order, message: str) -> None:
    """An option that the source does not have is named, not ignored."""
    with pytest.raises(ConfigError, match=message):
        run(load(), order)


def test_dating_anew_keeps_distances_when_sped_up() -> None:
    """The first event is due now, and the others as much later as the speedup makes of it."""
    records = [(b"u", json.dumps(line).encode(), n * 1_000) for n, line in enumerate(LINES)]
    before = now_ms()
    dated = [json.loads(value) for _, value, _ in dated_now(records, 10.0)]
    times = [fields["timestamp"] for fields in dated]
    assert before <= times[0] <= now_ms()
    assert [time - times[0] for time in times] == [100 * n for n in range(7)]
    assert [fields["event_id"] for fields in dated] == [line["event_id"] for line in LINES]


def test_dating_anew_leaves_what_is_no_object() -> None:
    """A value that cannot be read goes as it is: the worker rejects it."""
    assert list(dated_now([(b"u", b"no json", 5)], None)) == [(b"u", b"no json", 5)]
