"""What is on Kafka, as documents: JSON Schemas of records and headers, and one AsyncAPI document.

All of it is made from the structs of :mod:`stream_app.event` and what the stages demand beyond
them, so it says what the code does. JSON Schema 2020-12; the schemas use nothing that draft 7 lacks
but ``$defs``, which AsyncAPI does not need.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from stream_app.config import Settings
from stream_app.errors import ConfigError
from stream_app.event import (
    REJECT_REASONS,
    TIME_MS_MAX,
    TIME_MS_MIN,
    ChurnAlert,
    Event,
    Item,
    Prediction,
    Recommendation,
)
from stream_app.ops.schema_asyncapi import asyncapi
from stream_app.ops.schema_examples import EXAMPLES
from stream_app.stages.decode import REQUIRED
from stream_app.stages.emit import DETAIL_CHARACTERS_MAX

DIALECT = "https://json-schema.org/draft/2020-12/schema"

# The name of a document, and the struct that it describes.
RECORDS: dict[str, type[Struct]] = {
    "event": Event,
    "item": Item,
    "recommendation": Recommendation,
    "prediction": Prediction,
    "churn-alert": ChurnAlert,
}
# The kinds of records that have headers: what `ce_type` says, and the content type of the value.
KINDS: dict[str, str] = {
    "recommendation": "application/json",
    "prediction": "application/json",
    "churn-alert": "application/json",
    "dead-letter": "application/octet-stream",
    "dead-letter-replayed": "application/octet-stream",
}

# The forms of RFC 3339 that are read. How many days a month has, no pattern says. The last part is
# for regular expressions whose `$` lets a line end follow.
_HOUR, _MINUTE = r"([01][0-9]|2[0-3])", r"[0-5][0-9]"
_INSTANT = (
    r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt ]"
    rf"{_HOUR}:{_MINUTE}:{_MINUTE}(\.[0-9]+)?([Zz]|[+-]{_HOUR}:?{_MINUTE})$(?!\n)"
)
# An id holds more than spaces, and no control characters or other blanks. There is more that cannot
# be printed; that is left to the worker.
_ID = {
    "pattern": "[^ ]",
    "not": {"pattern": r"[\u0000-\u001f\u007f-\u00a0\u2000-\u200f\u2028-\u202f\u3000]"},
}
_TIMES = (
    "`timestamp` must lie within the years 2000 to 2099, and no more than 5 minutes (a setting) "
    "after the record's own. Numbers that are whole are written without a point."
)


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each record and each set of headers, by the document's name."""
    made = {name: _standalone(name, *_parts(record)) for name, record in RECORDS.items()}
    for kind in KINDS:
        name = f"{kind}-headers"
        made[name] = {"$schema": DIALECT, "$id": _identity(name), **headers(kind)}
    for name, examples in EXAMPLES.items():
        made[name]["examples"] = examples
    return made


def components() -> dict[str, dict[str, Any]]:
    """Return the schemas of all records by the names of their types, for one document."""
    found: dict[str, dict[str, Any]] = {}
    for record in RECORDS.values():
        found |= _parts(record, "#/components/schemas/{name}")[1]
    return found


def headers(kind: str) -> dict[str, Any]:
    """Return the schema of the headers of one kind of output, each read as UTF-8.

    They are those of CloudEvents' Kafka binding, version 1.0, binary mode; a dead letter has more.
    """
    text = {"type": "string"}
    properties: dict[str, Any] = {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {**text, "minLength": 1, "description": "the same whenever it is said again"},
        "ce_source": {
            **text,
            "pattern": r"^/stream_app/[A-Za-z0-9._-]+/[0-9]+$",
            "description": "topic and partition of the events",
        },
        "ce_type": {"const": f"stream_app.{kind}.v1"},
        "ce_time": {
            **text,
            "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z$",
            "description": "event time; of a dead letter the time of the rejected record",
        },
        "content-type": {"const": KINDS[kind]},
    }
    schema: dict[str, Any] = {"title": f"Headers of a {kind}", "type": "object"}
    number = {**text, "pattern": "^-?[0-9]+$"}
    if kind == "dead-letter":
        properties |= {
            "reject_reason": {"enum": list(REJECT_REASONS)},
            "reject_detail": {
                **text,
                "maxLength": DETAIL_CHARACTERS_MAX,
                "description": "for people",
            },
            "source_topic": {**text, "description": "where the record was read"},
            "source_partition": number,
            "source_offset": number,
            "source_timestamp": {**number, "description": "of the record, ms since the epoch"},
        }
        schema["patternProperties"] = {
            r"^source_header\.": {**text, "description": "a header of the rejected record"}
        }
    if kind == "dead-letter-replayed":
        properties |= {
            "ce_subject": {**text, "description": "`ce_id` of the dead letter that was replayed"},
            "source_timestamp": {**number, "description": "of that dead letter"},
        }
    return {**schema, "properties": properties, "required": list(properties)}


def documents(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return all documents by name: the schemas, and `asyncapi` with the topics of the settings."""
    by_kind = {kind: headers(kind) for kind in KINDS}
    return schemas() | {"asyncapi": asyncapi(settings, components(), by_kind)}


def text(document: Mapping[str, Any]) -> str:
    """Return a document as the JSON that is written to files."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def file_name(name: str) -> str:
    """Return the name of a document's file.

    >>> file_name("event"), file_name("asyncapi")
    ('event.schema.json', 'asyncapi.json')
    """
    return "asyncapi.json" if name == "asyncapi" else f"{name}.schema.json"


def write(settings: Settings, folder: Path) -> list[Path]:
    """Write all documents to a folder, made if missing; return the files.

    Raises
    ------
    ConfigError
        When a file cannot be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, document in documents(settings).items():
            paths.append(folder / file_name(name))
            paths[-1].write_text(text(document), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the documents to {folder}: {error.strerror}") from error
    return paths


def _identity(name: str) -> str:
    return f"urn:stream-app:{name}:v1"


def _standalone(name: str, title: str, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of one record as a document of its own."""
    others = {part: schema for part, schema in parts.items() if part != title}
    document = {"$schema": DIALECT, "$id": _identity(name), **parts[title]}
    return document | ({"$defs": others} if others else {})


def _parts(
    record: type[Struct], template: str = "#/$defs/{name}"
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the name of a record's type, and the schemas of it and of what it is made of."""
    _, parts = msgspec.json.schema_components([record], ref_template=template)
    made = {name: _tidy(schema) for name, schema in parts.items()}
    name = record.__name__
    if record is Event:
        _refine_event(made[name])
    return name, made


def _tidy(schema: Any) -> Any:
    """Return a schema without the marks of docstrings, and with references that draft 7 reads.

    Draft 7 passes over whatever stands beside a reference.
    """
    if isinstance(schema, list):
        return [_tidy(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _tidy(value) for key, value in schema.items()}
    if isinstance(made.get("description"), str):
        made["description"] = re.sub(r"\s+", " ", made["description"].replace("``", "`"))
    if "$ref" in made and len(made) > 1:
        made["allOf"] = [{"$ref": made.pop("$ref")}]
    return made


def _refine_event(schema: dict[str, Any]) -> None:
    """Say what the stage `decode` demands beyond the types: kinds, what they need, ids, times."""
    properties = schema["properties"]
    schema["description"] += " " + _TIMES
    properties["type"]["enum"] = list(REQUIRED)
    for name in ("event_id", "user_id"):
        properties[name] |= _ID
    properties["item_id"]["anyOf"][0] |= _ID
    number, instant = properties["timestamp"]["anyOf"]
    number |= {"minimum": TIME_MS_MIN, "exclusiveMaximum": TIME_MS_MAX}
    instant["pattern"] = _INSTANT
    needed: dict[str, list[str]] = {}
    for kind, fields in REQUIRED.items():
        for field in fields:
            needed.setdefault(field, []).append(kind)
    schema["allOf"] = [
        {
            "if": {"properties": {"type": {"enum": kinds}}, "required": ["type"]},
            "then": {"properties": {field: {"not": {"type": "null"}}}, "required": [field]},
        }
        for field, kinds in needed.items()
    ]
