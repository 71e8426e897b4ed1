"""Reads topics to their ends as they stand now, and tells how far it is."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream_app.errors import TopicError

# Takes the records of a partition, in the order of the log; they have offset, timestamp (ms), key,
# value and headers.
Taker = Callable[[int, Sequence[Any]], None]
# Told how many records were passed, and how many more there are to pass than was known before.
Teller = Callable[[int, int], object]

_FETCH_BYTES_MAX = 4 * 1024 * 1024
_FETCH_WAIT_MS = 50
_POLL_MS = 100
_RECORDS_MAX = 5_000
# Without a record for so long, what is left is a transaction that is still open.
_OPEN_SECONDS = 2.0
_SILENCE_SECONDS_MAX = 30.0


class Reader:
    """Reads committed records, each topic from its first record to its end as of the first fetch.

    The end is the highwater of the fetch responses: ListOffsets is one batch short on some brokers.

    Parameters
    ----------
    brokers
        host:port, more after commas.
    partitions
        Of each topic.
    tell
        Called after each fetch.
    """

    def __init__(self, brokers: str, partitions: Mapping[str, int], tell: Teller) -> None:
        self._brokers = brokers
        self._partitions = partitions
        self._tell = tell

    def read(self, topic: str, take: Taker) -> None:
        """Hand every record of a topic to ``take``.

        Raises
        ------
        TopicError
            When the broker does not answer.
        """
        asyncio.run(self._read(topic, take))

    async def _read(self, topic: str, take: Taker) -> None:
        where = [TopicPartition(topic, number) for number in range(self._partitions[topic])]
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._brokers,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=_FETCH_BYTES_MAX,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
        )
        try:
            await consumer.start()
            consumer.assign(where)
            await consumer.seek_to_beginning(*where)
            await self._until_the_end(consumer, where, take)
        except KafkaError as error:
            raise TopicError(f"cannot read {topic} at {self._brokers}: {error!r}") from error
        finally:
            await consumer.stop()

    async def _until_the_end(
        self, consumer: AIOKafkaConsumer, where: list[TopicPartition], take: Taker
    ) -> None:
        clock = asyncio.get_running_loop().time
        heard = clock()
        ends: dict[TopicPartition, int] = {}
        at = dict.fromkeys(where, 0)
        while True:
            fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_RECORDS_MAX)
            for each, records in fetched.items():
                heard = clock()
                take(each.partition, records)
            more = passed = 0
            for each in where:
                position = await consumer.position(each)
                highwater = consumer.highwater(each)
                if each not in ends and highwater is not None:
                    # The log may begin later than at 0.
                    first = fetched[each][0].offset if each in fetched else position
                    ends[each], at[each] = highwater, first
                    more += max(highwater - first, 0)
                if each in ends:
                    passed += position - at[each]
                    at[each] = position
            self._tell(passed, more)
            if all(each in ends and at[each] >= ends[each] for each in where):
                return
            silence = clock() - heard
            if silence > _OPEN_SECONDS and all(
                _is_open(consumer, each, at[each]) for each in where
            ):
                return
            if silence > _SILENCE_SECONDS_MAX:
                topic, brokers = where[0].topic, self._brokers
                raise TopicError(f"{brokers} does not answer while {topic} is read: is it up?")


def _is_open(consumer: AIOKafkaConsumer, where: TopicPartition, position: int) -> bool:
    """Whether there is nothing left but transactions that have not been committed yet."""
    stable, highwater = consumer.last_stable_offset(where), consumer.highwater(where)
    if highwater is None:
        return False
    return bool(position >= (highwater if stable is None or stable < 0 else stable))
