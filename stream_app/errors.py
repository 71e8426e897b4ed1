"""Errors that stop a worker; each says who must act, and whether trying again can help.

::

    StreamAppError ├── ConfigError          operator: a setting is wrong ├── TopicError
    operator: a topic is missing, or not as the state remembers it ├── PositionError
    operator: the log no longer holds the position that the state has reached ├── StateError
    operator: a state row cannot be read ├── FaustChangedError    developer: a private member that
    the transport overrides has changed ├── CommitError          nobody: the commit's outcome is not
    known; memory is dropped, state restored │   └── FencedError      nobody: another worker owns
    the partition now └── StalledError         supervisor: restart the worker

Bad input is no error: it is a :class:`stream_app.event.Reject`, a value with a reason.
"""


class StreamAppError(Exception):
    """Any error of this program. ``retriable`` says whether the same call may succeed later."""

    retriable = False


class ConfigError(StreamAppError):
    """A setting is missing, unknown or out of range; the operator corrects it."""


class TopicError(StreamAppError):
    """A topic is missing or is not the one that the state was built from; the operator acts."""


class PositionError(StreamAppError):
    """The source log does not hold the offset that the state continues at; the operator decides."""


class StateError(StreamAppError):
    """A row of the state topic is corrupt or of an unknown version; the operator restores it."""


class FaustChangedError(StreamAppError):
    """A member of Faust that the transport overrides is not what it was; pin the tested version."""


class CommitError(StreamAppError):
    """A commit was not confirmed: aborted, refused or unknown. Memory is no longer valid."""

    retriable = True


class FencedError(CommitError):
    """A newer owner of the partition has fenced this one; wait for the next assignment."""


class StalledError(StreamAppError):
    """Records are waiting and nothing has been committed for too long; the process must restart."""
