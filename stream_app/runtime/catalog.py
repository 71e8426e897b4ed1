"""The live catalogue: read to its end before the first batch, then kept up with."""

import asyncio
import logging

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_app import metrics
from stream_app.config import Settings
from stream_app.event import Item
from stream_app.runtime.task import World
from stream_app.runtime.topics import Topology

logger = logging.getLogger(__name__)

_FETCH_BYTES_MAX = 4 * 1024 * 1024
_POLL_MS = 200
_DECODER = msgspec.json.Decoder(Item)


class CatalogReader:
    """Keeps the items of the catalogue's topic in a :class:`World`.

    Parameters
    ----------
    settings
        Of the program.
    topology
        What the broker says of the topics.
    world
        Whose ``shelves`` are filled; ``version`` is the sum of the offsets read, so equal topics
        give equal versions.

    Attributes
    ----------
    complete
        Set once the topic has been read to its end.
    """

    def __init__(self, settings: Settings, topology: Topology, world: World) -> None:
        topic = settings.topic("catalog")
        self.complete = asyncio.Event()
        self._brokers = settings.brokers
        self._where = [TopicPartition(topic, p) for p in range(topology.partitions[topic])]
        self._world = world
        self._newest_ms = 0

    async def run(self) -> None:
        """Read until cancelled."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._brokers,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=_FETCH_BYTES_MAX,
        )
        await consumer.start()
        try:
            consumer.assign(self._where)
            await consumer.seek_to_beginning(*self._where)
            while True:
                fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=5_000)
                for records in fetched.values():
                    for record in records:
                        self.take(record.key, record.value)
                    self._newest_ms = max([self._newest_ms, *(each.timestamp for each in records)])
                metrics.CATALOG_ITEMS.set(len(self._world.shelves.catalog))
                metrics.CATALOG_UPDATED.set(self._newest_ms / 1000)
                positions = [await consumer.position(where) for where in self._where]
                self._world.version = str(sum(positions))
                ends = [consumer.highwater(where) for where in self._where]
                if not self.complete.is_set() and all(
                    end is not None and position >= end
                    for position, end in zip(positions, ends, strict=True)
                ):
                    logger.info("catalogue: %d items", len(self._world.shelves.catalog))
                    self.complete.set()
        finally:
            await consumer.stop()

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """Enter one record; one that cannot be read is reported and passed over."""
        if not value:
            self._world.shelves.remove((key or b"").decode(errors="replace"))
            return
        try:
            item = _DECODER.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            metrics.CATALOG_REJECTS.inc()
            logger.warning("catalogue: the record %r is not an item: %s", key, error)
        else:
            self._world.shelves.put(item)
