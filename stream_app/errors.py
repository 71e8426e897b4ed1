"""Errors that stop a worker or refuse a model; each says who must act, and if trying again helps.

::

    StreamAppError
    ├── ConfigError        operator: a setting is wrong
    ├── UnreachableError   operator: no broker answers
    ├── TopicError         operator: a topic is missing, or not as the state remembers it
    ├── PositionError      operator: the log no longer holds the position that the state has reached
    ├── StateError         operator: a state row cannot be read
    ├── ModelError         whoever exports models: one is refused; the formula ranks meanwhile
    ├── FaustChangedError  developer: a private member that the transport overrides has changed
    ├── CommitError        nobody: the commit's outcome is not known; memory is dropped and restored
    │   └── FencedError    nobody: another worker owns the partition now
    └── StalledError       supervisor: restart the worker

Bad input is no error: it is a :class:`stream_app.event.Reject`, a value with a reason.
"""

from typing import Literal

ModelFault = Literal[
    "missing",  # a file is not there or cannot be read
    "corrupt",  # the manifest is not one, a hash differs, or the graph cannot be loaded
    "mismatch",  # made for other features, sizes, shapes or another version than this program's
    "not_finite",  # a score is NaN, infinite or out of all bounds
    "wrong_scores",  # not the scores that the manifest has for its probes
    "too_slow",  # a run takes longer than allowed
]


class StreamAppError(Exception):
    """Any error of this program. ``retriable`` says whether the same call may succeed later."""

    retriable = False


class ConfigError(StreamAppError):
    """A setting is missing, unknown or out of range; the operator corrects it."""


class UnreachableError(StreamAppError):
    """No broker answers; the operator starts it, or names another.

    >>> UnreachableError("kafka:9092", "refused").args[0][:46]
    'no broker answers at kafka:9092 (refused); sta'
    """

    retriable = True

    def __init__(self, brokers: str, cause: object) -> None:
        super().__init__(
            f"no broker answers at {brokers} ({cause}); start it, or name another by --brokers or "
            "STREAM_APP_BROKERS"
        )


class TopicError(StreamAppError):
    """A topic is missing or is not the one that the state was built from; the operator acts."""


class PositionError(StreamAppError):
    """The source log does not hold the offset that the state continues at; the operator decides."""


class StateError(StreamAppError):
    """A row of the state topic is corrupt or of an unknown version; the operator restores it."""


class ModelError(StreamAppError):
    """A ranking model is refused; whoever exports it acts. ``reason`` is one of a closed list.

    >>> str(ModelError("corrupt", "items.txt has another hash")), ModelError("missing", "").reason
    ('items.txt has another hash', 'missing')
    """

    def __init__(self, reason: ModelFault, sentence: str) -> None:
        super().__init__(sentence)
        self.reason: ModelFault = reason


class FaustChangedError(StreamAppError):
    """A member of Faust that the transport overrides is not what it was; pin the tested version."""


class CommitError(StreamAppError):
    """A commit was not confirmed: aborted, refused or unknown. Memory is no longer valid."""

    retriable = True


class FencedError(CommitError):
    """A newer owner of the partition has fenced this one; wait for the next assignment."""


class StalledError(StreamAppError):
    """Records are waiting and nothing has been committed for too long; the process must restart."""
