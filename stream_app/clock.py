"""The only place that reads the machine's clock; everything else is handed the time."""

import time


def now_ms() -> int:
    """Return wall time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def monotonic_seconds() -> float:
    """Return a clock for measuring spans, in seconds from an arbitrary start."""
    return time.perf_counter()


def cpu_seconds() -> float:
    """Return the CPU time of this process, all threads, in seconds."""
    return time.process_time()
