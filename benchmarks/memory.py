"""What a process holds that has seen the whole shop: resident memory, rows and their bytes.

The events come through a pipe from another process, so neither pandas nor the shop's tables count.
``python -m benchmarks.memory < records`` is that process; :func:`run` starts and feeds it.
"""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import Struct
from typing import BinaryIO

import msgspec

from benchmarks.harness import Log
from stream_app.clock import cpu_seconds
from stream_app.config import StageSettings
from stream_app.hashing import partition_for
from stream_app.pipeline import Context, next_batch, process
from stream_app.sources import Record
from stream_app.state import PartitionState

PARTITIONS = 4
BATCH_RECORDS = 128
_HEAD = Struct("<qHI")  # timestamp in ms, bytes of the key, bytes of the value


class Memory(msgspec.Struct, frozen=True):
    """Bytes of a process, before the first event and after the last, and what it keeps."""

    events: int
    outputs: int
    rss_before_bytes: int
    rss_bytes: int
    rss_highest_bytes: int
    rows: dict[str, int]
    row_bytes: int
    cpu_us: float


def run(records: Iterable[Record]) -> Memory:
    """Feed the records to a process of its own, and return what it reports."""
    command = [sys.executable, "-m", "benchmarks.memory"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        with child.stdin as pipe:
            for key, value, time_ms in records:
                pipe.write(_HEAD.pack(time_ms or 0, len(key), len(value)))
                pipe.write(key)
                pipe.write(value)
        return msgspec.json.decode(child.stdout.read(), type=Memory)


def _read(stream: BinaryIO) -> Iterator[Record]:
    while head := stream.read(_HEAD.size):
        time_ms, key_bytes, value_bytes = _HEAD.unpack(head)
        yield stream.read(key_bytes), stream.read(value_bytes), time_ms


class _Partition:
    """One partition's state, and the records that wait until a batch is full."""

    def __init__(self, partition: int, context: Context) -> None:
        self.state = PartitionState()
        self.state.begin(0, PARTITIONS, "memory")
        self.outputs = 0
        self._partition = partition
        self._context = context
        self._waiting: list[Log] = []
        self._offset = 0

    def take(self, key: bytes, value: bytes, time_ms: int) -> None:
        """Take in a record, and process a batch when there is one."""
        self._waiting.append(Log(self._offset, time_ms, key, value, ()))
        self._offset += 1
        if len(self._waiting) >= BATCH_RECORDS:
            self.step()

    def step(self) -> None:
        """Process one batch."""
        records = self._waiting
        batch = next_batch(self.state, "events", self._partition, records, BATCH_RECORDS)
        self.outputs += len(process(self.state, batch, self._context).records)
        self.state.changes()
        del records[: len(batch.records)]

    def finish(self) -> None:
        """Process all that waits."""
        while self._waiting:
            self.step()


def _resident(name: str) -> int:
    """Return a line of the kernel's report on this process, in bytes; it is given in kB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def main() -> None:
    """Process what comes through standard input, with the settings that a worker starts with."""
    context = Context(StageSettings(), PARTITIONS)
    partitions = [_Partition(number, context) for number in range(PARTITIONS)]
    before = _resident("VmRSS")
    began = cpu_seconds()
    events = 0
    for key, value, time_ms in _read(sys.stdin.buffer):
        partitions[partition_for(key, PARTITIONS)].take(key, value, time_ms or 0)
        events += 1
    for partition in partitions:
        partition.finish()
    seconds = cpu_seconds() - began
    after, highest = _resident("VmRSS"), _resident("VmHWM")
    rows = {"user": 0, "item": 0}
    row_bytes = 0
    for partition in partitions:
        for kind, count in partition.state.sizes.items():
            rows[kind] += count
        row_bytes += sum(len(key) + len(row) for key, row in partition.state.rows().items())
    report = Memory(
        events=events,
        outputs=sum(partition.outputs for partition in partitions),
        rss_before_bytes=before,
        rss_bytes=after,
        rss_highest_bytes=highest,
        rows=rows,
        row_bytes=row_bytes,
        cpu_us=round(seconds / max(events, 1) * 1e6, 1),
    )
    print(msgspec.json.encode(report).decode())


if __name__ == "__main__":
    main()
