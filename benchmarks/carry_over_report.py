"""What a measurement of a cold start found: figures, a table, a picture, and a page of the docs."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import msgspec
import numpy as np
from rich.table import Table

from models.evaluate import bootstrap
from stream_app.steps import SOURCES

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
PARTS = 5  # that the events are cut into
STEPS, WINDOW_STEPS = 50, 5  # of the curve: a point each 50th, over the tenth of events before it
# The ways in which a shop is streamed, and what they are called in the page.
MAIN, BARE, ONE = "stream-app", "without a catalogue", "one partition"
FOREIGN, LATE = "the model of another shop", "asked when the cart is full"
BASELINES = ("popularity", "personal_top_frequency")
START = 100  # the first so-manieth of the events is looked at on its own
(CONTENT,) = (bit for bit, name in SOURCES.items() if name == "content")


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """How one visit was served: its first event's place, Recall@10 and the number of hits.

    ``credit`` is the recall that each source brought, ``proposed`` the hits that it proposed, by
    itself or with others; ``shown`` items, ``alike`` of them proposed for their content only.
    """

    place: int
    user_id: str
    recall: float
    hits: int
    credit: tuple[float, ...]
    proposed: tuple[int, ...]
    shown: int
    alike: int


class Score(msgspec.Struct, frozen=True):
    """Mean Recall@10 and HitRate@10 of the visits in a span of events, each with its 95 %."""

    visits: int
    recall_at_10: float
    recall_interval: tuple[float, float]
    hit_rate_at_10: float
    hit_rate_interval: tuple[float, float]


class Point(msgspec.Struct, frozen=True):
    """A point of the curve: the events so far, and the score of the visits in the window."""

    events: int
    score: Score


class Filled(msgspec.Struct, frozen=True):
    """Answers in the first hundredth of the events: items each, and of them by content alone."""

    answers: int
    items: float
    alike: float


class ShopResult(msgspec.Struct, frozen=True):
    """All that was found of one shop, by the way in which it was streamed, the main one first.

    ``fifths`` are scores of each fifth of the events, ``start`` those of the first hundredth;
    ``proposed`` for each fifth the share of the hits that a source proposed, ``credit`` for each
    point of the main way's curve the recall that a source brought.
    """

    events: int
    visits: int
    users: int
    fifths: dict[str, list[Score]]
    start: dict[str, Filled]
    curves: dict[str, list[Point]]
    proposed: list[dict[str, float]]
    credit: list[dict[str, float]]

    @property
    def main(self) -> list[Score]:
        """The scores of the main way."""
        return next(iter(self.fifths.values()))


def result(judged: Mapping[str, list[Carried]], ways: Sequence[str], count: int) -> ShopResult:
    """Return what was found, the ways in the order given, the baselines behind them."""
    order = [*ways, *(name for name in judged if name not in ways)]
    main, *_ = order
    ends = [count * number // PARTS for number in range(PARTS + 1)]
    spans = list(pairwise(ends))
    steps = [count * number // STEPS for number in range(1, STEPS + 1)]
    windows = [(max(end - count * WINDOW_STEPS // STEPS, 0), end) for end in steps]
    windows = [span for span in windows if within(judged[main], *span)]
    drawn = [name for name in order if name in {main, FOREIGN, *BASELINES}]
    return ShopResult(
        events=count,
        visits=len(judged[main]),
        users=len({each.user_id for each in judged[main]}),
        fifths={name: [score(within(judged[name], *span)) for span in spans] for name in order},
        start={name: _filled(within(judged[name], 0, count // START)) for name in ways},
        curves={
            name: [Point(span[1], score(within(judged[name], *span))) for span in windows]
            for name in drawn
        },
        proposed=[_proposed(within(judged[main], *span)) for span in spans],
        credit=[_credit(within(judged[main], *span)) for span in windows],
    )


def within(judged: Sequence[Carried], since: int, until: int) -> list[Carried]:
    """Return the visits that begin at an event in [since, until)."""
    return [each for each in judged if since <= each.place < until]


def score(judged: Sequence[Carried]) -> Score:
    """Return the means over visits; the intervals draw users, each with all visits.

    >>> one = Carried(place=0, user_id="u", recall=0.5, hits=1, credit=(), proposed=(), shown=1,
    ...               alike=0)
    >>> score([one, one]).recall_at_10, score([]).visits
    (0.5, 0)
    """
    if not judged:
        return Score(0, 0.0, (0.0, 0.0), 0.0, (0.0, 0.0))
    _, users = np.unique([each.user_id for each in judged], return_inverse=True)
    columns = ([each.recall for each in judged], [each.hits > 0 for each in judged])
    sums = [np.bincount(users, column) for column in columns]
    (recall, hit), (low, high) = bootstrap(np.column_stack((*sums, np.bincount(users))))
    return Score(len(judged), recall, (low[0], high[0]), hit, (low[1], high[1]))


def _filled(judged: Sequence[Carried]) -> Filled:
    count = max(len(judged), 1)
    items, alike = (sum(column) for column in zip(*_shown(judged), strict=True))
    return Filled(len(judged), round(items / count, 2), round(alike / count, 2))


def _shown(judged: Sequence[Carried]) -> list[tuple[int, int]]:
    return [(each.shown, each.alike) for each in judged] or [(0, 0)]


def _proposed(judged: Sequence[Carried]) -> dict[str, float]:
    hits = max(sum(each.hits for each in judged), 1)
    return {
        name: round(sum(each.proposed[number] for each in judged) / hits, 4)
        for number, name in enumerate(SOURCES.values())
    }


def _credit(judged: Sequence[Carried]) -> dict[str, float]:
    return {
        name: round(sum(each.credit[number] for each in judged) / len(judged), 5)
        for number, name in enumerate(SOURCES.values())
    }


def met(found: ShopResult) -> bool:
    """Tell whether the shop's last fifth was served better than its first."""
    return found.main[-1].recall_at_10 > found.main[0].recall_at_10


def summary(results: Mapping[str, ShopResult]) -> dict[str, Any]:
    """Return the last line's content: Recall@10 in each fifth, by shop and way."""
    shops = {
        shop: {
            name: [each.recall_at_10 for each in fifths] for name, fifths in found.fifths.items()
        }
        for shop, found in results.items()
    }
    return {"recall_at_10_by_fifth": shops, "met": all(map(met, results.values()))}


def table(shop: str, found: ShopResult) -> Table:
    """Return a table for a terminal."""
    shown = Table("Recall@10 in each fifth of the events", *_ORDINALS, title=_title(shop, found))
    for name, fifths in found.fifths.items():
        shown.add_row(name.replace("_", " "), *(f"{each.recall_at_10:.4f}" for each in fifths))
    return shown


_ORDINALS = ("first", "second", "third", "fourth", "last")


def _title(shop: str, found: ShopResult) -> str:
    return f"{shop}: {found.visits:,} visits of {found.users:,} users"


# --- the page -------------------------------------------------------------------------------------


def write(results: Mapping[str, ShopResult], unknown: float) -> None:
    """Write page, figures and picture; ``unknown`` is the share of items a foreign model lacks."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {shop: msgspec.to_builtins(found) for shop, found in results.items()}
    file = RESULTS / "carry_over.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    plot(results, RESULTS / "carry_over.png")
    (RESULTS / "carry_over.md").write_text(page(results, unknown), encoding="utf-8")


def page(results: Mapping[str, ShopResult], unknown: float) -> str:
    """Return the page of the docs, in Markdown."""
    return _PAGE.format(
        unknown=unknown,
        shops="\n\n".join(_section(shop, found) for shop, found in results.items()),
        starts="\n".join(_start_rows(results)),
        findings=_findings(results),
    )


def _section(shop: str, found: ShopResult) -> str:
    head = " | ".join(("Recall@10", *_ORDINALS))
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {' | '.join(f'{s.recall_at_10:.4f}' for s in fifths)} |"
        for name, fifths in found.fifths.items()
    )
    first, last = found.main[0], found.main[-1]
    sources = "\n".join(
        f"| {name} | {' | '.join(f'{each[name]:.0%}' for each in found.proposed)} |"
        for name in SOURCES.values()
    )
    return _SECTION.format(
        title=_title(shop, found),
        head=head,
        rows=rows,
        first=_interval(first),
        last=_interval(last),
        hits=f"{first.hit_rate_at_10:.4f} and {last.hit_rate_at_10:.4f}",
        met="met" if met(found) else "missed",
        ordinals=" | ".join(_ORDINALS),
        sources=sources,
    )


def _interval(found: Score) -> str:
    low, high = found.recall_interval
    return f"{found.recall_at_10:.4f} ({low:.4f} to {high:.4f})"


def _start_rows(results: Mapping[str, ShopResult]) -> list[str]:
    return [
        f"| {shop}, {name} | {each.answers} | {each.items:.1f} | {each.alike:.1f} |"
        for shop, found in results.items()
        for name, each in found.start.items()
    ]


def plot(results: Mapping[str, ShopResult], path: Path) -> None:
    """Draw for each shop the curves beside the baselines', and below who brought the recall."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of the backend

    figure, axes = plt.subplots(2, len(results), figsize=(10.5, 6.5), sharex=True, squeeze=False)
    for column, (shop, found) in enumerate(results.items()):
        upper, lower = axes[:, column]
        for name, points in found.curves.items():
            events = [point.events for point in points]
            recalls = [point.score.recall_at_10 for point in points]
            colour = f"C{(MAIN, *BASELINES, FOREIGN).index(name)}"
            style = "-" if name == MAIN else "--"
            upper.plot(events, recalls, style, color=colour, label=name.replace("_", " "))
            if name == MAIN:
                low, high = zip(*(point.score.recall_interval for point in points), strict=True)
                upper.fill_between(events, low, high, color="C0", alpha=0.2, label="95 %")
        upper.set(title=_title(shop, found), ylabel="Recall@10, rolling mean")
        _, top = upper.get_ylim()
        upper.set_ylim(0.0, 1.3 * top)
        upper.legend(fontsize=8, loc="upper left", ncols=2)
        main = next(iter(found.curves.values()))
        names = [name for name in SOURCES.values() if any(each[name] for each in found.credit)]
        lower.stackplot(
            [point.events for point in main],
            *([each[name] for each in found.credit] for name in names),
            labels=names,
            colors=[f"C{number}" for number in range(len(names))],
        )
        lower.set(xlabel="events since the shop opened", ylabel="Recall@10, by source of the hit")
        lower.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        _, top = lower.get_ylim()
        lower.set_ylim(0.0, 1.2 * top)
        lower.legend(fontsize=8, loc="upper left", ncols=3)
    figure.tight_layout()
    figure.savefig(path, dpi=80, pil_kwargs={"optimize": True})
    plt.close(figure)


_SECTION = """\
## {title}

| {head} |
|---|--:|--:|--:|--:|--:|
{rows}

First fifth {first},
last fifth {last}: {met}.
HitRate@10 there: {hits}.

Of the hits, the share that each source proposed; most were proposed by several:

| source | {ordinals} |
|---|--:|--:|--:|--:|--:|
{sources}"""

_PAGE = """\
# A new shop that knows nothing

Made by `python -m benchmarks.carry_over --write`; figures in [carry_over.json](carry_over.json).

The first 100,000 events of two shops stream through `pipeline.process` from an empty state, over 4
partitions, ranked by the formula: no model was trained. 1 ms before each visit in which something
is bought a `recommend` event asks, and the ten items of the answer are compared with the distinct
items bought in the visit, by what was known until then (prequential evaluation). A basket of
completejourney is a visit; a visit to the synthetic shop is a session, asked for before its first
event. Recall@10 is hits / distinct items, averaged over visits; 95 % intervals come from 2,000
bootstrap draws of users.

![Recall@10 along the events, and which source brought it](carry_over.png)

Above, rolling means over the tenth of the events before each point. Below, the same recall by the
source that proposed the hit; a hit of several sources is credited to them in equal parts.

- *popularity*: the items bought most often until now, in all partitions.
- *personal top frequency*: the items that the user bought most often until now; who is new is
  offered what is popular.
- *without a catalogue*: the shop has sent no items, so nothing is known of what is alike.
- *one partition*: a partition learns from its own users only; here it learns from all.
- *the model of another shop*: the demo's, trained on completejourney, ranks the synthetic shop, of
  whose items it does not know {unknown:.0%}. (For completejourney it would be no stranger.)
- *asked when the cart is full*: 1 ms before an order in place of before the visit, so that the
  stream knows what was looked at and put into the cart.

{shops}

## The very beginning

Answers before the visits that begin among the first 1,000 events, the items in each, and how many
of these were proposed for nothing but their likeness to the user's last ones:

| | answers | items | by likeness alone |
|---|--:|--:|--:|
{starts}

{findings}
"""

_FINDINGS = """\
## What it shows

- **Popular items carry the cold start, and the users' own history takes over.** In completejourney
  popular items proposed {cj_popular[0]:.0%} of the first fifth's hits and {cj_popular[1]:.0%} of
  the last's; repeats rose from {cj_repeat[0]:.0%} to {cj_repeat[1]:.0%}, co-visitation from
  {cj_follow[0]:.0%} to {cj_follow[1]:.0%}. In the synthetic shop popular items stay under nearly
  every hit, and co-visitation rises from {sy_follow[0]:.0%} to {sy_follow[1]:.0%}.
- **Content neighbours add no hits.** A catalogue changes Recall@10 of a fifth by {catalogue:.4f} at
  most: the formula weighs likeness with a millionth, so that it decides between items that nobody
  has wanted yet. These stand in a list only while the shop knows fewer than ten others. What
  content proposed of the hits, others proposed as well.
- **The synthetic shop improves up to popularity, not beyond.** {sy_main:.4f} in the last fifth is
  level with the baseline that counts in all partitions ({sy_popular:.4f}): before a visit nothing
  tells what it will be about but a liking for categories. In completejourney the stream ends
  {cj_lead:.4f} ahead of the better baseline. In both it begins at or below popularity, since a
  partition of four sees a quarter of what is bought.
- **With the cart known there is no cold start to see**: {late[0]:.4f} in the first fifth,
  {late[1]:.4f} in the last, no improvement. What others went on to from the items just looked at
  is learned soon, and a young shop has few items to choose from.
- **A model of another shop does harm.** It knows none of the items by name and ranks by the
  features alone: {foreign[0]:.4f} in the first fifth and {foreign[1]:.4f} in the last, beside
  {formula[0]:.4f} and {formula[1]:.4f} by the formula. Let a new shop start without one.
"""


def _findings(results: Mapping[str, ShopResult]) -> str:
    """Return what follows from a run of both shops; of other runs nothing is said."""
    if set(results) != {"synthetic", "completejourney"}:
        return ""
    synthetic, journey = results["synthetic"], results["completejourney"]

    def ends(found: ShopResult, name: str) -> tuple[float, float]:
        fifths = found.fifths[name]
        return fifths[0].recall_at_10, fifths[-1].recall_at_10

    def proposed(found: ShopResult, source: str) -> tuple[float, float]:
        return found.proposed[0][source], found.proposed[-1][source]

    best = max(ends(journey, name)[1] for name in BASELINES)
    return _FINDINGS.format(
        cj_popular=proposed(journey, "popular"),
        cj_repeat=proposed(journey, "repeat"),
        cj_follow=proposed(journey, "co-visitation"),
        sy_follow=proposed(synthetic, "co-visitation"),
        catalogue=max(
            abs(with_.recall_at_10 - without.recall_at_10)
            for found in results.values()
            for with_, without in zip(found.main, found.fifths[BARE], strict=True)
        ),
        sy_main=synthetic.main[-1].recall_at_10,
        sy_popular=ends(synthetic, "popularity")[1],
        cj_lead=journey.main[-1].recall_at_10 - best,
        late=ends(synthetic, LATE),
        foreign=ends(synthetic, FOREIGN),
        formula=ends(synthetic, MAIN),
    )
