"""What a stream emitted, as the measurements read it."""

from typing import ClassVar

import msgspec


class RunError(Exception):
    """The run came to nothing: a record was rejected, or the worker does nothing any more."""


class Alert(msgspec.Struct, frozen=True):
    """What the measurements need of a churn alert; ``timestamp`` in ms."""

    user_id: str
    timestamp: int


class _RankedItem(msgspec.Struct):
    item_id: str


class _Cause(msgspec.Struct):
    event_id: str


class _Answer(msgspec.Struct):
    items: list[_RankedItem]
    cause: _Cause
    fallback_level: str | None


class _Prediction(msgspec.Struct):
    user_id: str
    timestamp: int
    probabilities: dict[str, float]


class Emitted(msgspec.Struct):
    """What a stream emitted.

    ``answers`` holds ids of products, best first, by the id of the event that asked; ``tables``
    for each target probabilities by user and time in ms; ``rejected`` counts dead letters, which
    are an error unless ``rejects`` are expected; ``fallbacks`` counts answers that no model gave.
    """

    rejects: bool = False
    answers: dict[str, list[str]] = {}
    tables: dict[str, dict[tuple[str, int], float]] = {}
    alerts: list[Alert] = []
    rejected: int = 0
    fallbacks: int = 0

    _ANSWER: ClassVar = msgspec.json.Decoder(_Answer)
    _PREDICTION: ClassVar = msgspec.json.Decoder(_Prediction)
    _ALERT: ClassVar = msgspec.json.Decoder(Alert)

    def enter(self, topic: str, value: bytes | None) -> None:
        """Enter one record of a logical topic.

        Raises
        ------
        RunError
            When an event was answered twice, or a record rejected.
        """
        if topic == "recommendations":
            answer = self._ANSWER.decode(value or b"")
            event_id = answer.cause.event_id
            if event_id in self.answers:
                raise RunError(f"{event_id} was answered twice")
            self.answers[event_id] = [item.item_id for item in answer.items]
            self.fallbacks += answer.fallback_level is not None
        elif topic == "predictions":
            said = self._PREDICTION.decode(value or b"")
            for target, probability in said.probabilities.items():
                table = self.tables.setdefault(target, {})
                table[said.user_id, said.timestamp] = probability
        elif topic == "churn_alerts":
            self.alerts.append(self._ALERT.decode(value or b""))
        elif self.rejects:
            self.rejected += 1
        else:
            raise RunError(f"a record was rejected: {value!r}")
