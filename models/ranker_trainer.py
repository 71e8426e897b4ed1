"""The served ranker on data from any source: requests, a warm start, an export, and its judging."""

import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax import nnx

from models.checkpoint import of_run
from models.data import (
    SERVED,
    Requests,
    Vocabulary,
    collect,
    merge,
    replay_records,
    vocabulary,
)
from models.evaluate import gains, quality
from models.export import Card, export, run
from models.ranker_network import Ranker
from models.replay import ASKED, Basket
from models.sources import Counts, Log, Part, Source, SourceError, admitted, read_log
from models.train import TrainSettings, build, examples, load, predict, train
from stream_app.config import DAY_MS
from stream_app.event import EVENT_TYPES, Event, Item, encode
from stream_app.hashing import partition_for
from stream_app.manifest import GRAPH, Data, read_folder
from stream_app.pipeline import Context
from stream_app.shelves import Shelves
from stream_app.sources import Record
from stream_app.sources.completejourney import CompleteJourney
from stream_app.sources.mapping_records import items_of
from stream_app.sources.mapping_values import Misfit
from stream_app.sources.rows import read_rows
from stream_app.sources.synthetic import SyntheticShop
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import FEATURE_NAMES

FILLING_SHARE = 1 / 6  # of the time: the tables of the stream are still filling up then
PARITY_REQUESTS = 200
CHECKPOINT, TOKENS, SETTINGS = "checkpoint", "items.txt", "settings.json"
CHECKPOINTS = "checkpoints"  # of the training that is under way


# --- any source as requests -----------------------------------------------------------------------


def streamed(source: Source, partitions: int, ask_from_ms: int, until_ms: int) -> Requests:
    """Return the requests that a source's purchases make, through the program itself.

    One millisecond before every basket a ``recommend`` event asks. A basket is what a user buys
    under one order id, or without one at the same time. Nothing is asked for those whose users
    were erased or withdrew their consent later, or never gave it.

    Parameters
    ----------
    source
        Of the records; they are put into the order of their times.
    partitions
        Of the topic to be served.
    ask_from_ms, until_ms
        Baskets in between are asked for; nothing later is streamed.
    """
    records, newest_ms = list[Record](), 0
    for part in source.parts():
        for key, value, time_ms in part.records:
            newest_ms = newest_ms if time_ms is None else time_ms
            if newest_ms < until_ms:
                records.append((key, value, newest_ms))
    records.sort(key=lambda record: record[2] or 0)
    first = _baskets(records)
    shelves = Shelves(_items(source))
    found = []
    for number in range(partitions):
        own = (each for each in records if partition_for(each[0] or b"", partitions) == number)
        asked = _asked(own, first, ask_from_ms)
        found.append(collect(replay_records(asked, number, Context(SERVED, partitions, shelves))))
    return merge(found)


def _baskets(records: Sequence[Record]) -> dict[tuple[bytes, bytes], Basket]:
    """Return the baskets by key and value of the record of their first line."""
    held: dict[str, dict[str, Basket]] = {}
    settings = SERVED.model_copy(update={"check_partition": False})
    part = Part(0, 1, records)

    def forget(event: Event, _time_ms: int) -> None:
        held.pop(event.user_id, None)

    for event, time_ms in admitted(part, settings, Counts(), forget):
        if event.type == "purchase":
            order = event.order_id or str(time_ms)
            dated = msgspec.structs.replace(event, timestamp=time_ms)
            basket = held.setdefault(event.user_id, {}).setdefault(
                order, Basket(f"{event.user_id}-{order}", event.user_id, time_ms, [])
            )
            basket.lines.append(dated)
    names = {
        (basket.user, basket.lines[0].event_id): basket
        for own in held.values()
        for basket in own.values()
    }
    found = {}
    for key, value, _ in records:
        try:
            head = msgspec.json.decode(value, type=_Head)
        except msgspec.DecodeError:
            continue
        basket_ = names.pop((head.user_id, head.event_id), None)
        if basket_ is not None:
            found[key, value] = basket_
    return found


class _Head(msgspec.Struct):
    """What tells an event from others."""

    user_id: str
    event_id: str


def _asked(
    records: Iterator[Record], first: dict[tuple[bytes, bytes], Basket], ask_from_ms: int
) -> Iterator[tuple[Record, Basket | None]]:
    """Yield records, before the first of a basket one that asks for it."""
    known = set[str]()
    for key, value, time_ms in records:
        basket = first.get((key, value))
        assert time_ms is not None, "they were dated"
        if basket is not None and time_ms >= ask_from_ms and basket.basket_id not in known:
            known.add(basket.basket_id)
            question = Event(
                event_id=ASKED + basket.basket_id,
                type="recommend",
                user_id=basket.user,
                timestamp=time_ms - 1,
            )
            yield (key, encode(question), time_ms - 1), basket
        yield (key, value, time_ms), None


def _items(source: Source) -> Iterator[Item]:
    """Yield the catalogue, as far as the source has one."""
    if source.data == "completejourney":
        yield from CompleteJourney().items()
    elif source.data == "synthetic":
        yield from SyntheticShop().items()
    elif source.mapping is not None and source.mapping.has_items and Path(source.data).is_file():
        for _, row, fault in read_rows(Path(source.data), None):
            try:
                yield from (item for _, item in items_of(source.mapping, row, fault) if item)
            except Misfit:
                continue


# --- the trainer ----------------------------------------------------------------------------------


class RankerTrainer:
    """Trains the served ranker up to the newest window, on which it is judged.

    Parameters
    ----------
    source
        Of the data, which is read once, now.
    partitions
        Of the topic to be served.
    folder
        Keeps the last weights, from which the next training starts.
    window_days
        The newest are held out; as many before them say when to stop.
    settings
        How to train.
    item_purchases_min
        Rarer items have no name.
    licence
        On what terms the model may be used, for its manifest.

    Raises
    ------
    SourceError
        When the data spans too little time for the windows.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each is told in the docstring
        self,
        source: Source,
        partitions: int,
        folder: Path,
        window_days: float,
        settings: TrainSettings,
        item_purchases_min: int = 10,
        licence: str | None = None,
    ) -> None:
        self.source, self.partitions, self.folder = source, partitions, folder
        self.settings, self.licence = settings, licence
        self.log = log = read_log(source, SERVED)
        begin_ms, last_ms = int(log.time_ms[0]), int(log.time_ms[-1])
        window_ms = int(window_days * DAY_MS)
        self.end_ms, self.test_ms = last_ms + 1, last_ms + 1 - window_ms
        self.validation_ms = self.test_ms - window_ms
        self.ask_from_ms = begin_ms + int((last_ms - begin_ms) * FILLING_SHARE)
        if self.ask_from_ms >= self.validation_ms:
            raise SourceError(
                f"{source.data} spans {(last_ms - begin_ms) / DAY_MS:.1f} days, too few for two "
                f"windows of {window_days:g}: give more data, or a smaller --window-days"
            )
        self.words = _words(log, self.test_ms, item_purchases_min)
        self.requests = streamed(source, partitions, self.ask_from_ms, self.end_ms)
        self.epochs: list[Any] = []

    def train(self, into: Path) -> None:
        """Train, from the last weights where there are some, and export a folder for workers.

        One that was killed goes on, if the data is the same.

        Raises
        ------
        SourceError
            When there are no baskets in one of the windows.
        ParityError, RowsError
            When the exported graph does not compute what the network does, or not always the same.
        """
        past = self.requests.between(self.ask_from_ms, self.validation_ms)
        stop = self.requests.between(self.validation_ms, self.test_ms).before_baskets()
        held = self._held_out()
        if not (len(past) and len(stop) and len(held)):
            raise SourceError(
                f"{self.source.data} has no purchases in one of its windows: give more data, or a "
                "greater --window-days"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        model, self.epochs = train(
            past,
            stop,
            self.words,
            self.settings,
            self.folder / "checkpoint.next",
            self._warm,
            partial(of_run, self.folder / CHECKPOINTS),
        )
        until = datetime.fromtimestamp(self.test_ms / 1000, UTC)
        since = datetime.fromtimestamp(int(self.log.time_ms[0]) / 1000, UTC)
        events = int(np.searchsorted(self.log.time_ms, self.test_ms))
        data = Data(self.source.data, since, until, events)
        sample = held.take(np.arange(min(len(held), PARITY_REQUESTS)))
        scores = predict(model, examples(held, self.words, seed=0))
        found = quality(gains(scores, held.candidates, held.bought, held.basket_sizes), held.user)
        metrics = {"recall_at_10": found.recall_at_10, "ndcg_at_10": found.ndcg_at_10}
        card = Card(data, (self.partitions,), metrics, self.licence)
        export(model, self.words, sample, card, into)
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def keep(self) -> None:
        """Let the next training start from these weights."""
        old = self.folder / CHECKPOINT
        if old.exists():
            old.rename(self.folder / f"{CHECKPOINT}.old")
        (self.folder / "checkpoint.next").rename(old)
        shutil.rmtree(self.folder / f"{CHECKPOINT}.old", ignore_errors=True)
        (self.folder / TOKENS).write_text("".join(f"{i}\n" for i in self.words.item_ids), "utf-8")
        (self.folder / SETTINGS).write_bytes(msgspec.json.encode(self.settings))

    def judge(self, folder: Path) -> float:
        """Return the NDCG@10 of an exported folder, as workers run it, on the newest window."""
        items = read_folder(folder, POOL_SIZE).item_ids
        held = self._held_out()
        graph = (folder / GRAPH).read_bytes()
        scores = run(graph, examples(held, Vocabulary(list(items)), seed=0))
        each = gains(scores, held.candidates, held.bought, held.basket_sizes)
        return quality(each, held.user).ndcg_at_10

    def _held_out(self) -> Requests:
        return self.requests.between(self.test_ms, self.end_ms).before_baskets()

    def _warm(self, model: Ranker) -> None:
        """Give a fresh network the last weights; items are known by name, so tokens may change."""
        if not (self.folder / SETTINGS).exists():
            return
        before = msgspec.json.decode((self.folder / SETTINGS).read_bytes(), type=TrainSettings)
        words = Vocabulary((self.folder / TOKENS).read_text("utf-8").split("\n")[:-1])
        neutral = jnp.zeros(len(FEATURE_NAMES)), jnp.ones(len(FEATURE_NAMES))
        last = build(before, words.size, *neutral)
        load(last, self.folder / CHECKPOINT)
        carry_over(last, words, model, self.words)


def carry_over(last: Ranker, before: Vocabulary, model: Ranker, now: Vocabulary) -> None:
    """Give a network the weights of another, rows of items by their names; others stay as they are.

    Arrays of another shape, as after a change of the width, stay as they are too.
    """
    fresh, trained = nnx.state(model, nnx.Param), nnx.state(last, nnx.Param)
    embedding, bias = model.encoder.items.embedding[...], model.encoder.bias[...]
    same = jax.tree.map(lambda x, y: y if x.shape == y.shape else x, fresh, trained)
    nnx.update(model, same)
    special = before.size - len(before.item_ids)  # tokens for filling and for unknown items
    places = {item: place + special for place, item in enumerate(before.item_ids)}
    old = np.array([*range(special), *(places.get(item, -1) for item in now.item_ids)])
    known = np.flatnonzero(old >= 0)
    theirs = last.encoder.items.embedding[...]
    if embedding.shape[1] == theirs.shape[1]:
        embedding = embedding.at[known].set(theirs[old[known]])
    model.encoder.items.embedding[...] = embedding
    model.encoder.bias[...] = bias.at[known].set(last.encoder.bias[...][old[known]])


def _words(log: Log, until_ms: int, least: int) -> Vocabulary:
    """Return the items that were bought at least so often before a time."""
    bought = (log.kind == EVENT_TYPES.index("purchase")) & (log.time_ms < until_ms)
    counts = np.bincount(log.item[bought], minlength=len(log.items)).tolist()
    found = vocabulary(dict(zip(log.items, counts, strict=True)), least)
    if not found.item_ids:
        raise SourceError(
            f"no item was bought {least} times before the newest window: give more data, or a "
            "smaller --item-purchases-min"
        )
    return found
