"""Dead letters: which are meant, what is put back, what is left alone, how they are shown."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from stream_app import cli
from stream_app.config import Settings, load
from stream_app.errors import ConfigError
from stream_app.event import Event, encode
from stream_app.hashing import partition_for
from stream_app.ops import dead_letters_view as view
from stream_app.ops.dead_letters import REPLAY_COUNT, REPLAYED_FROM, DeadLetter, parse_where
from stream_app.ops.dead_letters_replay import REPLAYS_MAX, Planned, Replayed, plan
from tests.conftest import START_MS, event

PARTITIONS = 4
REPLAY = load(replay=True)


def letter(offset: int = 0, **over: Any) -> DeadLetter:
    """Return the dead letter of a view of `i-1` by `u-1` under a wrong key, less what is given."""
    value = encode(event(event_id=f"e-{offset}"))
    fields: dict[str, Any] = {
        "id": f"clickstream.events-1-{offset}-dead-letter",
        "partition": 0,
        "offset": offset,
        "time_ms": START_MS,
        "reason": "wrong_key",
        "detail": "the record's key is not the user_id",
        "source_topic": "clickstream.events",
        "source_partition": 1,
        "source_offset": offset,
        "key": b"somebody",
        "value": value,
        "size": len(value),
    }
    return DeadLetter(**(fields | over))


def fits(one: DeadLetter, *conditions: str) -> bool:
    """Whether a dead letter fits conditions, its status among them."""
    where = parse_where(conditions)
    return where.fits(one) and where.status in {None, one.status}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("reason=wrong_key", True),
        ("reason=no_key,wrong_key", True),
        ("reason=no_key", False),
        ("partition=0,1", True),
        ("partition=0", False),
        ("user=u-1", True),
        ("user=somebody", True),
        ("user=u-2", False),
        ("id=clickstream.events-1-0-dead-letter", True),
        ("id=other", False),
        ("since=2024-01-01", True),
        ("since=2024-01-01T00:00:01Z", False),
        ("until=2024-01-01T01:00:00+02:00", False),
        ("until=2024-01-02", True),
        ("status=open", True),
        ("status=replayed", False),
    ],
)
def test_where_one_condition(condition: str, *, expected: bool) -> None:
    """Each condition tells the dead letters that it means from the others."""
    assert fits(letter(), condition) is expected


def test_where_all_conditions_must_hold() -> None:
    """Several conditions narrow the choice; a value that is no JSON has no user but its key."""
    assert fits(letter(), "reason=wrong_key", "user=u-1")
    assert not fits(letter(), "reason=wrong_key", "user=u-2")
    broken = letter(value=b'{"user_id"', reason="not_json", key=b"u-1")
    assert fits(broken, "user=u-1")
    assert not fits(letter(value=b"\xff", key=None), "user=u-1")


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("mood=good", "give name=value, of id, partition, reason"),
        ("reason", "give name=value"),
        ("reason=mood", "no reason 'mood'; there are: empty"),
        ("since=tomorrow", "since=tomorrow: give a date such as 2026-01-31"),
        ("partition=x", "partition=x: give numbers"),
        ("status=lost", "status=open or status=replayed"),
    ],
)
def test_where_refuses_what_it_cannot_read(condition: str, said: str) -> None:
    """A condition that means nothing is named, and what there is instead."""
    with pytest.raises(ConfigError, match=said):
        parse_where([condition])
    result = CliRunner().invoke(cli.app, ["dead-letters", "list", "--where", condition])
    assert said in str(result.exception)


def planned(one: DeadLetter, settings: Settings = REPLAY, mapping: Any = None) -> Planned:
    """Return what is to become of a dead letter, on topics where nobody was erased."""
    from stream_app.ops import dead_letters_replay as module  # noqa: PLC0415

    return module._plan_one(settings, one, PARTITIONS, mapping)


@pytest.mark.parametrize(
    ("reason", "key"), [("wrong_key", b"x"), ("no_key", None), ("wrong_partition", b"u-1")]
)
def test_replay_repairs_key_and_partition(reason: str, key: bytes | None) -> None:
    """The key is the user's id, the partition murmur2's; value and headers are what they were."""
    one = letter(7, reason=reason, key=key, headers=(("trace", b"\x00\xff"),))
    (put,) = planned(one).puts
    assert (put.key, put.value) == (b"u-1", one.value)
    assert put.partition == partition_for(b"u-1", PARTITIONS)
    assert put.headers == [
        ("trace", b"\x00\xff"),
        (REPLAYED_FROM, one.id.encode()),
        (REPLAY_COUNT, b"1"),
    ]


def test_replay_dates_records_as_the_log_demands() -> None:
    """In a log that is history a record keeps its time; else it is dated by its sending."""
    assert planned(letter()).puts[0].time_ms == START_MS
    assert planned(letter(), load()).puts[0].time_ms is None


@pytest.mark.parametrize(
    ("over", "why"),
    [
        ({"value": b"{", "reason": "not_json"}, "rejected again: not_json"),
        ({"value": None, "reason": "empty"}, "rejected again: empty"),
        ({"value": encode(event(item_id=None))}, "rejected again: missing_field"),
        ({"value": encode(event(type="fly"))}, "rejected again: unknown_type"),
        ({"value": encode(event(timestamp=START_MS + 10**7))}, "rejected again: from_the_future"),
        ({"source_topic": "other"}, "it came from other"),
        ({"headers": ((REPLAYED_FROM, b"x"), (REPLAY_COUNT, b"3"))}, "put back 3 times"),
    ],
)
def test_replay_leaves_alone(over: dict[str, Any], why: str) -> None:
    """What would be rejected again, came from elsewhere or comes back again and again stays."""
    found = planned(letter(**over))
    assert not found.puts
    assert why in found.left


def test_replay_counts_how_often() -> None:
    """A record that was put back and rejected names the last dead letter only, and the count."""
    headers = (("trace", b"t"), (REPLAYED_FROM, b"first"), (REPLAY_COUNT, b"2"))
    (put,) = planned(letter(headers=headers)).puts
    assert put.headers == [
        ("trace", b"t"),
        (REPLAYED_FROM, letter().id.encode()),
        (REPLAY_COUNT, b"%d" % REPLAYS_MAX),
    ]


class Mapper:
    """A mapping of `{"who": ..., "what": [...]}`: a view for each thing."""

    def events(self, row: dict[str, object]) -> list[Event]:
        """Return a view of each thing."""
        if "who" not in row:
            raise ValueError("who is missing")
        things: Any = row["what"]
        return [event(event_id=f"m-{thing}", user_id=row["who"], item_id=thing) for thing in things]


def test_replay_maps_values_of_another_shape() -> None:
    """A mapping makes events, each under its user's key; bad ones are left."""
    value = json.dumps({"who": "anna", "what": ["a", "b"]}).encode()
    puts = planned(letter(value=value, reason="not_an_event"), mapping=Mapper()).puts
    assert [msgspec.json.decode(put.value)["item_id"] for put in puts] == ["a", "b"]
    assert {put.key for put in puts} == {b"anna"}
    for bad, why in (
        (b"{}", "the mapping does not fit: who is missing"),
        (b"[]", "the mapping does not fit"),
        (b"{", "the mapping does not fit"),
        (json.dumps({"who": "anna", "what": []}).encode(), "makes no event"),
        (json.dumps({"who": "anna", "what": [" "]}).encode(), "rejected again: bad_id"),
    ):
        assert why in planned(letter(value=bad), mapping=Mapper()).left


def test_plan_without_anything_to_send_asks_no_broker() -> None:
    """Where all is left alone, nobody's erasure needs to be looked up."""
    found = asyncio.run(plan(REPLAY, [letter(value=b"{")], PARTITIONS, None))
    assert [each.left[:8] for each in found] == ["rejected"]


# --- shown -------------------------------------------------------------------------------------


def test_summary_counts() -> None:
    """Counts by status, reason and partition, the time span, and the newest dead letters."""
    letters = [letter(n, time_ms=START_MS + n) for n in range(5)]
    letters += [letter(9, reason="not_json", value=b"{", replayed_ms=1, source_partition=0)]
    said = view.summary(letters, 2)
    assert (said["dead_letters"], said["open"], said["replayed"]) == (6, 5, 1)
    assert said["reasons"] == {"wrong_key": 5, "not_json": 1}
    assert said["partitions"] == {0: 1, 1: 5}
    assert (said["first"], said["until"]) == (
        "2024-01-01T00:00:00.000Z",
        "2024-01-01T00:00:00.004Z",
    )
    assert [each["id"] for each in said["last"]] == [letters[3].id, letters[4].id]
    assert view.summary([], 2)["first"] is None


def test_details_show_bytes_and_ancestry() -> None:
    """Bytes are given whole for scripts; the line of dead letters is followed both ways."""
    first = letter(0, value=b"\x1b[31m\xff")
    second = letter(1, headers=((REPLAYED_FROM, first.id.encode()),))
    third = letter(2, headers=((REPLAYED_FROM, second.id.encode()),))
    loop = letter(3, headers=((REPLAYED_FROM, letter(3).id.encode()),))
    everyone = [first, second, third, loop]
    said = view.details(third, everyone)
    assert said["ancestors"] == [second.id, first.id]
    assert view.details(first, everyone)["rejected_again_as"] == [second.id]
    assert view.details(loop, everyone)["ancestors"] == [loop.id]
    assert view.details(first, everyone)["value"] is None
    assert view.details(first, everyone)["value_base64"] == "G1szMW3/"


def test_nothing_reaches_the_terminal_unescaped() -> None:
    """No byte of a dead letter moves the cursor, changes a colour or is taken for markup."""
    from rich.console import Console  # noqa: PLC0415

    nasty = b'{"a": "\xc2\x9b31m[red]:smile:\\u001b[2J"}'
    for value in (nasty, b"\x1b]0;title\x07" + nasty, b"\xff\x1b[2J"):
        console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
        one = letter(value=value, key=b"\x1b[2J", detail="\x1b[2J", headers=(("h", b"\x1b"),))
        view.print_details(console, one, [one])
        view.print_summary(console, [one], 1)
        view.print_replay(console, Replayed([Planned(one, left="\x1b[2J")]))
        text = console.export_text()
        assert not {"\x1b", "\x9b", "\x07"} & set(text)
        if b"red" in value:
            assert "[red]:smile:" in text
