"""Stage 10: what goes out: ids, causes, headers, dead letters, and the notes of what was shown."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec import convert

from stream_app.codec import Sections
from stream_app.config import DAY_MS
from stream_app.event import Cause, ChurnAlert, Prediction, Recommendation, RejectReason, Target
from stream_app.hashing import event_hash
from stream_app.learners import MODEL_VERSION
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
    FEATURE_NAMES,
    SOURCES,
    Alarm,
    Answers,
    Batch,
    Due,
    Forecast,
    Joined,
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
BATCH = Batch(TOPIC, 3, [])
OUTSIDE = Outside("catalogue-7", 2)


def notes() -> Sections[str, Notes]:
    """Return the notes of a partition that has recommended nothing."""
    return sections("emit", Notes.decode, BYTES_MAX)


def sent(
    users: Sections[str, Notes], steps: Sequence[Step], *answers: Ranked
) -> list[OutputRecord]:
    """Return what a batch of partition 3 sends out."""
    return emit(users, BATCH, steps, Answers(ranked=answers), OUTSIDE)[0]


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
    rows = tuple(
        tuple(known.get(name, 0.5) for name in FEATURE_NAMES)
        for known in (
            {"recency_days": 3.2, "gap_days": 6.9},
            {"recency_days": 1.0, "gap_days": 0.0},
            {},
            {},
        )
    )
    bits = (1 | 8, 1, 2 | 4, 16 | 32 | 64 | 128)
    asked = msgspec.structs.replace(request(4), features=rows, sources=bits)
    assert explain(asked, 0) == ["bought 3 days ago, usually every 7 days", "popular here"]
    assert explain(asked, 1) == ["bought 1 days ago"]
    assert explain(asked, 2) == [
        "others went on to it from this user's last items",
        "trending here",
    ]
    assert explain(asked, 3) == [
        "like this user's last items",
        "new",
        "popular in this context",
        "the model expects it next",
    ]
    for bit in SOURCES:
        assert len(explain(msgspec.structs.replace(asked, sources=(bit,) * 4), 0)) == 1


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
        assert note.sources == bytes([8] * NOTE_ITEMS_MAX)
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


# --- predictions and alerts -----------------------------------------------------------------------

SUNDAY_MS = START_MS + 6 * DAY_MS


def forecast(step: int = 0, time_ms: int = START_MS, **probabilities: float) -> Forecast:
    """Return a forecast of the first user."""
    known = {"purchase": 0.25} | probabilities
    return Forecast(
        step, "u-1", time_ms, 1_800_000, convert(known, dict[Target, float]), "logistic"
    )


def alarm(step: int = 0, **over: Any) -> Alarm:
    """Return an alarm of the first user on a Sunday."""
    fields: dict[str, Any] = {
        "step": step,
        "user_id": "u-1",
        "time_ms": SUNDAY_MS,
        "horizon_ms": 28 * DAY_MS,
        "risk": 0.75,
        "level": "critical",
        "reasons": ("no purchase for 40 days",),
        "offer": "discount",
        "model": "logistic",
    }
    return Alarm(**(fields | over))


def weekly(kind: str = "churn", log_ms: int = SUNDAY_MS + 99) -> Due:
    """Return a timer of the first user that was due on Sunday."""
    return Due("user", "u-1", kind, SUNDAY_MS, log_ms, 5)


def test_prediction_names_its_cause() -> None:
    """A prediction at an event has the event's offset in its id, and the event as its cause."""
    step = admitted(offset=12, timestamp=START_MS - 5)
    answers = Answers(forecasts=[forecast(time_ms=START_MS - 5, share=0.5)])
    (out,) = emit(notes(), BATCH, [step], answers, OUTSIDE)[0]
    assert (out.topic, out.key) == ("predictions", b"u-1")
    assert msgspec.json.decode(out.value or b"", type=Prediction) == Prediction(
        prediction_id=f"{TOPIC}-3-12-prediction",
        user_id="u-1",
        timestamp=START_MS - 5,
        horizon_ms=1_800_000,
        probabilities={"purchase": 0.25, "share": 0.5},
        cause=Cause("e-12", TOPIC, 3, 12),
        model="logistic",
        model_version=MODEL_VERSION,
    )
    headers = dict(out.headers)
    assert tuple(headers) == HEADERS
    assert headers["ce_id"] == f"{TOPIC}-3-12-prediction".encode()
    assert headers["ce_type"] == b"stream_app.prediction.v1"
    assert headers["ce_time"] == b"2023-12-31T23:59:59.995Z"


def test_prediction_at_a_timer_names_the_timer() -> None:
    """A weekly risk has no event as its cause; its id is the timer's, whenever that fired."""
    answers = Answers(forecasts=[forecast(time_ms=SUNDAY_MS)])
    for log_ms in (SUNDAY_MS, SUNDAY_MS + 5):
        (out,) = emit(notes(), BATCH, [weekly(log_ms=log_ms)], answers, OUTSIDE)[0]
        value = msgspec.json.decode(out.value or b"", type=Prediction)
        assert value.cause is None
        assert value.prediction_id == f"{TOPIC}-3-user-u-1-churn-{SUNDAY_MS}-prediction"
        assert dict(out.headers)["ce_id"].decode() == value.prediction_id
        assert dict(out.headers)["ce_time"] == b"2024-01-07T00:00:00.000Z"


@pytest.mark.parametrize("offer", ["discount", None])
def test_alert_explains_itself(offer: str | None) -> None:
    """An alert says how grave, why and what to offer; its id is that of the timer."""
    answers = Answers(alarms=[alarm(offer=offer)])
    (out,) = emit(notes(), BATCH, [weekly("silence")], answers, OUTSIDE)[0]
    assert (out.topic, out.key) == ("churn_alerts", b"u-1")
    name = f"{TOPIC}-3-user-u-1-silence-{SUNDAY_MS}-churn-alert"
    assert msgspec.json.decode(out.value or b"", type=ChurnAlert) == ChurnAlert(
        alert_id=name,
        user_id="u-1",
        timestamp=SUNDAY_MS,
        horizon_ms=28 * DAY_MS,
        risk=0.75,
        level="critical",
        reasons=["no purchase for 40 days"],
        offer=offer,
        model="logistic",
        model_version=MODEL_VERSION,
    )
    headers = dict(out.headers)
    assert tuple(headers) == HEADERS
    assert headers["ce_id"] == name.encode()
    assert headers["ce_type"] == b"stream_app.churn-alert.v1"
    assert headers["ce_time"] == b"2024-01-07T00:00:00.000Z"


def test_outputs_of_one_step_have_an_order() -> None:
    """At a step the recommendation comes before the prediction, and the risk before the alert."""
    steps: list[Step] = [
        Reject("empty", "nothing", record(0, value=b""), START_MS),
        admitted(offset=1),
        weekly(),
        weekly("silence"),
        admitted(offset=2),
    ]
    ranked = [answered(msgspec.structs.replace(request(1, offset=1), step=1), [0])]
    answers = Answers(ranked, [forecast(4), forecast(2), forecast(1)], [alarm(3), alarm(2)])
    out = emit(notes(), BATCH, steps, answers, OUTSIDE)[0]
    assert [dict(each.headers)["ce_id"].decode().removeprefix(f"{TOPIC}-3-") for each in out] == [
        "0-dead-letter",
        "1-recommendation",
        "1-prediction",
        f"user-u-1-churn-{SUNDAY_MS}-prediction",
        f"user-u-1-churn-{SUNDAY_MS}-churn-alert",
        f"user-u-1-silence-{SUNDAY_MS}-churn-alert",
        "2-prediction",
    ]


# --- joins ----------------------------------------------------------------------------------------


def joins(users: Sections[str, Notes], **over: Any) -> list[Joined]:
    """Return what an event says of what was recommended before."""
    return emit(users, BATCH, [admitted(**over)], Answers(), OUTSIDE)[1]


def shown() -> Sections[str, Notes]:
    """Return notes of two recommendations: `c-2`, `c-0` at offset 10, then `c-1` at 11."""
    users = notes()
    asked = msgspec.structs.replace(request(3, offset=10), sources=(1 | 2, 8, 4))
    recommended(users, asked, [2, 0])
    recommended(users, msgspec.structs.replace(request(3, offset=11), sources=(8, 2, 8)), [1])
    return users


NAMED = f"{TOPIC}-3-10-recommendation"


@pytest.mark.parametrize("kind", ["impression", "click", "purchase"])
def test_join_of_a_named_recommendation(kind: str) -> None:
    """An event that names a recommendation is joined to it, with place and sources of its item."""
    users = shown()
    for item_id, place, sources in (("c-2", 1, 4), ("c-0", 2, 1 | 2)):
        over = {"type": kind, "item_id": item_id, "recommendation_id": NAMED}
        assert joins(users, **over) == [Joined(kind, place, sources, named=True)]


@pytest.mark.parametrize(
    ("item_id", "recommendation_id"), [("c-1", NAMED), ("c-2", "no such"), ("new", NAMED)]
)
def test_join_of_what_is_unknown(item_id: str, recommendation_id: str) -> None:
    """An item that was not in it, or a recommendation that is not remembered, has place 0."""
    over = {"type": "click", "item_id": item_id, "recommendation_id": recommendation_id}
    assert joins(shown(), **over) == [Joined("click", 0, 0, named=True)]
    assert joins(notes(), **over) == [Joined("click", 0, 0, named=True)]


def test_join_of_a_purchase_by_its_item() -> None:
    """A purchase that names nothing is joined by its item to the last recommendation, or not."""
    users = shown()
    assert joins(users, type="purchase", item_id="c-1") == [Joined("purchase", 1, 2, named=False)]
    for over in (
        {"type": "purchase", "item_id": "c-2"},  # was in the one before
        {"type": "purchase", "item_id": "new"},
        {"type": "click", "item_id": "c-1"},
        {"type": "impression", "item_id": "c-1"},
        {"type": "purchase", "item_id": "c-1", "user_id": "u-2"},
        {"type": "purchase", "item_id": "c-1", "timestamp": START_MS - 1_000},  # was before it
    ):
        assert joins(users, **over) == []


def test_join_needs_one_of_three_types() -> None:
    """Only impressions, clicks and purchases are joined; of an item, and of who consents."""
    over = {"item_id": "c-2", "recommendation_id": NAMED}
    for kind in ("view", "cart", "remove_from_cart", "comment", "share", "search"):
        assert joins(shown(), type=kind, **over) == []
    assert joins(shown(), type="click", item_id=None, recommendation_id=NAMED) == []
    users = shown()
    assert joins(users, type="click", profiled=False, **over) == []
    assert joins(users, type="click", **over) == [Joined("click", 0, 0, named=True)]


def test_join_of_a_purchase_comes_before_its_own_recommendation() -> None:
    """A purchase that prompts a recommendation is joined to the one before, not to its own."""
    users = shown()
    step = admitted(offset=12, type="purchase", item_id="c-1")
    prompted = request(3, offset=12, type="purchase", item_id="c-1")
    answers = Answers([answered(prompted, [0, 1])])
    out, joined = emit(users, BATCH, [step], answers, OUTSIDE)
    assert len(out) == 1
    assert joined == [Joined("purchase", 1, 2, named=False)]
    assert joins(users, type="purchase", item_id="c-1") == [Joined("purchase", 2, 8, named=False)]


def test_join_of_items_beyond_those_noted() -> None:
    """Of a long recommendation ten items are remembered; the eleventh is unknown."""
    users = notes()
    recommended(users, request(12, offset=10), range(12))
    for place, expected in ((10, Joined("click", 10, 8, named=True)), (11, None)):
        over = {"type": "click", "item_id": f"c-{place - 1}", "recommendation_id": NAMED}
        assert joins(users, **over) == [expected or Joined("click", 0, 0, named=True)]
