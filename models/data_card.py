"""What data to train on is like: counts, spans, repeats, and what may leak or mislead.

Also how a log becomes sequences: by leave-one-out, or by a temporal split.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.table import Table

from models.sequences import JUDGED_LENGTH, Items, Sequences, SequencesError, split
from models.sources import Log
from stream_app.event import EVENT_TYPES, rfc3339

TYPES = ("view", "click", "cart", "purchase")  # what sequences are made of
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.1  # of the events, the newest: the temporal split
POPULAR_SHARE = 0.01  # of the items, the most popular: how much do they draw?
DAY_MS = 86_400_000

History = tuple[str, Items, npt.NDArray[np.int64]]  # user, items, their times


class Leaks(msgspec.Struct, frozen=True):
    """What would make figures look better or other than they are.

    All is told of the very sequences that the splits make: of each user's :func:`histories`, where
    an item that follows itself is one entry. ``tied_users`` is the share of judged users whose last
    two items have the same time, so that which is the test is arbitrary, and ``tied_events`` that
    of entries at the time of the user's entry before. ``unseen_test_items`` is the share of
    leave-one-out test items that nobody has in training. ``users_before_only`` and
    ``users_after_only`` are the shares of users in one part of the temporal split only, and
    ``unseen_later_items`` that of later entries whose item is new.
    """

    tied_users: float
    tied_events: float
    unseen_test_items: float
    users_before_only: float
    users_after_only: float
    unseen_later_items: float


class DataCard(msgspec.Struct, frozen=True):
    """Figures of a log; shares are of 1, ``counts`` is what became of its records.

    ``repurchases`` is the share of purchases of what the user had bought before, ``repeats`` that
    of any events about an item that the user had an event about before. ``density`` is pairs of
    user and item by all possible; ``gini`` of the events per item is 0 where all are alike;
    ``popular`` is what the top 1 % of the items draw. ``lengths`` are events a user.
    """

    data: str
    records: int
    events: int
    users: int
    items: int
    pairs: int
    types: dict[str, int]
    since: str
    until: str
    days: float
    repurchases: float | None
    repeats: float
    density: float
    gini: float
    popular: float
    lengths: dict[str, float]
    rejects: dict[str, int]
    duplicates: int
    repeated: int
    withheld: int
    erased: int
    faults: dict[str, int]
    skipped: dict[str, int]
    leaks: Leaks


def data_card(
    log: Log, name: str, types: Collection[str] = TYPES, item_events_min: int = 1
) -> DataCard:
    """Return the figures of a log; ``leaks`` are those of its sequences, see :func:`histories`."""
    pairs = log.user.astype(np.int64) * len(log.items) + log.item
    distinct = len(np.unique(pairs))
    per_item, per_user = np.bincount(log.item), np.bincount(log.user)
    bought = pairs[log.kind == EVENT_TYPES.index("purchase")]
    ordered = np.sort(per_item)[::-1]
    most = max(round(len(ordered) * POPULAR_SHARE), 1)
    counts = log.counts
    middle, high = np.percentile(per_user, [50, 90]).tolist()
    return DataCard(
        data=name,
        records=counts.records,
        events=len(log),
        users=len(log.users),
        items=len(log.items),
        pairs=distinct,
        types=dict(counts.types.most_common()),
        since=rfc3339(int(log.time_ms[0])),
        until=rfc3339(int(log.time_ms[-1])),
        days=round(float(log.time_ms[-1] - log.time_ms[0]) / DAY_MS, 2),
        repurchases=_share(len(bought) - len(np.unique(bought)), len(bought))
        if len(bought)
        else None,
        repeats=_share(len(pairs) - distinct, len(pairs)),
        density=distinct / (len(log.users) * len(log.items)),
        gini=round(_gini(per_item), 4),
        popular=_share(int(ordered[:most].sum()), len(log)),
        lengths={"mean": round(len(log) / len(log.users), 2), "median": middle, "p90": high},
        rejects=dict(counts.rejects.most_common()),
        duplicates=counts.duplicates,
        repeated=counts.repeated,
        withheld=counts.withheld,
        erased=counts.erased,
        faults=dict(counts.faults.most_common()),
        skipped=dict(counts.skipped.most_common()),
        leaks=_leaks(histories(log, types, item_events_min), cuts(log)[1]),
    )


def _only(log: Log, types: Collection[str]) -> Log:
    """Return the events of some types."""
    chosen = np.isin(log.kind, [EVENT_TYPES.index(name) for name in types])
    columns = {name: getattr(log, name)[chosen] for name in ("user", "item", "kind", "time_ms")}
    return msgspec.structs.replace(log, **columns)


def _leaks(found: Sequence[History], test_ms: int) -> Leaks:
    """Return what may mislead in sequences, and in their parts before and from a time on."""
    if not found:
        return Leaks(*(0.0 for _ in Leaks.__struct_fields__))
    judged = [(items, times) for _, items, times in found if len(items) >= JUDGED_LENGTH]
    learned = [items[:-2] if len(items) >= JUDGED_LENGTH else items for _, items, _ in found]
    seen = np.isin([items[-1] for items, _ in judged], np.concatenate(learned))
    item, time_ms = (np.concatenate(column) for column in list(zip(*found, strict=True))[1:])
    tied = sum(int((times[1:] == times[:-1]).sum()) for _, _, times in found)
    after = time_ms >= test_ms
    known = np.isin(item[after], item[~after])
    return Leaks(
        tied_users=_share(sum(bool(times[-1] == times[-2]) for _, times in judged), len(judged)),
        tied_events=_share(tied, len(item)),
        unseen_test_items=_share(int((~seen).sum()), len(judged)),
        users_before_only=_share(sum(bool(t[-1] < test_ms) for _, _, t in found), len(found)),
        users_after_only=_share(sum(bool(t[0] >= test_ms) for _, _, t in found), len(found)),
        unseen_later_items=_share(int((~known).sum()), len(known)),
    )


def _share(count: int, of: int) -> float:
    return round(count / of, 5) if of else 0.0


def _gini(counts: npt.NDArray[np.int64]) -> float:
    """Return the Gini coefficient of counts."""
    ordered, n = np.sort(counts), len(counts)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))


# --- a log as sequences ---------------------------------------------------------------------------


def cuts(log: Log) -> tuple[int, int]:
    """Return where validation and test begin in a temporal split, in ms since the epoch."""
    places = [
        round(len(log) * (1 - TEST_SHARE - VALIDATION_SHARE)),
        round(len(log) * (1 - TEST_SHARE)),
    ]
    validation_ms, test_ms = log.time_ms[np.minimum(places, len(log) - 1)].tolist()
    return validation_ms, test_ms


def histories(log: Log, types: Collection[str] = TYPES, item_events_min: int = 1) -> list[History]:
    """Return each user's items and their times, oldest first.

    An item that follows itself counts once, as of its first time: whoever views, puts into the
    cart and buys wants one thing.

    Parameters
    ----------
    log
        Of events.
    types
        Which of them count.
    item_events_min
        Items with fewer such events are left out.
    """
    log = _only(log, types)
    often = np.bincount(log.item, minlength=len(log.items))[log.item] >= item_events_min
    user, item, time_ms = log.user[often], log.item[often], log.time_ms[often]
    order = np.argsort(user, kind="stable")
    user, item, time_ms = user[order], item[order], time_ms[order]
    first = np.ones(len(user), np.bool_)
    first[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    user, item, time_ms = user[first], item[first], time_ms[first]
    bounds = np.searchsorted(user, np.arange(len(log.users) + 1)).tolist()
    return [
        (log.users[number], item[begin:end], time_ms[begin:end])
        for number, (begin, end) in enumerate(pairwise(bounds))
        if end > begin
    ]


def leave_one_out(log: Log, types: Collection[str] = TYPES, item_events_min: int = 1) -> Sequences:
    """Return sequences with the last two items of each user held back."""
    return split(
        [
            [log.items[item] for item in items]
            for _, items, _ in histories(log, types, item_events_min)
        ]
    )


def temporal(log: Log, types: Collection[str] = TYPES, item_events_min: int = 1) -> Sequences:
    """Return sequences that learn from before a time, so that nothing of later is known.

    Of each user with a history then, the test is the first item of the newest tenth of the events,
    the validation the last of the tenth before it.

    Raises
    ------
    SequencesError
        When no user has a history, and events in both.
    """
    validation_ms, test_ms = cuts(log)
    learned: list[Items] = []
    judged, validation, test = [], [], []
    for _, items, time_ms in histories(log, types, item_events_min):
        begin, end = np.searchsorted(time_ms, [validation_ms, test_ms]).tolist()
        if 0 < begin < end < len(items):
            judged.append(len(learned))
            validation.append(items[end - 1])
            test.append(items[end])
        if begin:
            learned.append(items[:begin])
    if not judged:
        raise SequencesError(
            "no user has items before, in and after the time of the validation: "
            "take leave-one-out, or data of a longer time"
        )
    return Sequences(
        log.items,
        learned,
        np.array(judged),
        np.array(validation, np.int32),
        np.array(test, np.int32),
    )


def lines(log: Log, types: Collection[str] = TYPES, item_events_min: int = 1) -> Sequence[str]:
    """Return the lines ``user item item ...`` that :func:`models.sequences.read` takes.

    Blanks within ids become underscores.
    """
    names = ["_".join(item.split()) for item in log.items]
    return [
        " ".join(["_".join(user.split()), *(names[item] for item in items)])
        for user, items, _ in histories(log, types, item_events_min)
    ]


# --- for people -----------------------------------------------------------------------------------


def tables(card: DataCard) -> Group:
    """Return the card as tables."""
    plain: dict[str, Any] = msgspec.to_builtins(card)
    leaks = plain.pop("leaks")
    main, risks = Table("", card.data, title="data"), Table("leaks", "share")
    for name, value in plain.items():
        if name != "data":
            main.add_row(name, _shown(value))
    for name, value in leaks.items():
        risks.add_row(name, f"{value:.2%}")
    return Group(main, risks)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_shown(each)}" for name, each in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
