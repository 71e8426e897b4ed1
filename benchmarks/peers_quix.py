"""The stages in a Quix Streams application: ``python -m benchmarks.peers_quix WAY COUNT``.

With its settings as they come, but for the guarantee. Where rows are kept, they go to Quix's own
store (RocksDB and a changelog topic) after each record; it writes each row once a commit.
"""

import sys
import tempfile
from typing import Any

import msgspec
from quixstreams import Application
from quixstreams.context import message_context
from quixstreams.models.serializers import SerializationContext, Serializer

from benchmarks.loop import ProgramRun
from benchmarks.peers import Peer, Record, Stages
from stream_app.config import Settings, load
from stream_app.steps import OutputRecord

OFTEN_RECORDS = 128  # as many as a worker's transaction takes


class OutputSerializer(Serializer):
    """Takes the bytes that the stages have made."""

    def __call__(self, value: OutputRecord, ctx: SerializationContext) -> bytes:  # noqa: ARG002 - Quix's
        """Return the value of an output."""
        return value.value or b""


def run(settings: Settings, peer: Peer, count: int, folder: str) -> ProgramRun:
    """Read the source from its start, and commit what comes of ``count`` records."""
    app = Application(
        broker_address=settings.brokers,
        consumer_group=settings.app,
        auto_offset_reset="earliest",
        processing_guarantee=(
            "at-least-once" if peer is Peer.QUIX_AT_LEAST_ONCE else "exactly-once"
        ),
        commit_every=OFTEN_RECORDS if peer is Peer.QUIX_ROWS_OFTEN else 0,
        state_dir=folder,
        loglevel="WARNING",
        on_message_processed=lambda *_: stages.finished(),
    )
    stages = Stages(settings, count, app.stop)
    topics = {
        logical: app.topic(settings.topic(logical), value_serializer=OutputSerializer())
        for logical in ("recommendations", "predictions", "churn_alerts", "dead_letter")
    }
    source = app.topic(settings.topic("events"), value_deserializer="bytes")
    frame = app.dataframe(source)
    if peer.keeps_rows:
        frame.register_store()

    def step(value: bytes, key: bytes, timestamp: int, _: Any) -> list[OutputRecord]:
        where = message_context()
        partition = where.partition
        outputs = stages.outputs_of(partition, Record(where.offset, timestamp, key, value))
        if peer.keeps_rows:
            _keep(frame, partition, stages.state(partition).changes())
        return outputs

    answers = frame.apply(step, metadata=True, expand=True)
    answers = answers.set_headers(lambda output, *_: list(output.headers))
    answers.to_topic(lambda output, *_: topics[output.topic], key=lambda output: output.key)
    app.run()
    return stages.run()


def _keep(frame: Any, partition: int, rows: list[tuple[bytes, bytes | None]]) -> None:
    """Put rows into the partition's store, as part of the checkpoint that is open."""
    store = frame.processing_context.checkpoint.get_store_transaction(
        stream_id=frame.stream_id, partition=partition
    ).as_state()
    for key, row in rows:
        if row is None:
            store.delete(key)
        else:
            store.set_bytes(key, row)


def main() -> None:
    """Run once, and print what was measured."""
    peer, count = Peer(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="quix-") as folder:
        print(msgspec.json.encode(run(load(), peer, count, folder)).decode())


if __name__ == "__main__":
    main()
