"""The page's parts about the shop: what came in, what was recommended, what it led to."""

from collections.abc import Mapping, Sequence

from stream_app.event import rfc3339
from stream_app.ops import report_pictures as draw
from stream_app.ops.report import Report
from stream_app.ops.report_blocks import (
    Block,
    Section,
    Table,
    listed,
    many,
    over_time,
    percent,
    share,
)
from stream_app.ops.report_hits import FALLBACK, HitFigures, Shares
from stream_app.ops.words import span

# A share of fewer is not shown.
_CASES_MIN = 20
# Of so many places, shares are told apart in the picture.
_PLACES_SHOWN = 20
_FORMULA = " (fallback) is the built-in formula, where no trained model answered."


def came_in(report: Report) -> Section:
    """Return what came in."""
    events = report.events
    totals = {name: sum(row) for name, row in events.types.items()}
    about = "" if events.share == 1 else "about "
    least = "" if events.share == 1 else "at least "
    time = f"from {rfc3339(events.first_ms)[:10]} to {rfc3339(events.end_ms)[:10]}"
    whose = f"{about}{many(events.users, 'user')} with {least}{many(events.items, 'item')}"
    facts = [f"{many(events.consumed, 'record')} came in, {time}, of {whose}."]
    if events.rejected:
        facts.append(
            f"{many(events.rejected, 'record')} could not be read as events and went to the "
            f"dead-letter topic: {percent(share(events.rejected, events.consumed), 2)}."
        )
    if events.repeats:
        facts.append(
            f"{about.capitalize()}{many(events.repeats, 'event')} had been sent before and changed "
            f"nothing: {percent(share(events.repeats, events.consumed), 2)}."
        )
    if not (events.rejected or events.repeats):
        facts.append("Every record could be read, and none had been sent before.")
    if events.share < 1:
        facts.append(
            f"There are too many users to keep in memory: what is joined on this page is of "
            f"{percent(events.share, 2)} of them, drawn by a hash of their ids and taken whole; "
            "what is counted is of all."
        )
    pictures = [
        Block(
            "Events over time",
            f"How busy the shop was: events of each type a {events.windows.name}.",
            f"Stacked bars over time of events by type; in all {_listing(totals)}.",
            draw.stacked(events.windows, events.types, "events"),
            over_time(events.windows, events.types),
        )
    ]
    if events.reasons:
        reasons = dict(sorted(events.reasons.items(), key=lambda pair: (-pair[1], pair[0])))
        pictures.append(
            Block(
                "Rejected records by reason",
                "What a producer should mend first is on top.",
                f"Bars of rejected records by reason: {_listing(reasons)}.",
                draw.across(reasons, "records", colours=(draw.RED,)),
                listed(["reason", "records"], reasons.items()),
            )
        )
    return Section(
        "What came in", "The events of your shop, as they stand in the topic.", facts, pictures
    )


def recommended(report: Report) -> Section:
    """Return what was recommended."""
    answers, windows = report.answers, report.events.windows
    by_model = {name: sum(row) for name, row in answers.models.items()}
    by_source = {name: sum(row) for name, row in answers.sources.items()}
    coverage = share(answers.distinct, report.catalog)
    facts = [
        f"{many(answers.count, 'recommendation')} with {many(answers.places, 'item')} in all"
        + (
            f"; {answers.empty:,} empty, as there was nothing to recommend."
            if answers.empty
            else "."
        ),
        f"Ranked by: {_listing(by_model) or 'nobody yet'}."
        + (_FORMULA if any(name.endswith(FALLBACK) for name in by_model) else ""),
        f"{many(answers.distinct, 'different item')} were recommended"
        + (f", {percent(coverage)} of the catalogue's {report.catalog:,}" if report.catalog else "")
        + f"; {answers.half:,} of them fill half of all places.",
    ]
    if not answers.count:
        return Section("What was recommended", "Nothing has been recommended yet.", [], [])
    pictures = [
        Block(
            "Recommendations over time, by who ranked them",
            "Each bar should follow the events; a change of colour is a change of model.",
            f"Stacked bars over time of recommendations by model: {_listing(by_model)}.",
            draw.stacked(windows, answers.models, "recommendations"),
            over_time(windows, answers.models),
        ),
        Block(
            "Recommended items over time, by source",
            "Where the candidates came from; an item of several sources counts for each.",
            f"Stacked bars over time of recommended items by source: {_listing(by_source)}.",
            draw.stacked(windows, answers.sources, "items"),
            over_time(windows, answers.sources),
        ),
    ]
    if answers.top:
        names = _named(report)
        pictures.append(
            Block(
                "Recommended most",
                "The items that users see most often; if these are few and the same for all, "
                "recommendations are not personal.",
                f"Bars of the items recommended most, from {names[0]} downwards.",
                draw.across(
                    {f"{place}. {name}": count for place, (name, (_, count)) in _ranked(report)},
                    "times recommended",
                ),
                listed(
                    ["item", "id", "times"],
                    [(name, item, count) for _, (name, (item, count)) in _ranked(report)],
                ),
            )
        )
    see = "What your users were shown, by whom it was ranked and where it came from."
    return Section("What was recommended", see, facts, pictures)


def _named(report: Report) -> list[str]:
    names = [report.titles.get(item, item) for item, _ in report.answers.top]
    return [name.capitalize() if name.isupper() else name for name in names]


def _ranked(report: Report) -> list[tuple[int, tuple[str, tuple[str, int]]]]:
    return list(enumerate(zip(_named(report), report.answers.top, strict=True), 1))


def hits(report: Report) -> Section:
    """Return what recommendations led to."""
    found = report.answers.hits
    horizon = span(found.horizon_ms)
    title = "What the recommendations led to"
    see = (
        f"How often a user bought or clicked on a recommended item within {horizon}, compared with "
        "showing everybody what sold best until then, and each user what that user bought most."
    )
    clicks = "click" in report.events.types
    facts = _facts(found, horizon, clicks=clicks)
    if found.all.shown < _CASES_MIN:
        told = f"Not enough data: {many(found.all.shown, 'recommendation')} can be judged yet."
        return Section(title, see, [told, *facts], [])
    pictures = [_over_time(report)]
    places = {str(place): each for place, each in found.places.items()}
    pictures.append(
        Block(
            "By place",
            "Good ranking puts what is bought first, so bars should fall from left to right.",
            f"Share of recommended items bought within {horizon}, by place: "
            f"{_shares(places, 'bought')}.",
            draw.side_by_side(
                list(places)[:_PLACES_SHOWN],
                _rows(dict(list(places.items())[:_PLACES_SHOWN]), clicks=clicks),
                "place in the recommendation",
                "of items shown",
            ),
            _table("place", places, clicks=clicks),
        )
    )
    known = {n: each for n, each in found.sources.items() if each.shown >= _CASES_MIN}
    if known:
        pictures.append(
            Block(
                "By source",
                "Which ways of finding candidates pay off; the number beside is how many hits.",
                f"Share of recommended items bought within {horizon}, by source: "
                f"{_shares(known, 'bought')}.",
                draw.across(
                    {name: share(e.bought, e.shown) or 0.0 for name, e in known.items()},
                    "of items shown, bought",
                    percent=True,
                    notes=[
                        f"{percent(share(e.bought, e.shown))} ({e.bought:,})"
                        for e in known.values()
                    ],
                    colours=draw.PALETTE,
                ),
                _table("source", found.sources, clicks=clicks),
            )
        )
    if len(found.models) > 1:
        pictures.append(
            Block(
                "By who ranked",
                "Recommendations with a hit, by model; they answered at different times, so this "
                "is no experiment.",
                table=_table("model", found.models, clicks=clicks),
            )
        )
    return Section(title, see, facts, pictures)


def _facts(found: HitFigures, horizon: str, *, clicks: bool) -> list[str]:
    everyone, usual, items = found.all, found.popular, found.items
    ours, theirs = share(everyone.bought, everyone.shown), share(usual.bought, usual.shown)
    facts = []
    if ours is not None and theirs is not None and everyone.shown >= _CASES_MIN:
        own = percent(share(found.usual.bought, found.usual.shown))
        facts.append(
            f"{percent(ours)} of {everyone.shown:,} recommendations named at least one item that "
            f"their user bought within {horizon}; as many of the best sellers of all users would "
            f"have done so in {percent(theirs)}, and of what the user had bought most in {own}."
        )
        clicked = percent(share(items.clicked, items.shown))
        facts.append(
            f"Of {items.shown:,} recommended items {percent(share(items.bought, items.shown))} "
            + (f"were bought, and {clicked} clicked on." if clicks else "were bought.")
            + ("" if clicks else " There are no clicks among the events.")
        )
    facts.append(
        "Only what the log has after the recommendation counts, and not the rest of the order that "
        "prompted it. A purchase after a recommendation need not be one because of it: only an "
        "experiment can tell."
    )
    if found.counted_from_ms is not None:
        facts.append(
            f"The ranking model learned from events before {rfc3339(found.counted_from_ms)[:10]}; "
            f"{many(found.early, 'recommendation')} before are left out (grey ground), as hits "
            "there would prove nothing."
        )
    elif any(not name.endswith(FALLBACK) for name in found.models):
        facts.append(
            "The ranking model may have learned from a part of this time, where hits prove "
            "nothing: with the setting model, hits are counted from where its data ends."
        )
    if found.unclosed:
        facts.append(
            f"{many(found.unclosed, 'recommendation')} are not judged: less than {horizon} of the "
            "log follow."
        )
    return facts


def _over_time(report: Report) -> Block:
    found = report.answers.hits
    windows = found.time
    rows = {
        "recommended": _row(found.windows, "bought"),
        "best sellers": _row(found.windows_popular, "bought"),
        "what the user buys most": _row(found.windows_usual, "bought"),
    }
    if found.items.clicked:
        rows["recommended, clicked"] = _row(found.windows, "clicked")
    dimmed = 0
    if found.counted_from_ms is not None and found.counted_from_ms > windows.start_ms:
        dimmed = windows.place(found.counted_from_ms)
    return Block(
        "Recommendations with a hit, over time",
        "The recommendations should be above the best sellers, which know no user, and above what "
        "the user buys most, which brings nothing new.",
        "Lines over time of the share of recommendations with an item bought within "
        f"{span(found.horizon_ms)}, and of the same for best sellers and for what users buy most.",
        draw.lines(windows, rows, "of recommendations", dimmed_until=dimmed),
        over_time(
            windows,
            {
                "judged": [each.shown for each in found.windows],
                "with a purchase": [each.bought for each in found.windows],
                "with a click": [each.clicked for each in found.windows],
                "best sellers, with a purchase": [e.bought for e in found.windows_popular],
                "what the user buys most, the same": [e.bought for e in found.windows_usual],
            },
        ),
    )


def _row(windows: Sequence[Shares], field: str) -> list[float | None]:
    return [
        share(getattr(each, field), each.shown) if each.shown >= _CASES_MIN else None
        for each in windows
    ]


def _rows(groups: Mapping[str, Shares], *, clicks: bool) -> dict[str, list[float]]:
    rows = {"bought": [share(each.bought, each.shown) or 0.0 for each in groups.values()]}
    if clicks:
        rows["clicked"] = [share(each.clicked, each.shown) or 0.0 for each in groups.values()]
    return rows


def _table(name: str, groups: Mapping[str, Shares], *, clicks: bool) -> Table:
    rows = []
    for label, each in groups.items():
        cells: list[object] = [label, each.shown, each.bought]
        cells.append(percent(share(each.bought, each.shown)))
        if clicks:
            cells += [each.clicked, percent(share(each.clicked, each.shown))]
        rows.append(cells)
    head = [name, "shown", "bought", "share", *(("clicked", "share") if clicks else ())]
    return listed(head, rows)


def _shares(groups: Mapping[str, Shares], field: str) -> str:
    return ", ".join(
        f"{name} {percent(share(getattr(each, field), each.shown))}"
        for name, each in groups.items()
    )


def _listing(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
