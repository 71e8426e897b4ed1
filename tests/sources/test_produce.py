"""What producing does without a broker; tests/broker/test_produce.py has the rest."""

from typing import Any

import pytest

from stream_app.errors import ConfigError, UnreachableError
from stream_app.sources import produce as module
from stream_app.sources.produce import ProduceSettings, produce


def settings(**over: Any) -> ProduceSettings:
    """Return settings for a broker that is not there."""
    return ProduceSettings(**({"brokers": "127.0.0.1:1", "topic": "events"} | over))


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"rate": 0}, "rate is 0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"speedup": -1.0}, "speedup is -1.0"),
        ({"limit": 0}, "limit is 0"),
        ({"rate": 5, "speedup": 5}, "either a rate or a speedup"),
        ({"topic": "a topic"}, "topic is 'a topic'"),
    ],
)
def test_wrong_settings_are_refused(over: dict[str, Any], message: str) -> None:
    """A setting that makes no sense is an error that names it."""
    with pytest.raises(ConfigError, match=message):
        settings(**over)


def test_schedule_of_a_rate_is_even() -> None:
    """Records are due at equal distances, whatever their times, without a drift."""
    due_seconds = module._schedule(settings(rate=10))
    assert [due_seconds(time_ms) for time_ms in (5, None, 1)] == pytest.approx([0, 0.1, 0.2])
    for _ in range(9_997):
        due_seconds(0)
    assert due_seconds(0) == pytest.approx(1_000, abs=1e-9)


def test_schedule_of_a_speedup_follows_event_time() -> None:
    """At 86,400 a day of events is a second; records before the first, or undated, are due."""
    due_seconds = module._schedule(settings(speedup=86_400))
    day_ms = 86_400_000
    times = (day_ms, 2 * day_ms, None, 3 * day_ms, 0)
    assert [due_seconds(time_ms) for time_ms in times] == pytest.approx([0, 1, 0, 2, -1])


def test_schedule_without_a_pace_is_at_once() -> None:
    """By default nothing waits."""
    assert module._schedule(settings())(10**12) == 0


def test_broker_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a broker the error names it, and says what to do."""
    monkeypatch.setattr(module, "_ANSWER_MS_MAX", 200)
    with pytest.raises(UnreachableError, match=r"no broker answers at 127\.0\.0\.1:1"):
        produce([(b"key", b"value", 0)], settings())
