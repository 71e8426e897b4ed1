"""What the model is trained on is what the worker scores: the same bits, on a real Kafka."""

import asyncio
from collections.abc import Sequence

import numpy as np

from benchmarks.harness import Sent, produce
from models.data import SERVED, collect, replay
from models.replay import Basket, baskets, questioned
from stream_app.config import Settings, load
from stream_app.event import Item, encode
from stream_app.hashing import partition_for
from stream_app.pipeline import Context, Outputs
from stream_app.runtime import topics
from stream_app.runtime.app import serve
from stream_app.shelves import Shelves
from stream_app.sources.completejourney import CompleteJourney
from stream_app.sources.produce import ProduceSettings
from stream_app.sources.produce import produce as send
from stream_app.steps import Request
from tests.broker.kafka import KafkaServer

PARTITIONS = 4
REQUESTS = 1_000
ASK_FROM_MS = 1_488_326_400_000


def test_features_served_are_those_trained_on(kafka: KafkaServer) -> None:
    """1,000 requests through a worker have the histories, candidates and features of training."""
    shop = CompleteJourney()
    own = list(baskets(shop.events(shop.households(25_000))))
    settings = load(
        brokers=kafka.bootstrap,
        topic_prefix="features.",
        app="app-features",
        partitions=PARTITIONS,
        replay=True,
        metrics_port=0,
        live_rows_max=20,  # rows come and go between memory and bytes
        stages=SERVED,
    )
    topics.create(settings)
    target = ProduceSettings(brokers=kafka.bootstrap, topic=settings.topic("catalog"))
    items = _catalogue(shop, own)
    send(((item.item_id.encode(), encode(item), ASK_FROM_MS) for item in items), target)
    served = asyncio.run(_serve(settings, own))
    context = Context(SERVED, PARTITIONS, Shelves(items))
    trained: dict[tuple[str, int, bool], tuple[Request, Basket]] = {}
    for partition in range(PARTITIONS):
        mine = [b for b in own if partition_for(b.user.encode(), PARTITIONS) == partition]
        for request, basket in replay(mine, partition, context, ASK_FROM_MS):
            trained[_name(request)] = request, basket
    both = [each for each in served if _name(each) in trained]
    asked = sum(each.asked for each in both)
    assert asked == sum(request.asked for request, _ in trained.values()) >= REQUESTS
    assert len(both) - asked >= REQUESTS // 10
    wanted = collect(trained[_name(each)] for each in both)
    found = collect((each, trained[_name(each)][1]) for each in both)
    assert wanted.features.any()
    for name in ("history", "candidates", "features"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name


def _catalogue(shop: CompleteJourney, own: Sequence[Basket]) -> list[Item]:
    """Return the items that are bought and a twentieth of the others: all take half a minute."""
    bought = {item for basket in own for item in basket.items}
    return [
        item
        for number, item in enumerate(shop.items())
        if item.item_id in bought or number % 20 == 0
    ]


def _name(request: Request) -> tuple[str, int, bool]:
    return request.arrival.event.user_id, request.arrival.time_ms, request.asked


async def _serve(settings: Settings, own: Sequence[Basket]) -> list[Request]:
    """Send the baskets and the questions, and return the requests that a worker scores."""
    records = [
        Sent(None, event.user_id.encode(), encode(event), time_ms)
        for event, time_ms, _ in questioned(own, ASK_FROM_MS)
    ]
    await produce(settings, records, PARTITIONS)
    asked = sum(basket.time_ms >= ASK_FROM_MS for basket in own)
    found: list[Request] = []
    stop = asyncio.Event()

    def note(outputs: Outputs) -> None:
        found.extend(ranked.request for ranked in outputs.answers.ranked)
        if sum(each.asked for each in found) >= asked:
            stop.set()

    await serve(settings, on_outputs=note, stop=stop)
    return found
