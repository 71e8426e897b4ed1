"""The documents: true of what the program reads and writes, valid, and those that are committed."""

import gzip
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator
from typer.testing import CliRunner

from stream_app import cli
from stream_app.config import DAY_MS, load
from stream_app.event import TIME_MS_MAX, TIME_MS_MIN
from stream_app.ops import schema
from stream_app.stages.decode import REQUIRED
from stream_app.steps import Reject
from tests.conftest import START_MS, batch, fresh, run
from tests.conftest import record as record_of
from tests.stages.test_decode import BAD, one
from tests.test_pipeline import LASTING, _warm, warm

COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "schemas"
__all__ = ["_warm"]  # a fixture
MEND = "run: .venv/bin/stream-app schema --out docs/schemas"
# The official schema of AsyncAPI 3.0.0, as in the npm package @asyncapi/specs 6.11.1 (Apache-2.0).
OFFICIAL = Path(__file__).with_name("asyncapi-3.0.0.json.gz")

SCHEMAS = schema.schemas()
EVENT = Draft202012Validator(SCHEMAS["event"])

# What no schema of a value can say: keys, partitions, bytes, and times beside the record's own.
# `bad_time` and `bad_id` it says in part: no offset can be reckoned with, nor all of Unicode.
UNSAID = {
    "empty",
    "too_large",
    "not_json",
    "from_the_future",
    "no_key",
    "wrong_key",
    "wrong_partition",
}


def validator(name: str) -> Draft202012Validator:
    """Return what checks values against a schema."""
    return Draft202012Validator(SCHEMAS[name])


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI document of the default settings."""
    return schema.documents(load())["asyncapi"]


def test_committed_documents_are_those_of_the_code() -> None:
    """The files under docs/schemas are what the command writes today, and there are no others."""
    made = {schema.file_name(name): made for name, made in schema.documents(load()).items()}
    assert {path.name for path in COMMITTED.iterdir()} == set(made), MEND
    for name, document in made.items():
        assert (COMMITTED / name).read_text(encoding="utf-8") == schema.text(document), MEND


def test_schemas_are_valid_and_fit_their_examples() -> None:
    """Each schema is one of JSON Schema 2020-12, and each of its examples fits it."""
    for document in SCHEMAS.values():
        Draft202012Validator.check_schema(document)
        for example in document.get("examples", ()):
            Draft202012Validator(document).validate(example)
    assert all(SCHEMAS[name]["examples"] for name in schema.RECORDS)


def test_every_field_is_described() -> None:
    """Each field of each record says what it is."""
    for name in schema.RECORDS:
        parts = [SCHEMAS[name], *SCHEMAS[name].get("$defs", {}).values()]
        for part in parts:
            for field, said in part["properties"].items():
                assert said.get("description"), f"{name}: {field}"


def test_asyncapi_document_is_valid() -> None:
    """The document fits the official schema of AsyncAPI 3.0, and a wrong one does not."""
    official = Draft7Validator(json.loads(gzip.decompress(OFFICIAL.read_bytes())))
    document = asyncapi()
    official.validate(document)
    wrong = document | {"operations": {"send": {"action": "shout", "channel": {"$ref": "#/x"}}}}
    assert not official.is_valid(wrong)


def test_asyncapi_references_lead_somewhere() -> None:
    """Each reference of the document points at a part of it."""
    document = asyncapi()

    def walk(part: Any) -> None:
        for each in part.values() if isinstance(part, dict) else part:
            if isinstance(each, dict | list):
                walk(each)
        if isinstance(part, dict) and "$ref" in part:
            found.append(part["$ref"])

    found: list[str] = []
    walk(document)
    assert found
    for reference in found:
        assert reference.startswith("#/"), reference
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            assert step in target, reference
            target = target[step]


def test_asyncapi_examples_fit_their_schemas() -> None:
    """Each message has an example, and its payload or headers fit the schema beside it."""
    document = asyncapi()
    for name, message in document["components"]["messages"].items():
        assert message["examples"], name
        for example in message["examples"]:
            for part, value in example.items():
                # AsyncAPI's own schema format is draft 7.
                whole = {**message[part], "components": document["components"]}
                Draft7Validator(whole).validate(value)
                assert not Draft7Validator(whole).is_valid({"nothing": "of it"})


def test_asyncapi_names_the_topics_of_the_settings() -> None:
    """Channels are the topics by their real names; two are read, all others are sent to."""
    settings = load(topic_prefix="shop.", brokers="a:1,b:2")
    document = schema.documents(settings)["asyncapi"]
    logical = type(settings.topics).model_fields
    addresses = {name: channel["address"] for name, channel in document["channels"].items()}
    assert addresses == {name: settings.topic(name) for name in logical}
    actions = {each["channel"]["$ref"]: each["action"] for each in document["operations"].values()}
    read = {name.rpartition("/")[2] for name, action in actions.items() if action == "receive"}
    assert read == {"events", "catalog"}
    assert len(actions) == len(logical)
    assert [server["host"] for server in document["servers"].values()] == ["a:1", "b:2"]


# --- events: the schema and the decoder agree --------------------------------------------------


def rejected(value: bytes, user_id: str = "u-1") -> str | None:
    """Return the reason for which the decoder rejects a value, its key being right."""
    decoded = one(record_of(0, TIME_MS_MAX, value=value, key=user_id.encode()))
    return decoded.reason if isinstance(decoded, Reject) else None


# Without those whose value is no JSON at all, so nothing that a schema could look at.
@pytest.mark.parametrize(
    ("reason", "raw"),
    [bad for bad in BAD if bad[0] not in {"empty", "not_json", "too_large"}],
    ids=lambda each: str(each)[:40],
)
def test_schema_refuses_what_the_decoder_rejects(reason: str, raw: Any) -> None:
    """Every fault of the value that the decoder's tests know is one by the schema too."""
    value = json.loads(raw.value)
    assert EVENT.is_valid(value) == (reason in UNSAID)


TEXT = st.text(max_size=6)
IDS = st.one_of(st.text("ab- ", min_size=1, max_size=5), st.text(max_size=130), st.just("i" * 129))
TIMES = st.one_of(
    st.integers(min_value=-1, max_value=TIME_MS_MAX + 1),
    st.sampled_from([TIME_MS_MIN - 1, TIME_MS_MIN, TIME_MS_MAX - 1, TIME_MS_MAX, 10**30]),
    st.datetimes(
        datetime(1999, 12, 1),  # noqa: DTZ001 - hypothesis adds the zone
        datetime(2101, 2, 1),  # noqa: DTZ001
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
    ).map(lambda at: at.isoformat()),
    st.from_regex(
        r"\A20[0-9]{2}-[01][0-9]-[0-3][0-9][Tt x][0-2][0-9]:[0-6][0-9]:[0-6][0-9]"
        r"(\.[0-9]{0,9})?(Z|z|[+-][0-2][0-9]:?[0-6][0-9]|)\n?\Z"
    ),
)
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 1_000_001),
    st.floats(-1, 2e12).filter(lambda number: not number.is_integer()),
    TEXT,
    st.sampled_from(
        ["EUR", "x" * 128, "x" * 129, "x" * 256, "x" * 257, "x" * 10_000, "x" * 10_001]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.one_of(TEXT, st.just("k" * 129)), st.one_of(st.none(), TEXT), max_size=2),
    st.just({"deep": {"er": 1}}),
)
OPTIONAL = [name for name in SCHEMAS["event"]["properties"] if name not in {"event_id", "user_id"}]
VALUES = st.fixed_dictionaries(
    {
        "event_id": st.one_of(st.just("e-1"), IDS),
        "type": st.one_of(st.sampled_from([*REQUIRED, "tick", "fly"]), ANYTHING),
        "user_id": st.one_of(st.just("u-1"), IDS),
        "timestamp": st.one_of(st.just(START_MS), TIMES),
    },
    optional={
        name: st.one_of(IDS if name.endswith("_id") else st.booleans(), ANYTHING)
        for name in OPTIONAL
        if name not in {"type", "timestamp"}
    },
)


@settings(max_examples=300)
@given(VALUES)
def test_schema_takes_what_the_decoder_takes(value: dict[str, Any]) -> None:
    """An event that the decoder takes fits the schema; one that fits is taken, up to the unsaid."""
    user_id = value["user_id"]
    reason = rejected(json.dumps(value).encode(), user_id)
    fits = EVENT.is_valid(value)
    if reason is None:
        assert fits, list(EVENT.iter_errors(value))
    elif fits:
        assert reason in UNSAID | {"bad_id", "bad_time"} or "date" in str(value["timestamp"])
        if reason == "bad_id":
            ids = (value["event_id"], user_id, value.get("item_id") or "x")
            assert not all(each.isascii() for each in ids), "of ASCII the schema says all"
        if reason == "bad_time":
            assert isinstance(value["timestamp"], str), "of numbers the schema says all"


@settings(max_examples=300)
@given(TIMES)
def test_schema_knows_times(timestamp: object) -> None:
    """Of times the schema knows all but the length of months and what an offset does."""
    value = {"event_id": "e", "type": "erase", "user_id": "u-1", "timestamp": timestamp}
    reason, fits = rejected(json.dumps(value).encode()), EVENT.is_valid(value)
    if fits and reason is not None:
        assert isinstance(timestamp, str)
        date = timestamp[:10]
        edges = ("2000-01-01", "2099-12-31")
        assert (reason == "bad_time" and date in edges) or not _is_date(date)
    if reason is None:
        assert fits


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


# --- outputs -----------------------------------------------------------------------------------


def kind_of(headers: dict[str, str]) -> str:
    """Return the kind of record that the headers speak of."""
    return headers["ce_type"].removeprefix("stream_app.").removesuffix(".v1")


@warm
def test_outputs_fit_their_schemas() -> None:
    """Every record that logs give rise to fits the schemas of its value and its headers."""
    logs = [batch(400, seed, step_ms=DAY_MS // 2, leaps=0.03) for seed in range(3)]
    out = [record for log in logs for record in run(fresh(), log, LASTING).records]
    kinds = set()
    for record in out:
        headers = {name: text.decode() for name, text in record.headers}
        kind = kind_of(headers)
        kinds.add(kind)
        validator(f"{kind}-headers").validate(headers)
        assert len(headers) == len(record.headers), "CloudEvents allow a name once"
        if kind in schema.RECORDS:
            value = json.loads(record.value or b"")
            validator(kind).validate(value)
            assert record.key == value["user_id"].encode()
    assert kinds == set(schema.KINDS) - {"dead-letter-replayed"}


def test_schemas_of_outputs_refuse_others() -> None:
    """A missing field, another type, level or reason does not fit."""
    for kind, field in (
        ("recommendation", "items"),
        ("prediction", "cause"),
        ("churn-alert", "risk"),
    ):
        good = SCHEMAS[kind]["examples"][0]
        assert not validator(kind).is_valid({name: good[name] for name in good if name != field})
        assert not validator(kind).is_valid(good | {field: "much"})
    alert = SCHEMAS["churn-alert"]["examples"][0]
    assert not validator("churn-alert").is_valid(alert | {"level": "panic"})
    dead = SCHEMAS["dead-letter-headers"]["examples"][0]
    for over in ({"reject_reason": "mood"}, {"source_offset": "x"}, {"ce_type": "other"}):
        assert not validator("dead-letter-headers").is_valid(dead | over)


# --- the command -------------------------------------------------------------------------------


def test_command_prints_and_writes(tmp_path: Path) -> None:
    """Without a name it lists the documents, with one it prints it, with a folder it writes all."""
    names = CliRunner().invoke(cli.app, ["schema"]).output.split()
    assert set(names) == {*SCHEMAS, "asyncapi"}
    assert json.loads(CliRunner().invoke(cli.app, ["schema", "event"]).output) == SCHEMAS["event"]
    result = CliRunner().invoke(cli.app, ["schema", "--out", str(tmp_path / "new")])
    assert result.exit_code == 0
    written = {path.name for path in (tmp_path / "new").iterdir()}
    assert written == {schema.file_name(name) for name in names}


@pytest.mark.parametrize("words", [["schema", "evnt"], ["schema", "event", "--out", "here"]])
def test_command_says_what_is_wrong(words: list[str]) -> None:
    """A name that there is not, or one beside a folder, is refused in a sentence."""
    error = CliRunner().invoke(cli.app, words).exception
    assert "there are: event" in str(error) or "leave out" in str(error)
