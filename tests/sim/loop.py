"""An event loop without a clock: when nothing is ready, time jumps to what is scheduled next."""

import asyncio
from collections.abc import Sequence
from contextvars import Context, ContextVar
from typing import Any

START_SECONDS = 1_000.0
# The tasks of the process that runs at the moment, in the order of their start.
OWN_TASKS: ContextVar[dict["asyncio.Task[Any]", None] | None] = ContextVar(
    "OWN_TASKS", default=None
)


class VirtualLoop(asyncio.BaseEventLoop):
    """An asyncio loop in which waiting takes no time and nothing comes from outside.

    It plays its own selector: asking it to wait moves its clock on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = START_SECONDS
        self._selector = self
        self.strays: list[BaseException] = []
        self.set_exception_handler(self._stray)
        self.set_task_factory(_make_task)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now

    def select(self, timeout: float | None) -> Sequence[Any]:
        """Wait, which takes no time at all.

        Raises
        ------
        RuntimeError
            When nothing is ready and nothing is scheduled: all tasks wait for one another.
        """
        if timeout is None:
            raise RuntimeError("deadlock: nothing is scheduled any more")
        self._now += timeout
        return ()

    def _process_events(self, event_list: Sequence[Any]) -> None:
        """Do nothing: there are no events from outside."""

    def _write_to_self(self) -> None:
        """Do nothing: there is only one thread."""

    def _stray(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep an exception that nobody has waited for."""
        error = context.get("exception")
        if isinstance(error, BaseException):
            self.strays.append(error)

    def end(self) -> None:
        """Cancel what still runs, and close."""
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()


def _make_task(
    loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None
) -> "asyncio.Task[Any]":
    """Start a task, and enter it among those of its process: they all end with it."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    own = OWN_TASKS.get()
    if own is not None:
        own[task] = None
        task.add_done_callback(lambda done: own.pop(done, None))
    return task
