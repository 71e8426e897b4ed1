"""Stage 10: what goes out: ids, causes, headers, dead letters, and the notes of what was shown."""

from collections.abc import Sequence

import msgspec

from stream_app.codec import Sections
from stream_app.event import Cause, Recommendation, RejectReason
from stream_app.hashing import event_hash
from stream_app.stages.emit import (
    BYTES_MAX,
    DETAIL_CHARACTERS_MAX,
    NOTE_ITEMS_MAX,
    NOTES_SIZE,
    Notes,
    emit,
    explain,
)
from stream_app.steps import (
    Batch,
    Due,
    OutputRecord,
    Outside,
    Ranked,
    Reject,
    Request,
    Scored,
    Step,
)
from tests.conftest import START_MS, TOPIC, Record, admitted, record, request, sections

HEADERS = ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type")


def notes() -> Sections[str, Notes]:
    """Return the notes of a partition that has recommended nothing."""
    return sections("emit", Notes.decode, BYTES_MAX)


def sent(
    users: Sections[str, Notes], steps: Sequence[Step], *answers: Ranked
) -> list[OutputRecord]:
    """Return what a batch of partition 3 sends out."""
    return emit(users, Batch(TOPIC, 3, []), steps, answers, Outside("catalogue-7", 2))


def answered(asked: Request, places: Sequence[int], variant: str = "exploit") -> Ranked:
    """Return a ranking by a model, with scores of many digits."""
    scores = tuple(1 / (3 + n) for n in range(len(asked.items)))
    return Ranked(asked, Scored(scores, "model", "9", None), tuple(places), variant)


def recommended(users: Sections[str, Notes], asked: Request, places: Sequence[int]) -> OutputRecord:
    """Return the record of one recommendation."""
    step = admitted(offset=asked.arrival.offset)
    (out,) = sent(users, [step], answered(asked, places))
    return out


def test_recommendation_explains_itself() -> None:
    """A recommendation names its id, cause, model, fallback, service level and catalogue."""
    out = recommended(notes(), request(4, offset=12), [2, 0])
    value = msgspec.json.decode(out.value or b"", type=Recommendation)
    assert (out.topic, out.key) == ("recommendations", b"u-1")
    assert value.recommendation_id == f"{TOPIC}-3-12-recommendation"
    assert value.cause == Cause("e-12", TOPIC, 3, 12)
    assert (value.user_id, value.timestamp) == ("u-1", START_MS)
    assert (value.model, value.model_version, value.fallback_level) == ("model", "9", None)
    assert (value.service_level, value.catalog_version) == (2, "catalogue-7")
    assert value.variant == "exploit"
    assert [(item.rank, item.item_id, item.score) for item in value.items] == [
        (1, "c-2", 0.2),
        (2, "c-0", 0.333333),
    ]
    assert all(item.sources == ["popular"] for item in value.items)


def test_recommendation_has_cloud_event_headers() -> None:
    """Headers follow CloudEvents' Kafka binding; the time is that of the event."""
    out = recommended(notes(), request(1, offset=12, timestamp=START_MS - 1), [0])
    assert tuple(name for name, _ in out.headers) == HEADERS
    assert dict(out.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": f"{TOPIC}-3-12-recommendation".encode(),
        "ce_source": f"/stream_app/{TOPIC}/3".encode(),
        "ce_type": b"stream_app.recommendation.v1",
        "ce_time": b"2023-12-31T23:59:59.999Z",
        "content-type": b"application/json",
    }


def test_empty_answer_goes_to_who_asked() -> None:
    """With nothing to recommend, a request gets an empty list and a view gets nothing."""
    out = recommended(notes(), request(2), [])
    assert msgspec.json.decode(out.value or b"", type=Recommendation).items == []
    unasked = request(2, type="view", item_id="c-0")
    users = notes()
    assert sent(users, [admitted()], answered(unasked, [])) == []
    assert users.get("u-1") is None


def test_reasons_say_where_a_candidate_came_from() -> None:
    """There is one reason for each source, with recency and rhythm for what is bought again."""
    rows = ((0.0,) * 9 + (3.2, 6.9), (0.0,) * 9 + (1.0, 0.0), (0.0,) * 11)
    asked = msgspec.structs.replace(request(3), features=rows, sources=(1 | 8, 1, 2 | 4))
    assert explain(asked, 0) == ["bought 3 days ago, usually every 7 days", "popular here"]
    assert explain(asked, 1) == ["bought 1 days ago"]
    assert explain(asked, 2) == [
        "others went on to it from this user's last items",
        "trending here",
    ]


def test_notes_keep_the_last_three() -> None:
    """A user's row remembers the last three recommendations and ten items of each."""
    users = notes()
    for n in range(5):
        recommended(users, request(20, offset=n, timestamp=START_MS + n * 1000), range(n + 9))
    section = users.get("u-1")
    assert section is not None
    assert len(section.notes) == NOTES_SIZE
    for n, note in zip((2, 3, 4), section.notes, strict=True):
        assert note.recommendation == event_hash(f"{TOPIC}-3-{n}-recommendation")
        assert note.second == START_MS // 1000 + n
        assert note.items == request(20).items[:NOTE_ITEMS_MAX]
    data = section.encode()
    assert len(data) == BYTES_MAX
    assert Notes.decode(data) == section


def test_notes_of_users_without_consent() -> None:
    """Nothing is noted without consent, and withdrawing it removes what was noted."""
    users = notes()
    recommended(users, request(1, profiled=False), [0])
    assert users.get("u-1") is None
    recommended(users, request(1), [0])
    assert sent(users, [admitted(profiled=False)]) == []
    assert users.get("u-1") is None


def test_notes_end_with_the_user() -> None:
    """Expiry of a user ends the notes; that of an item does not."""
    users = notes()
    recommended(users, request(1), [0])
    assert sent(users, [Due("item", 5, "expiry", START_MS, START_MS)]) == []
    assert users.get("u-1")
    assert sent(users, [Due("user", "u-1", "expiry", START_MS, START_MS)]) == []
    assert users.get("u-1") is None


def letter(
    raw: Record, reason: RejectReason = "not_json", detail: str = "no such thing"
) -> OutputRecord:
    """Return the dead letter of a record."""
    (out,) = sent(notes(), [Reject(reason, detail, raw, START_MS)])
    return out


def test_dead_letter_has_the_original() -> None:
    """A dead letter has the record's own key and bytes, whatever they are."""
    for key, value in ((b"\xff\x00", b"\xfe{"), (None, None), (b"", b"")):
        out = letter(record(5, key=key, value=value))
        assert (out.topic, out.key, out.value) == ("dead_letter", key, value)


def test_dead_letter_says_where_from_and_why() -> None:
    """Headers tell the reason and the source, then repeat the source's own, all of them."""
    own = (("trace", b"1"), ("trace", b"2"), ("ce_id", b"theirs"), ("", b"\xff"))
    out = letter(record(5, value=b"x", headers=own))
    assert out.headers[len(HEADERS) :] == (
        ("reject_reason", b"not_json"),
        ("reject_detail", b"no such thing"),
        ("source_topic", TOPIC.encode()),
        ("source_partition", b"3"),
        ("source_offset", b"5"),
        ("source_timestamp", b"%d" % START_MS),
        *((f"source_header.{name}", value) for name, value in own),
    )
    first = dict(out.headers[: len(HEADERS)])
    assert first["ce_id"] == f"{TOPIC}-3-5-dead-letter".encode()
    assert first["ce_type"] == b"stream_app.dead-letter.v1"
    assert first["content-type"] == b"application/octet-stream"


def test_dead_letter_of_a_long_or_odd_detail() -> None:
    """Details are cut, and what UTF-8 cannot say is replaced."""
    headers = dict(letter(record(), detail="\ud800" + "x" * 1_000).headers)
    assert headers["reject_detail"] == b"?" + b"x" * (DETAIL_CHARACTERS_MAX - 1)


def test_dead_letter_of_an_impossible_timestamp() -> None:
    """A record without a timestamp, or with one that no calendar has, becomes a letter too."""
    for log_ms, expected in (
        (-1, b"1970-01-01T00:00:00.000Z"),
        (2**63 - 1, b"2100-01-01T00:00:00.000Z"),
    ):
        headers = dict(letter(record(0, log_ms, value=b"")).headers)
        assert headers["source_timestamp"] == b"%d" % log_ms
        assert headers["ce_time"] == expected


def test_records_stand_in_the_order_of_their_causes() -> None:
    """Answers and dead letters come in the order of the log, and nothing else comes out."""
    users = notes()
    bad = record(1, value=b"")
    steps: list[Step] = [
        admitted(offset=0),
        Reject("empty", "nothing", bad, START_MS),
        admitted(offset=2),
        admitted(offset=3),
    ]
    answers = [
        answered(msgspec.structs.replace(request(1, offset=place), step=place), [0])
        for place in (0, 3)
    ]
    out = sent(users, steps, *answers)
    assert [dict(each.headers)["ce_id"].decode() for each in out] == [
        f"{TOPIC}-3-0-recommendation",
        f"{TOPIC}-3-1-dead-letter",
        f"{TOPIC}-3-3-recommendation",
    ]
