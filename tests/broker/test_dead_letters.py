"""Dead letters on a real Kafka: each is put back once, whoever is killed and however often."""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from jsonschema import Draft202012Validator
from kafka import KafkaConsumer, TopicPartition

from benchmarks.harness import Log, Sent, produce, read_log
from stream_app.config import Guarantee
from stream_app.event import encode
from stream_app.hashing import partition_for
from stream_app.ops.dead_letters import NOTE_TYPE, REPLAYED_FROM, DeadLetterError, Where
from stream_app.ops.dead_letters_replay import replay
from stream_app.ops.schema import schemas
from stream_app.runtime.changelog import KafkaReader, restore
from tests.broker.kafka import KafkaServer
from tests.broker.workers import PARTITIONS, Scene, scene
from tests.command import run
from tests.conftest import START_MS, event

TIMEOUT_SECONDS = 120
KILLS = 3
NOTE_HEADERS = Draft202012Validator(schemas()["dead-letter-replayed-headers"])


def command(stage: Scene, *words: str) -> Any:
    """Run `stream-app dead-letters` and return the JSON that it prints."""
    done = run("dead-letters", *words, "--json", **stage.environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def logs(stage: Scene, name: str, isolation: str = "read_committed") -> list[Log]:
    """Return all records of a topic."""
    topic = stage.settings.topic(name)
    read = asyncio.run(read_log(stage.settings.brokers, topic, PARTITIONS, isolation))
    return [record for log in read.values() for record in log]


def put_back(stage: Scene) -> Counter[str]:
    """Return how often each dead letter stands in the events again."""
    return Counter(
        dict(record.headers)[REPLAYED_FROM].decode()
        for record in logs(stage, "events")
        if REPLAYED_FROM in dict(record.headers)
    )


def notes(stage: Scene) -> Counter[str]:
    """Return how many notes there are of each dead letter; each must be as the documents say."""
    found = Counter[str]()
    for record in logs(stage, "dead_letter"):
        headers = {name: text.decode() for name, text in record.headers}
        if headers["ce_type"] == NOTE_TYPE.decode():
            NOTE_HEADERS.validate(headers)
            assert (record.key, record.value) == (headers["ce_subject"].encode(), None)
            found[headers["ce_subject"]] += 1
    return found


def ledger(stage: Scene) -> Counter[str]:
    """Return what became of all records, by the partitions' own rows."""

    async def total() -> Counter[str]:
        found, reader = Counter[str](), KafkaReader(stage.settings.brokers)
        for partition in range(PARTITIONS):
            state = await restore(reader, stage.settings.state_topic, partition, 1_000)
            for name in ("consumed", "processed", "rejected", "duplicate"):
                found[name] += getattr(state.ledger, name)
        return found

    return asyncio.run(total())


def wait(stage: Scene, consumed: int) -> Counter[str]:
    """Wait until so many records are consumed; return what became of them."""
    stage.wait(consumed)  # offsets, of which some are marks of transactions: at least so many
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while (found := ledger(stage))["consumed"] < consumed and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found["consumed"] == consumed, stage.said()
    return found


def sent(number: int, *, key: bytes | None = None, value: bytes | None = None, **over: Any) -> Sent:
    """Return a view by one of 50 users under a key of no user's, less what is given."""
    fields = {"event_id": f"e-{number}", "user_id": f"u-{number % 50}"} | over
    made = event(timestamp=START_MS + number, **fields)
    right = partition_for(made.user_id.encode(), PARTITIONS)
    raw = encode(made) if value is None else value
    return Sent(right, key or b"nobody", raw, START_MS + number)


def mixture() -> list[Sent]:
    """Return records with all kinds of faults; four of them can be mended without a mapping."""
    mendable = [sent(number) for number in range(4)]
    foreign = sent(10, key=b"u-10")
    anonymous = sent(11)
    hopeless = [
        sent(20, key=b"u-20", value=b"\xff{"),
        sent(21, key=b"u-21", item_id=None),
        sent(22, key=b"u-22", type="fly"),
        sent(23, key=b"u-23", value=b""),
    ]
    shaped = sent(30, value=json.dumps({"who": "anna", "what": ["a", "b"]}).encode())
    good = [sent(40 + n, key=f"u-{40 + n}".encode()) for n in range(5)]
    return [
        *good,
        *mendable,
        Sent(((foreign.partition or 0) + 1) % PARTITIONS, *_rest(foreign)),
        Sent(0, None, anonymous.value, anonymous.timestamp),
        *hopeless,
        shaped,
    ]


def _rest(record: Sent) -> tuple[bytes | None, bytes | None, int]:
    return record.key, record.value, record.timestamp


class Mapper:
    """A stand-in for a mapping file: a view of each thing."""

    def events(self, row: dict[str, object]) -> list[Any]:
        """Return a view of each thing."""
        things: Any = row["what"]
        return [
            event(event_id=f"m-{each}", user_id=row["who"], item_id=each, timestamp=START_MS + 30)
            for each in things
        ]


def test_replay_mends_what_can_be_mended_once(kafka: KafkaServer, tmp_path: Path) -> None:
    """Listed, tried, replayed, replayed again: mended events are processed once, others stay."""
    stage = scene(kafka.bootstrap, "letters", tmp_path)
    records = mixture()
    # The last mendable one's user is erased later on: the event must not come back.
    records.append(sent(50_003, key=b"u-3", type="erase", item_id=None))
    asyncio.run(produce(stage.settings, records, PARTITIONS))
    worker = stage.worker()
    worker.start()
    try:
        before = wait(stage, len(records))
        listed = command(stage, "list")
        assert (listed["open"], listed["replayed"]) == (before["rejected"], 0) == (11, 0)
        assert listed["reasons"] == {
            "wrong_key": 4,
            "not_an_event": 1,
            "no_key": 1,
            "wrong_partition": 1,
            "not_json": 1,
            "missing_field": 1,
            "unknown_type": 1,
            "empty": 1,
        }
        count = len(logs(stage, "events"))

        tried = command(stage, "replay", "--dry-run")
        assert tried["would_replay"] == 5
        assert len(logs(stage, "events")) == count
        assert not notes(stage)

        done = command(stage, "replay")
        assert (done["replayed"], done["records"]) == (5, 5)
        whys = Counter(each["why"].split(": ")[0] for each in done["left"])
        assert whys.pop("rejected again") == 5
        assert [why[:19] for why in whys] == ["its user was erased"]
        after = wait(stage, len(records) + 5)
        assert after - before == Counter(consumed=5, processed=5)

        again = command(stage, "replay")
        assert (again["replayed"], len(again["left"])) == (0, 6)
        mapped = asyncio.run(replay(stage.settings, Where(), Mapper()))
        assert (mapped.letters, mapped.records) == (1, 2)
        assert asyncio.run(replay(stage.settings, Where(), Mapper())).letters == 0
        assert wait(stage, len(records) + 7) - after == Counter(consumed=2, processed=2)
        assert set(put_back(stage).values()) == {1, 2}
        assert set(notes(stage).values()) == {1}
        assert notes(stage).keys() == put_back(stage).keys()

        (mended, *_) = [each["id"] for each in done["plan"]]
        shown = command(stage, "show", mended)
        assert (shown["status"], shown["rejected_again_as"]) == ("replayed", [])
        place = next(
            (f"{stage.settings.topic('dead_letter')}-{partition}-{record.offset}")
            for partition, log in asyncio.run(
                read_log(kafka.bootstrap, stage.settings.topic("dead_letter"), PARTITIONS)
            ).items()
            for record in log
            if dict(record.headers)["ce_id"].decode() == mended
        )
        assert command(stage, "show", place) == shown
        only = command(stage, "list", "--where", "reason=no_key", "--where", "status=replayed")
        assert (only["dead_letters"], only["last"][0]["reason"]) == (1, "no_key")
    finally:
        assert worker.end() == 0, stage.said()


def test_replay_of_what_is_rejected_again_and_again_ends(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    """A replay with other settings than the workers' shows in the line of dead letters and ends."""
    stage = scene(kafka.bootstrap, "rounds", tmp_path)
    long = sent(1, key=b"u-1", text="x" * 2_000)
    asyncio.run(produce(stage.settings, [long], PARTITIONS))
    worker = stage.worker(STREAM_APP_STAGES__RECORD_BYTES_MAX="1024")
    worker.start()
    try:
        wait(stage, 1)
        for rounds in range(1, 4):
            assert command(stage, "replay")["replayed"] == 1
            wait(stage, 1 + rounds)
        last = command(stage, "replay")
        assert last["replayed"] == 0
        assert "put back 3 times" in last["left"][0]["why"]
        shown = command(stage, "show", last["left"][0]["id"])
        assert len(shown["ancestors"]) == 3
        first = command(stage, "show", shown["ancestors"][-1])
        assert first["rejected_again_as"] == [shown["ancestors"][-2]]
    finally:
        assert worker.end() == 0, stage.said()


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_replay_survives_kills(kafka: KafkaServer, tmp_path: Path, guarantee: Guarantee) -> None:
    """Replays killed at random moments and started again put every dead letter back, each once.

    Without transactions some may stand in the log twice; the worker drops those.
    """
    chance = random.Random(5)
    stage = scene(kafka.bootstrap, f"kills-{guarantee}", tmp_path, guarantee)
    count = 1_500
    asyncio.run(produce(stage.settings, [sent(n) for n in range(count)], PARTITIONS))
    worker = stage.worker()
    worker.start()
    try:
        before = wait(stage, count)
        assert before["rejected"] == count
        partial = 0
        for _ in range(KILLS):
            _replay_and_kill(stage, chance)
            partial += 0 < sum(notes(stage).values()) < count
        assert partial, "no kill came in the middle"
        left = command(stage, "replay")
        assert left["left"] == []
        assert command(stage, "replay")["replayed"] == 0
        found = put_back(stage)
        assert len(found) == count
        after = wait(stage, count + sum(found.values()))
        assert after["processed"] - before["processed"] == count
        assert after["rejected"] == count
        assert set(notes(stage)) == set(found)
        if guarantee == "exactly_once":
            assert set(found.values()) == set(notes(stage).values()) == {1}
            assert after["duplicate"] == 0
    finally:
        assert worker.end() == 0, stage.said()


def _replay_and_kill(stage: Scene, chance: random.Random) -> None:
    """Start a replay, wait until it has sent something, and kill it a moment later."""
    topic = stage.settings.topic("events")
    where = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    with KafkaConsumer(bootstrap_servers=stage.settings.brokers) as consumer:
        before = consumer.end_offsets(where)
        process = subprocess.Popen(
            [sys.executable, "-m", "stream_app", "dead-letters", "replay", "--json"],
            env={**os.environ, **stage.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while process.poll() is None and consumer.end_offsets(where) == before:
                time.sleep(0.01)
            time.sleep(chance.random() * 0.1)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(TIMEOUT_SECONDS)


class OpensTransaction(Mapper):
    """A mapping that, while a replay plans, has somebody else begin a transaction.

    The replay's notes then stand behind what is open, where no `read_committed` reader sees them.
    """

    def __init__(self, brokers: str, topic: str) -> None:
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, daemon=True).start()
        self._brokers, self._topic = brokers, topic
        self._other: Any = None

    def events(self, row: dict[str, object]) -> list[Any]:
        """Begin the transaction and return the events of the row."""
        self._call(self._begin())
        return super().events(row)

    def end(self) -> None:
        """Abort the transaction."""
        self._call(self._other.abort_transaction())
        self._call(self._other.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT_SECONDS)

    async def _begin(self) -> None:
        self._other = AIOKafkaProducer(
            bootstrap_servers=self._brokers, transactional_id=f"{self._topic}-other"
        )
        await self._other.start()
        await self._other.begin_transaction()
        for partition in range(PARTITIONS):
            await self._other.send_and_wait(self._topic, b"never seen", partition=partition)


def test_replay_waits_for_notes_that_an_open_transaction_hides(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    """While somebody's open transaction hides the note of a replay, the next one waits for it."""
    stage = scene(kafka.bootstrap, "hidden", tmp_path)
    shaped = sent(0, value=json.dumps({"who": "anna", "what": ["a"]}).encode())
    asyncio.run(produce(stage.settings, [shaped], PARTITIONS))
    worker = stage.worker()
    worker.start()
    wait(stage, 1)
    worker.end()
    other = OpensTransaction(kafka.bootstrap, stage.settings.topic("dead_letter"))
    assert asyncio.run(replay(stage.settings, Where(), other)).letters == 1
    assert not notes_seen_at_once(stage)

    async def again() -> tuple[bool, int]:
        second = asyncio.create_task(replay(stage.settings, Where(), Mapper()))
        await asyncio.sleep(3)
        waited = not second.done()
        await asyncio.to_thread(other.end)
        return waited, (await second).letters

    assert asyncio.run(again()) == (True, 0)
    assert set(put_back(stage).values()) == set(notes(stage).values()) == {1}


def notes_seen_at_once(stage: Scene) -> int:
    """Return how many notes a `read_committed` reader sees that does not wait for more."""
    program = shutil.which("kcat")
    assert program, "kcat is missing: apt-get install kcat"
    words = ["-b", stage.settings.brokers, "-C", "-t", stage.settings.topic("dead_letter"), "-J"]
    words += ["-o", "beginning", "-e", "-q", "-X", "isolation.level=read_committed"]
    shown = subprocess.run([program, *words], check=True, capture_output=True, timeout=60).stdout
    return shown.count(NOTE_TYPE)


class ReplaysMeanwhile(Mapper):
    """A mapping that, while a replay plans, has another one do all the work."""

    def __init__(self, stage: Scene) -> None:
        self._stage = stage

    def events(self, row: dict[str, object]) -> list[Any]:
        """Replay everything from another thread, and return the events of the row."""
        with ThreadPoolExecutor() as pool:
            work = replay(self._stage.settings, Where(), Mapper())
            assert pool.submit(asyncio.run, work).result(TIMEOUT_SECONDS).letters == 1
        return super().events(row)


def test_replay_that_another_one_overtakes_is_refused(kafka: KafkaServer, tmp_path: Path) -> None:
    """Of two replays at a time the later one wins; the earlier one says so and sends nothing."""
    stage = scene(kafka.bootstrap, "overtaken", tmp_path)
    shaped = sent(0, value=json.dumps({"who": "anna", "what": ["a"]}).encode())
    asyncio.run(produce(stage.settings, [shaped], PARTITIONS))
    worker = stage.worker()
    worker.start()
    wait(stage, 1)
    worker.end()
    with pytest.raises(DeadLetterError, match="another replay has taken over"):
        asyncio.run(replay(stage.settings, Where(), ReplaysMeanwhile(stage)))
    assert set(put_back(stage).values()) == set(notes(stage).values()) == {1}
