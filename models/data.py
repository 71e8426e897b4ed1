"""A shop's events become requests with their candidates, through the program itself.

The purchases stream through :func:`stream_app.pipeline.process`, partition by partition as they
would in production. One millisecond before every basket a ``recommend`` event asks; and the first
purchase of a basket prompts a recommendation, as it does by default. What stage 7 hands to stage 8
is kept, beside what the basket then holds, or still holds. So a feature is computed in one place
only, and the network learns from exactly what it will be served.

Shares and neighbours are counted within a partition, so a model fits the number of partitions that
its data came from; the manifest names it.
"""

import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from models.replay import Basket, Partition, baskets, questioned
from stream_app.config import StageSettings
from stream_app.event import Event, encode
from stream_app.hashing import id_hash, partition_for, unit_hash
from stream_app.manifest import FIRST_ITEM, PADDING, UNKNOWN
from stream_app.pipeline import Context, Outputs
from stream_app.shelves import Shelves
from stream_app.sources import Record
from stream_app.sources.completejourney import CompleteJourney
from stream_app.stages.candidates import POOL_SIZE
from stream_app.stages.features import HISTORY_SIZE
from stream_app.steps import FEATURE_NAMES, Request

# As in a replay, so a recommendation for whoever asks, and after the first purchase of a basket.
SERVED = StageSettings(timer_jitter_minutes=0)
PROMPTED_SHARE = 1 / 3  # of the prompted requests are kept, a draw; all would double the training

Hashes = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]


class Requests(msgspec.Struct, frozen=True):
    """Requests in time order, and what was bought then: n of them, places filled with zeros.

    ``asked`` (n,) tells requests before a basket from those after its first purchase; for these the
    basket is what was not bought yet. ``history`` (n, 50) holds hashes of item ids, the newest
    last; ``candidates`` (n, pool) too, from the first place on; ``features`` (n, pool, names);
    ``bought`` (n, pool) says which of the candidates are in the basket, whose distinct items are
    ``targets[starts[i]:starts[i + 1]]``.
    """

    user: npt.NDArray[np.int32]
    time_ms: npt.NDArray[np.int64]
    asked: npt.NDArray[np.bool_]
    history: Hashes
    candidates: Hashes
    features: Floats
    bought: npt.NDArray[np.bool_]
    targets: Hashes
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.time_ms)

    @property
    def basket_sizes(self) -> npt.NDArray[np.int64]:
        """Distinct items of each basket; (n,)."""
        return np.diff(self.starts)

    def between(self, from_ms: int, until_ms: int) -> "Requests":
        """Return the requests with ``from_ms`` <= time < ``until_ms``."""
        return self.take(np.arange(*np.searchsorted(self.time_ms, [from_ms, until_ms]).tolist()))

    def before_baskets(self) -> "Requests":
        """Return the requests that were asked before a basket."""
        return self.take(np.flatnonzero(self.asked))

    def take(self, places: npt.NDArray[np.intp]) -> "Requests":
        """Return the requests at these places, in their order."""
        begins, ends = self.starts[places].tolist(), self.starts[places + 1].tolist()
        parts = [self.targets[begin:end] for begin, end in zip(begins, ends, strict=True)]
        columns = {name: getattr(self, name)[places] for name in self.__struct_fields__[:-2]}
        return Requests(
            **columns,
            targets=np.concatenate([*parts, self.targets[:0]]),
            starts=np.concatenate([[0], np.cumsum(self.basket_sizes[places])]),
        )

    def followed_by(self, later: "Requests") -> "Requests":
        """Return these requests and later ones."""
        columns = {
            name: np.concatenate([getattr(self, name), getattr(later, name)])
            for name in self.__struct_fields__
        }
        starts = np.concatenate([self.starts, later.starts[1:] + self.starts[-1]])
        return Requests(**columns | {"starts": starts})

    def save(self, path: Path) -> None:
        """Write the arrays into one file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{name: getattr(self, name) for name in self.__struct_fields__})

    @classmethod
    def load(cls, path: Path) -> "Requests":
        """Return what :meth:`save` wrote."""
        with np.load(path) as arrays:
            return cls(*(arrays[name] for name in cls.__struct_fields__))


# --- from the shop to requests --------------------------------------------------------------------


def replay(
    own: Iterable[Basket], partition: int, context: Context, ask_from_ms: int
) -> Iterator[tuple[Request, Basket]]:
    """Yield each request of one partition, and the basket that it was made for.

    Of those that a purchase prompts, a drawn share, and none whose basket holds nothing more.
    """
    asked = (
        ((event.user_id.encode(), encode(event), time_ms), basket)
        for event, time_ms, basket in questioned(own, ask_from_ms)
    )
    return replay_records(asked, partition, context)


def replay_records(
    asked: Iterable[tuple[Record, Basket | None]], partition: int, context: Context
) -> Iterator[tuple[Request, Basket]]:
    """Yield the same of records; one that asks for a basket comes with it, before its first line.

    All must belong into the partition, and be dated in the order of time.
    """
    part = Partition(partition, context)
    meant: dict[int, Basket] = {}  # by the offset of what asks or prompts
    for offset, (record, basket) in enumerate(asked):
        if basket is not None:
            meant[offset] = basket
            if _is_drawn(basket):
                meant[offset + 1] = basket
        yield from _meant(part.append(record), meant)
    yield from _meant(part.run(), meant)


def _meant(
    made: Iterable[Outputs], baskets_: Mapping[int, Basket]
) -> Iterator[tuple[Request, Basket]]:
    for outputs in made:
        for ranked in outputs.answers.ranked:
            basket = baskets_.get(ranked.request.arrival.offset)
            if basket is not None:
                yield ranked.request, basket


def _is_drawn(basket: Basket) -> bool:
    """Tell whether the request that a basket's first purchase prompts is kept."""
    holds_more = len(set(basket.items)) > 1
    drawn = unit_hash("prompted", f"{basket.user}-{basket.time_ms}") < PROMPTED_SHARE
    return holds_more and drawn


def completejourney(
    partitions: int, ask_from_ms: int, until_ms: int, households: frozenset[str] | None = None
) -> Requests:
    """Return the requests of the demo's shop, with a process for each of two halves of it."""
    jobs = [(partitions, p, ask_from_ms, until_ms, households) for p in range(partitions)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        return merge(list(pool.map(_partition, *zip(*jobs, strict=True))))


def _partition(
    partitions: int,
    partition: int,
    ask_from_ms: int,
    until_ms: int,
    households: frozenset[str] | None,
) -> Requests:
    """Return the requests of one partition of the demo's shop."""
    shop = CompleteJourney()
    chosen = frozenset(
        household
        for household in (shop.households() if households is None else households)
        if partition_for(household.encode(), partitions) == partition
    )
    own = baskets(shop.events(chosen), until_ms)
    context = Context(SERVED, partitions, Shelves(shop.items()))
    return collect(replay(own, partition, context, ask_from_ms))


def collect(pairs: Iterable[tuple[Request, Basket]]) -> Requests:
    """Return requests and baskets as arrays."""
    user, time_ms, asked, starts = [], [], [], [0]
    history, candidates, features, bought, targets = [], [], [], [], []
    for request, basket in pairs:
        items = set(map(id_hash, basket.items))
        if not request.asked:
            items.discard(id_hash(basket.items[0]))
        past = np.zeros(HISTORY_SIZE, np.uint64)
        seen = request.view.items
        past[HISTORY_SIZE - len(seen) :] = seen
        pool = np.zeros(POOL_SIZE, np.uint64)
        pool[: len(request.items)] = request.items
        rows = np.zeros((POOL_SIZE, len(FEATURE_NAMES)), np.float32)
        if request.items:
            rows[: len(request.items)] = request.features
        right = np.zeros(POOL_SIZE, np.bool_)
        right[: len(request.items)] = [item in items for item in request.items]
        user.append(user_number(basket.user))
        time_ms.append(request.arrival.time_ms)
        asked.append(request.asked)
        history.append(past)
        candidates.append(pool)
        features.append(rows)
        bought.append(right)
        targets += sorted(items)
        starts.append(len(targets))
    return Requests(
        np.array(user, np.int32),
        np.array(time_ms, np.int64),
        np.array(asked, np.bool_),
        np.array(history, np.uint64).reshape(-1, HISTORY_SIZE),
        np.array(candidates, np.uint64).reshape(-1, POOL_SIZE),
        np.array(features, np.float32).reshape(-1, POOL_SIZE, len(FEATURE_NAMES)),
        np.array(bought, np.bool_).reshape(-1, POOL_SIZE),
        np.array(targets, np.uint64),
        np.array(starts, np.int64),
    )


def user_number(user: str) -> int:
    """Return a user's number: the id if it is a small one, else 31 bits of its hash."""
    small = user.isdecimal() and len(user) < 10  # noqa: PLR2004 - digits that fit into 31 bits
    return int(user) if small else id_hash(user) & 0x7FFFFFFF


def merge(parts: Sequence[Requests]) -> Requests:
    """Return the requests of several partitions in time order, ties by user."""
    first, *others = parts
    for part in others:
        first = first.followed_by(part)
    return first.take(np.lexsort((~first.asked, first.user, first.time_ms)))


# --- the vocabulary -------------------------------------------------------------------------------


class Vocabulary(msgspec.Struct, frozen=True):
    """The items that the network knows by name, most bought first; item i has token i + 2."""

    item_ids: list[str]

    def tokens(self, hashes: Hashes) -> npt.NDArray[np.int32]:
        """Return the token of each hash: 0 for padding, 1 for an item outside the vocabulary."""
        own = np.array([id_hash(item_id) for item_id in self.item_ids], np.uint64)
        order = np.argsort(own)
        places = np.searchsorted(own[order], hashes).clip(max=max(len(own) - 1, 0))
        known = own[order][places] == hashes
        found = np.where(known, order[places] + FIRST_ITEM, UNKNOWN)
        return np.where(hashes == 0, PADDING, found).astype(np.int32)

    @property
    def size(self) -> int:
        """Number of tokens, those for padding and for unknown items included."""
        return len(self.item_ids) + FIRST_ITEM


def count_items(events: Iterable[Event]) -> Mapping[str, int]:
    """Return how many purchased lines each item has."""
    counts: dict[str, int] = {}
    for event in events:
        if event.item_id is not None:
            counts[event.item_id] = counts.get(event.item_id, 0) + 1
    return counts


def vocabulary(counts: Mapping[str, int], least: int = 10) -> Vocabulary:
    """Return the items bought at least so often, the most bought first, ties by id."""
    chosen = [item for item, count in counts.items() if count >= least]
    return Vocabulary(sorted(chosen, key=lambda item: (-counts[item], item)))
