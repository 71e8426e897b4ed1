"""The networks on their own, beside every baseline that counts, ranking all items of any data.

What is to be found is the next item that is new to its user: of each user and item the first event
counts, and what a user had already is not ranked, as in public benchmarks. A grocer's customers
mostly buy again what they bought before; that is left out here, and judged where the stream's
candidates are ranked. The split is temporal by default, so nobody learns from what came later.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import msgspec
import numpy as np
from rich.console import Console

from models.benchmark import UnknownModelError
from models.counts import EASE, CoVisitation, PersonalFrequency, Popularity
from models.data_card import TYPES, cuts, histories, leave_one_out, temporal
from models.descent import Epoch, Patience
from models.evaluate import DEPTHS, Hashes
from models.evaluation_ranking import (
    Answers,
    Asked,
    Rankings,
    compare,
    item_parts,
    terciles,
)
from models.fit import Split
from models.item_sets import CFGANSettings, ItemSets, MultVAESettings
from models.leave_one_out import Recommender, batches
from models.networks import LRURec, SASRec
from models.next_item import NextItem, NextItemSettings
from models.sequences import Sequences
from models.sources import Log, Part, Source, SourceError
from stream_app.clock import monotonic_seconds
from stream_app.event import EVENT_TYPES
from stream_app.hashing import id_hash
from stream_app.sources.completejourney import SOURCE, CompleteJourney

# What of the demo's shop is judged: it takes a quarter of an hour on two cores.
DEMO_HOUSEHOLDS, DEMO_ITEM_USERS_MIN, DEMO_EPOCHS = 600, 10, 20
EPOCH_STEPS, USERS_MIN = 50, 8  # of networks of sets: steps that an epoch should have, users of one
PERSONAL = "personal frequency"
BASELINES: dict[str, Callable[[], Recommender]] = {
    "popularity": Popularity,
    PERSONAL: PersonalFrequency,
    "forward co-visitation": CoVisitation,
    "EASE": EASE,
}


class How(msgspec.Struct, frozen=True):
    """What of the data is judged, and which networks learn how.

    ``width`` None is each one's default, ``networks`` None all.
    """

    split: Split = "temporal"
    types: tuple[str, ...] = TYPES
    item_events_min: int = 1
    width: int | None = None
    epochs: int = Patience().epochs_max
    seed: int = 0
    networks: tuple[str, ...] | None = None


class Networks(msgspec.Struct, frozen=True):
    """How networks and baselines rank all items, and how each network learned.

    ``users`` have a history of ``events`` in all to learn from; validation and test begin at their
    times where the split is temporal; ``seconds`` is what fitting took,
    early stopping included.
    """

    data: str
    how: How
    users: int
    items: int
    events: int
    validation_ms: int
    test_ms: int
    rankings: Rankings
    seconds: dict[str, float]
    epochs: dict[str, list[Epoch]]

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Return the accuracy of each: model -> measure -> value."""
        return {
            name: {key: each.value for key, each in own.measures.items()}
            for name, own in self.rankings.models.items()
        }


class Households(Source):
    """The purchases of some of the demo's households."""

    def __init__(self, users: frozenset[str]) -> None:
        super().__init__(SOURCE)
        self._users = users

    def parts(self) -> Iterator[Part]:
        """Yield the one partition that a file has."""
        yield Part(0, 1, CompleteJourney().records(self._users))


def judge(log: Log, name: str, how: How) -> Networks:
    """Fit every baseline and network to a log, and judge how each ranks all items.

    Raises
    ------
    SourceError
        When nothing is left to learn from.
    SequencesError
        When the log is too short to be split so.
    """
    console = Console(stderr=True)
    log = news(log, how)
    kinds = set(log.kind.tolist())
    how = msgspec.structs.replace(
        how, types=tuple(name for name in how.types if EVENT_TYPES.index(name) in kinds)
    )
    data = (temporal if how.split == "temporal" else leave_one_out)(log, how.types)
    networks = chosen(how, len(data.learned))
    hashes = np.array([id_hash(item) for item in data.names], np.uint64)
    models: dict[str, Recommender] = {name: make() for name, make in BASELINES.items()}
    answers, seconds = dict[str, Answers](), dict[str, float]()
    for each, model in (models | networks).items():
        console.print(f"{each} ...")
        began = monotonic_seconds()
        model.fit(data)
        seconds[each] = round(monotonic_seconds() - began, 1)
        answers[each] = answer(model, data, hashes)
    return Networks(
        name,
        how,
        len(data.learned),
        data.items,
        sum(map(len, data.learned)),
        *cuts(log),
        compare(_asked(log, data, hashes, how), answers, list(BASELINES)),
        seconds,
        {each: model.epochs for each, model in networks.items()},
    )


def news(log: Log, how: How) -> Log:
    """Return the first event of each user about each item; items that few users have are left out.

    Raises
    ------
    SourceError
        When nothing is left.
    """
    kinds = [EVENT_TYPES.index(name) for name in how.types]
    rows = np.flatnonzero(np.isin(log.kind, kinds))  # in time order
    pairs = log.user[rows].astype(np.int64) * len(log.items) + log.item[rows]
    rows = rows[np.sort(np.unique(pairs, return_index=True)[1])]
    often = np.bincount(log.item[rows], minlength=len(log.items)) >= how.item_events_min
    rows = rows[often[log.item[rows]]]
    if not len(rows):
        raise SourceError(
            f"no item has {how.item_events_min} users with {' or '.join(how.types)}: lower "
            "--item-events-min, or name other --types"
        )
    used, item = np.unique(log.item[rows], return_inverse=True)
    return msgspec.structs.replace(
        log,
        items=[log.items[place] for place in used.tolist()],
        user=log.user[rows],
        item=item.astype(np.int32),
        kind=log.kind[rows],
        time_ms=log.time_ms[rows],
    )


def answer(model: Recommender, data: Sequences, hashes: Hashes) -> Answers:
    """Return the best items that are not in the histories; equals stand by the hash."""
    asked, order = data.before_test, np.argsort(hashes)
    shown = np.zeros((len(asked), DEPTHS[-1]), np.uint64)
    for users in batches(asked, data.items):
        seen = [asked[user] for user in users]
        scores = np.array(model.scores(seen))  # a copy, which is changed
        rows = np.repeat(np.arange(len(seen)), [len(history) for history in seen])
        scores[rows, np.concatenate(seen)] = -np.inf
        # Of equal scores it takes the leftmost.
        best, found = map(np.asarray, jax.lax.top_k(scores[:, order], min(DEPTHS[-1], data.items)))
        shown[users, : best.shape[1]] = np.where(np.isneginf(best), 0, hashes[order][found])
    return Answers(shown, shown == hashes[data.test][:, None])


def _asked(log: Log, data: Sequences, hashes: Hashes, how: How) -> Asked:
    """Return what is asked for: of each judged user the item held back."""
    own = histories(log, how.types)
    if how.split == "temporal":  # whoever came later has nothing to learn from
        own = [each for each in own if each[2][0] < cuts(log)[0]]
    number = {name: place for place, name in enumerate(log.items)}
    test_ms = np.array(
        [
            times[items == number[data.names[item]]][0]
            for (_, items, times), item in zip(
                [own[user] for user in data.judged], data.test.tolist(), strict=True
            )
        ]
    )
    first_ms = np.full(len(log.items), np.iinfo(np.int64).max)
    np.minimum.at(first_ms, log.item, log.time_ms)
    renamed = np.array([number[name] for name in data.names])
    users = np.bincount(np.concatenate(data.learned), minlength=data.items)
    order = np.argsort(hashes)
    return Asked(
        data.judged,
        np.ones(len(data.test), np.int64),
        hashes[data.test],
        hashes[order],
        users[order],
        {"activity": terciles(np.array([len(history) for history in data.before_test]))},
        # Just before, or an item that the user is the first to have would not be new.
        item_parts(test_ms - 1 - first_ms[renamed][data.test], users[data.test]),
    )


def chosen(how: How, users: int) -> dict[str, NextItem | ItemSets]:
    """Return the networks asked for, untrained.

    Few users make small steps of networks of sets, or an epoch would be over after a few of them.

    Raises
    ------
    UnknownModelError
        When there is none of a name.
    """
    patience, seed = Patience(how.epochs), how.seed
    width: dict[str, Any] = {} if how.width is None else {"width": how.width}
    hidden: dict[str, Any] = {} if how.width is None else {"hidden": how.width}
    next_item = NextItemSettings(patience=patience, seed=seed, **width)
    hidden["users"] = min(max(users // EPOCH_STEPS, USERS_MIN), MultVAESettings().users)
    found: dict[str, NextItem | ItemSets] = {
        "Mult-VAE": ItemSets(MultVAESettings(patience=patience, seed=seed, **hidden)),
        "CFGAN": ItemSets(CFGANSettings(patience=patience, seed=seed, **hidden)),
        "LRURec": NextItem(LRURec, next_item),
        "SASRec": NextItem(SASRec, next_item),
    }
    names = {name.lower(): name for name in found}
    asked = names.keys() if how.networks is None else set(how.networks)
    if not asked or asked - names.keys():
        raise UnknownModelError(f"name some of {', '.join(names)} with --networks")
    return {name: found[name] for key, name in names.items() if key in asked}
