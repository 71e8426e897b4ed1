"""What a reader of the docs sees with their own eyes: `python -m tests.broker.wait ready`.

``ready`` waits until a worker says so, ``settled`` until the workers have committed all that was
produced, ``extras`` looks whether what pip is to install can be had.
"""

import re
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition

from stream_app.config import load

DEADLINE_SECONDS = 60.0
POLL_SECONDS = 0.2
PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def ready() -> Iterator[bool]:
    """Say again and again whether the worker has all its partitions."""
    url = f"http://127.0.0.1:{load().metrics_port}/readyz"
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                yield int(response.status) == HTTPStatus.OK
        except urllib.error.URLError:
            yield False


def settled() -> Iterator[bool]:
    """Say again and again whether the workers have committed what stands in the log."""
    settings = load()
    topic = settings.topic("events")
    consumer = KafkaConsumer(
        bootstrap_servers=settings.brokers, group_id=settings.app, enable_auto_commit=False
    )
    names = consumer.partitions_for_topic(topic) or set()
    ends = consumer.end_offsets([TopicPartition(topic, number) for number in names])
    while True:
        done = {partition: consumer.committed(partition) or 0 for partition in ends}
        yield all(done[partition] >= end for partition, end in ends.items())


def extras(wanted: str) -> bool:
    """Whether `.`, or `.[a,b]`, names extras that there are."""
    known = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    found = re.fullmatch(r"\.(?:\[([\w,]+)\])?", wanted)
    names = set((found[1] or "").split(",")) - {""} if found else {wanted}
    return all(each in known["optional-dependencies"] for each in names)


def main(what: str, *arguments: str) -> int:
    """Wait for what is named; return 1 when it does not come."""
    if what == "extras":
        return 0 if extras(*arguments) else 1
    deadline = time.monotonic() + DEADLINE_SECONDS
    for done in {"ready": ready, "settled": settled}[what]():
        if done:
            return 0
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    sys.stderr.write(f"not {what} after {DEADLINE_SECONDS:.0f} s\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
