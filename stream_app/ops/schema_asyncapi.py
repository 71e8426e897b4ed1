"""One AsyncAPI 3.0 document: the topics as channels, what is read and sent, keys and headers."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from msgspec import Struct

from stream_app.config import Settings
from stream_app.ops.schema_examples import EXAMPLES

Schema = dict[str, Any]

_KAFKA_BINDING = "0.5.0"


class _Message(Struct, frozen=True):
    """A kind of record: its topic, its key in words, and the name of its payload's schema if any.

    ``kind`` is also the name of its headers' schema, of those that have one.
    """

    kind: str
    topic: str
    summary: str
    key: str
    payload: str | None = None

    @property
    def title(self) -> str:
        """The name in the document, such as `ChurnAlert`."""
        return "".join(word.capitalize() for word in self.kind.split("-"))


_USER = "the user's id, in UTF-8; murmur2 of it decides the partition"
_MESSAGES = (
    _Message("event", "events", "One thing that a user did.", _USER, "Event"),
    _Message(
        "item", "catalog", "One product; without a value it is gone.", "the item's id", "Item"
    ),
    _Message(
        "recommendation",
        "recommendations",
        "What to show a user.",
        "the user's id",
        "Recommendation",
    ),
    _Message(
        "prediction", "predictions", "What a user is about to do.", "the user's id", "Prediction"
    ),
    _Message(
        "churn-alert", "churn_alerts", "A user at risk of leaving.", "the user's id", "ChurnAlert"
    ),
    _Message(
        "dead-letter",
        "dead_letter",
        "A record that was rejected, unchanged: whatever bytes it had, or none.",
        "as the rejected record had it; may be missing",
    ),
    _Message(
        "dead-letter-replayed",
        "dead_letter",
        "A note that a dead letter was put back into the events; it has no value.",
        "`ce_id` of the dead letter",
    ),
)
_TOPICS = {
    "events": "In: what users do.",
    "catalog": "In: the products, compacted.",
    "recommendations": "Out: what to show.",
    "predictions": "Out: how probable purchase, comment, share and churn are.",
    "churn_alerts": "Out: users at risk of leaving.",
    "dead_letter": "Out: what was rejected, and what of it was replayed.",
}
_READ = ("events", "catalog")


def asyncapi(
    settings: Settings, components: Mapping[str, Schema], headers: Mapping[str, Schema]
) -> Schema:
    """Return the document, from the point of view of this program.

    Parameters
    ----------
    settings
        Name the topics, the brokers and the guarantee.
    components
        Schemas of the records by the names of their types; they refer to one another.
    headers
        Schemas of the headers by kind of record.
    """
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "stream_app",
            "version": version("stream-app"),
            "description": (
                "Clickstream events in; recommendations, predictions and churn alerts out. Read "
                "with `isolation.level=read_committed`."
            ),
        },
        "defaultContentType": "application/json",
        "servers": {
            f"kafka{number or ''}": {"host": broker, "protocol": "kafka"}
            for number, broker in enumerate(settings.brokers.split(","))
        },
        "channels": {topic: _channel(settings, topic) for topic in _TOPICS},
        "operations": {_operation_name(topic): _operation(topic) for topic in _TOPICS},
        "components": {
            "messages": {each.title: _message(each, headers) for each in _MESSAGES},
            "schemas": {
                **components,
                **{_headers_name(kind): schema for kind, schema in headers.items()},
            },
        },
    }


def _channel(settings: Settings, topic: str) -> Schema:
    return {
        "address": settings.topic(topic),
        "description": _TOPICS[topic],
        "messages": {
            each.title: {"$ref": f"#/components/messages/{each.title}"}
            for each in _MESSAGES
            if each.topic == topic
        },
        "bindings": {
            "kafka": {"topic": settings.topic(topic), "bindingVersion": _KAFKA_BINDING},
        },
    }


def _operation(topic: str) -> Schema:
    return {
        "action": "receive" if topic in _READ else "send",
        "channel": {"$ref": f"#/channels/{topic}"},
        "messages": [
            {"$ref": f"#/channels/{topic}/messages/{each.title}"}
            for each in _MESSAGES
            if each.topic == topic
        ],
    }


def _operation_name(topic: str) -> str:
    return f"{'receive' if topic in _READ else 'send'}_{topic}"


def _message(each: _Message, headers: Mapping[str, Schema]) -> Schema:
    """Return one kind of record: payload, headers, key and examples."""
    message: Schema = {
        "name": each.kind,
        "title": each.title,
        "summary": each.summary,
        "contentType": "application/json" if each.payload else "application/octet-stream",
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": each.key},
                "bindingVersion": _KAFKA_BINDING,
            }
        },
    }
    if each.payload:
        message["payload"] = {"$ref": f"#/components/schemas/{each.payload}"}
    if each.kind in headers:
        name = _headers_name(each.kind)
        message["headers"] = {"$ref": f"#/components/schemas/{name}"}
    part = "payload" if each.payload else "headers"
    examples = EXAMPLES[each.kind if each.payload else f"{each.kind}-headers"]
    message["examples"] = [{part: example} for example in examples]
    return message


def _headers_name(kind: str) -> str:
    return "".join(word.capitalize() for word in kind.split("-")) + "Headers"
