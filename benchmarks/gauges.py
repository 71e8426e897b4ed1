"""How processes are looked at from outside: metrics, CPU time, percentiles, and what cores do."""

import math
import os
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from stream_app.clock import monotonic_seconds

_POLL_SECONDS = 0.2
_ANSWER_SECONDS_MAX = 5.0
_CPU_INFO = Path("/proc/cpuinfo")


def scrape(port: int) -> defaultdict[str, float]:
    """Return a worker's metrics by name, summed over their labels; nothing while it is not up."""
    totals: defaultdict[str, float] = defaultdict(float)
    address = f"http://127.0.0.1:{port}/metrics"
    try:
        with urllib.request.urlopen(address, timeout=_ANSWER_SECONDS_MAX) as answer:
            text = answer.read().decode()
    except (URLError, OSError):
        return totals
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] += sample.value
    return totals


def wait_for(
    port: int, good: Callable[[defaultdict[str, float]], bool], seconds_max: float
) -> defaultdict[str, float]:
    """Return a worker's metrics as soon as they are as wanted.

    Raises
    ------
    TimeoutError
        When that takes too long.
    """
    deadline = monotonic_seconds() + seconds_max
    while not good(totals := scrape(port)):
        if monotonic_seconds() > deadline:
            raise TimeoutError(f"the worker did not get there in {seconds_max:.0f} s")
        time.sleep(_POLL_SECONDS)
    return totals


def cpu_of(pid: int) -> float:
    """Return the CPU time of a process so far, all threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    user, system = fields[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def cpu_of_machine() -> float:
    """Return the CPU time that all processes have spent so far, and the kernel, in seconds."""
    first, *_ = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    user, nice, system, _, _, interrupts, soft_interrupts, *_ = map(int, first.split()[1:])
    spent = user + nice + system + interrupts + soft_interrupts
    return spent / os.sysconf("SC_CLK_TCK")


class Cores(msgspec.Struct, frozen=True):
    """Which cores the measured process has, and which everything else: Kafka, producer, reader."""

    measured: list[int]
    others: list[int]


def cores() -> Cores:
    """Return the last core for the measured process and the rest for the others.

    With one core they share it.
    """
    *others, last = sorted(os.sched_getaffinity(0))
    return Cores([last], others or [last])


@contextmanager
def pinned(pid: int, chosen: Sequence[int]) -> Iterator[None]:
    """Keep a process, all threads, on these cores for a while; what it starts then stays there."""
    before = os.sched_getaffinity(pid)
    _pin(pid, chosen)
    try:
        yield
    finally:
        _pin(pid, before)


def _pin(pid: int, chosen: Iterable[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread.name), chosen)


def cpu_model() -> str:
    """Return the name of this machine's CPU."""
    for line in _CPU_INFO.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many percent do not exceed; ``ordered`` ascends.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 50), percentile([1.0, 2.0, 3.0, 4.0], 99)
    (2.0, 4.0)
    """
    return ordered[max(math.ceil(percent / 100 * len(ordered)), 1) - 1]
