"""The stages in a plain Faust agent: ``python -m benchmarks.peers_faust WAY COUNT``.

Faust's own aiokafka transport and settings as they come, one event at a time; nothing of
``stream_app.runtime`` is used. Where rows are kept, they go to a Faust table (in memory, with a
changelog topic) after each event.
"""

import asyncio
import sys
import tempfile
from typing import Any

import faust
import msgspec

from benchmarks.loop import ProgramRun
from benchmarks.peers import Peer, Record, Stages
from stream_app.config import Settings, load


async def run(settings: Settings, peer: Peer, count: int, folder: str) -> ProgramRun:
    """Read the source from its start, and commit what comes of ``count`` records."""
    app = faust.App(
        settings.app,
        broker=[f"kafka://{address}" for address in settings.brokers.split(",")],
        store="memory://",
        datadir=folder,
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        topic_partitions=settings.partitions,
    )
    done = asyncio.Event()
    stages = Stages(settings, count, done.set)

    def topic(logical: str) -> Any:
        return app.topic(
            settings.topic(logical),
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
        )

    topics = {
        logical: topic(logical)
        for logical in ("recommendations", "predictions", "churn_alerts", "dead_letter")
    }
    table: Any = None
    if peer.keeps_rows:
        table = app.Table("rows", partitions=settings.partitions, key_type=bytes, value_type=bytes)

    @app.agent(topic("events"))
    async def answer(stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            partition = message.partition
            # Faust has turned milliseconds into seconds.
            record = Record(
                message.offset, round(message.timestamp * 1000), message.key, message.value
            )
            for output in stages.outputs_of(partition, record):
                await topics[output.topic].send(
                    key=output.key, value=output.value, headers=list(output.headers)
                )
            if table is not None:
                _keep(table, partition, stages.state(partition).changes())
            stages.finished()

    await app.start()
    try:
        await done.wait()
        await asyncio.sleep(0)  # the last event is acknowledged
        await app.consumer.commit()  # which waits for what has been sent
        return stages.run()
    finally:
        await app.stop()


def _keep(table: Any, partition: int, rows: list[tuple[bytes, bytes | None]]) -> None:
    """Put rows into the table, which has one namespace for all partitions of a process."""
    prefix = b"%d/" % partition
    for key, row in rows:
        if row is not None:
            table[prefix + key] = row
        elif prefix + key in table:
            del table[prefix + key]


def main() -> None:
    """Run once, and print what was measured."""
    peer, count = Peer(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="faust-") as folder:
        print(msgspec.json.encode(asyncio.run(run(load(), peer, count, folder))).decode())


if __name__ == "__main__":
    main()
