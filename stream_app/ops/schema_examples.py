"""Examples of each record on Kafka, for the documents; the tests check them against the schemas."""

from typing import Any

from stream_app.learners import MODEL, MODEL_VERSION
from stream_app.stages.score import FORMULA_NAME, FORMULA_VERSION

_TIME_MS = 1_704_067_200_000  # 2024-01-01
_CAUSE = {
    "event_id": "e-1001",
    "topic": "clickstream.events",
    "partition": 2,
    "offset": 57,
}
_MODEL = {"model": MODEL, "model_version": MODEL_VERSION}

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "event": [
        {
            "event_id": "e-1001",
            "type": "view",
            "user_id": "anna",
            "timestamp": "2024-01-01T00:00:00Z",
            "session_id": "s-7",
            "item_id": "shoe-red-42",
        },
        {
            "event_id": "e-1002",
            "type": "purchase",
            "user_id": "anna",
            "timestamp": _TIME_MS,
            "item_id": "shoe-red-42",
            "order_id": "o-31",
            "price": 59.9,
            "quantity": 1,
            "currency": "EUR",
        },
        {"event_id": "e-1003", "type": "recommend", "user_id": "anna", "timestamp": _TIME_MS},
        {"event_id": "e-1004", "type": "erase", "user_id": "anna", "timestamp": _TIME_MS},
    ],
    "item": [
        {
            "item_id": "shoe-red-42",
            "title": "Red shoe",
            "category": ["clothing", "shoes"],
            "brand": "Acme",
            "price": 59.9,
            "currency": "EUR",
            "stock": 3,
        }
    ],
    "recommendation": [
        {
            "recommendation_id": "clickstream.events-2-57-recommendation",
            "user_id": "anna",
            "timestamp": _TIME_MS,
            "items": [
                {
                    "item_id": "sock-blue",
                    "rank": 1,
                    "score": 0.412107,
                    "sources": ["co-visitation"],
                    "reasons": ["others went on to it from this user's last items"],
                }
            ],
            "cause": _CAUSE,
            "model": FORMULA_NAME,
            "model_version": FORMULA_VERSION,
            "fallback_level": FORMULA_NAME,
            "service_level": 0,
            "variant": "exploit",
            "catalog_version": "812",
        }
    ],
    "prediction": [
        {
            "prediction_id": "clickstream.events-2-57-prediction",
            "user_id": "anna",
            "timestamp": _TIME_MS,
            "horizon_ms": 1_800_000,
            "probabilities": {"purchase": 0.08, "comment": 0.004, "share": 0.001},
            "cause": _CAUSE,
            **_MODEL,
        }
    ],
    "churn-alert": [
        {
            "alert_id": "clickstream.events-2-user-anna-assess-1704067200000-churn-alert",
            "user_id": "anna",
            "timestamp": _TIME_MS,
            "horizon_ms": 2_419_200_000,
            "risk": 0.62,
            "level": "warning",
            "reasons": ["silent for 31 days"],
            "offer": "free-delivery",
            **_MODEL,
        }
    ],
    "dead-letter-headers": [
        {
            "ce_specversion": "1.0",
            "ce_id": "clickstream.events-2-58-dead-letter",
            "ce_source": "/stream_app/clickstream.events/2",
            "ce_type": "stream_app.dead-letter.v1",
            "ce_time": "2024-01-01T00:00:00.000Z",
            "content-type": "application/octet-stream",
            "reject_reason": "wrong_key",
            "reject_detail": "the record's key is not the user_id",
            "source_topic": "clickstream.events",
            "source_partition": "2",
            "source_offset": "58",
            "source_timestamp": "1704067200000",
        }
    ],
    "dead-letter-replayed-headers": [
        {
            "ce_specversion": "1.0",
            "ce_id": "clickstream.events-2-58-dead-letter-replayed",
            "ce_source": "/stream_app/clickstream.events/2",
            "ce_type": "stream_app.dead-letter-replayed.v1",
            "ce_time": "2024-01-02T00:00:00.000Z",
            "content-type": "application/octet-stream",
            "ce_subject": "clickstream.events-2-58-dead-letter",
            "source_timestamp": "1704067200000",
        }
    ],
}
