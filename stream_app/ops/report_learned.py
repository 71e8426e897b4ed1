"""The page's parts about what was learned: how right the predictions were, and who may leave."""

from collections.abc import Mapping, Sequence

from stream_app.ops import report_pictures as draw
from stream_app.ops.report import Report
from stream_app.ops.report_blocks import (
    MISSING,
    Block,
    Section,
    listed,
    many,
    number,
    over_time,
    percent,
    share,
)
from stream_app.ops.report_foresight import (
    LEVELS,
    OUTCOMES_MIN,
    RISK_BINS,
    ForecastFigures,
    Outcome,
)
from stream_app.ops.words import foretold, span

_LEVEL_COLOURS = {"watch": draw.SKY, "warning": draw.ORANGE, "critical": draw.RED}
# A mark of the calibration stands for so many cases at least.
_BIN_MIN = 10
_OFFERS = (
    "Who got an offer, and whether it helped, the topics do not tell: compare with users who get "
    "none before you pay for offers."
)


def predictions(report: Report) -> Section:
    """Return how right the predictions were."""
    title = "How right the predictions were"
    see = (
        "Each probability was sent before anybody knew, and is held against what the user did "
        "then; only those whose time is over are judged."
    )
    judged = [each for each in report.forecasts if each.figures is not None]
    if not judged:
        sent = sum(each.sent for each in report.forecasts)
        told = (
            f"Not enough data: {many(sent, 'probability').replace('ys', 'ies')} sent, none judged."
        )
        return Section(title, see, [told], [])
    windows = judged[0].time
    facts = [_fact(each) for each in report.forecasts]
    facts.append(
        "AUC is how often a user who did it had been given a higher probability than one who did "
        "not: 0.5 is chance, 1 is never wrong. Windows with fewer than "
        f"{OUTCOMES_MIN} of either outcome are left open."
    )
    aucs = {_name(each): [window[1] for window in each.windows] for each in judged}
    pictures = [
        Block(
            "Right or wrong over time (AUC)",
            "Lines that rise in the beginning are learning; one that falls later needs a look.",
            "Lines over time of the AUC of each kind of prediction; over all: "
            + ", ".join(
                f"{_name(e)} {number(e.figures.auc if e.figures else None)}" for e in judged
            )
            + ".",
            draw.lines(windows, aucs, "AUC", percent=False, level=0.5),
            over_time(
                windows,
                {
                    f"{name}: {what}": [window[place] for window in each.windows]
                    for name, each in zip(aucs, judged, strict=True)
                    for place, what in enumerate(("judged", "AUC", "happened"))
                },
            ),
        ),
        _calibration(judged),
        _against_workers(report),
    ]
    return Section(title, see, facts, pictures)


def _name(each: ForecastFigures) -> str:
    return foretold(each.target, span(each.horizon_ms))


def _fact(each: ForecastFigures) -> str:
    found = each.figures
    if found is None:
        return f"“{_name(each)}”: {each.sent:,} sent, not enough data to judge any."
    return (
        f"“{_name(each)}”: {each.sent:,} sent, {found.cases:,} judged, it happened in "
        f"{percent(found.base_rate)}; AUC {number(found.auc)}, calibration error "
        f"{number(found.calibration_error)}."
    )


def _calibration(judged: Sequence[ForecastFigures]) -> Block:
    series = {
        _name(each): [
            (one.count, one.predicted, one.happened)
            for one in each.bins
            if one.count >= _BIN_MIN and one.predicted is not None and one.happened is not None
        ]
        for each in judged
    }
    return Block(
        "Do the probabilities mean what they say?",
        "On the dotted line, of what was given 30% just 30% happened; greater marks are more "
        "cases.",
        "Share that happened against the probability predicted, for each kind of prediction.",
        draw.calibration(series),
        listed(
            ["prediction", "probability", "cases", "mean predicted", "happened"],
            [
                (
                    _name(each),
                    f"{place / len(each.bins):.0%} to {(place + 1) / len(each.bins):.0%}",
                    one.count,
                    percent(one.predicted),
                    percent(one.happened),
                )
                for each in judged
                for place, one in enumerate(each.bins)
                if one.count
            ],
        ),
    )


def _against_workers(report: Report) -> Block:
    """Return the figures of the topics beside those that the workers say of themselves."""
    rows: list[Sequence[object]] = []
    for each in report.forecasts:
        found = each.figures
        rows.append(
            (
                f"{_name(each)}: the topics",
                found.cases if found else 0,
                found.base_rate if found else None,
                found.auc if found else None,
                found.calibration_error if found else None,
            )
        )
        for place, counts in enumerate(report.workers.counts if report.workers else (), 1):
            rows += [
                (f"… worker {place}", q.judged, q.base_rate, q.auc, q.calibration_error)
                for q in counts.quality
                if (q.target, q.horizon) == (each.target, each.horizon) and q.judged
            ]
    see = (
        "A worker judges those predictions that it learns from, since it was started; so the two "
        "should be near, not equal."
        if report.workers
        else "Give --metrics with the URLs of workers, and what they say of themselves is beside."
    )
    head = ["prediction", "judged", "happened", "AUC", "calibration error"]
    return Block("In figures", see, table=listed(head, rows))


def churn(report: Report) -> Section:
    """Return what is known of users who may leave."""
    found, windows = report.churn, report.events.windows
    title = "Who may leave"
    see = (
        "Users are assessed each week; who is at risk raises an alert, and later it shows who "
        "bought again."
    )
    if not (found.assessed or found.alerts):
        told = "Not enough data: nobody has been assessed; that takes weeks of purchases."
        return Section(title, see, [told], [])
    funnel = {"users": report.events.users, "assessed": found.assessed}
    funnel |= {level: found.levels[level].users for level in LEVELS}
    closed = sum(found.levels[level].closed for level in LEVELS)
    back = sum(found.levels[level].back for level in LEVELS)
    risk = sum(found.levels[level].risk for level in LEVELS)
    usual = next(
        (e.figures.base_rate for e in report.forecasts if e.target == "churn" and e.figures), None
    )
    facts = [
        f"{many(found.assessed, 'user')} were assessed, {many(found.alerts, 'alert')} raised.",
        f"Of {many(closed, 'alert')} whose time is over, {closed - back:,} "
        f"({percent(share(closed - back, closed))}) were right: the user bought nothing until "
        f"then; {back:,} came back. The risk told was {percent(share(risk, closed))} in the mean"
        + (f"; after all assessments, {percent(usual)} stayed away." if usual is not None else "."),
        _OFFERS,
    ]
    pictures = [
        Block(
            "From all users to the alerts",
            "How many users there are, are assessed, and have ever had an alert of each level.",
            "Bars: " + ", ".join(f"{name} {count:,}" for name, count in funnel.items()) + ".",
            draw.across(
                {name: float(count) for name, count in funnel.items()},
                "users",
                colours=(draw.GREY, draw.BLUE, *_LEVEL_COLOURS.values()),
            ),
            listed(["step", "users"], funnel.items()),
        ),
        _outcomes(found.levels, "level", "Came back or stayed away"),
        Block(
            "Alerts over time",
            "A rise says that more users fall silent, or that the model has just learned to tell.",
            "Stacked bars over time of alerts by level.",
            draw.stacked(
                windows,
                {level: found.over_time[level] for level in LEVELS if level in found.over_time},
                "alerts",
                _LEVEL_COLOURS,
            ),
            over_time(windows, found.over_time),
        ),
        Block(
            "Where users stand",
            "Users by their newest risk of buying nothing; those on the right are likely gone.",
            f"Bars of users by risk, from 0% to 100%: {', '.join(map(str, found.risks))}.",
            draw.columns(_tenths(), list(found.risks), "risk", "users", draw.PURPLE),
            listed(["risk from", "users"], zip(_tenths(), found.risks, strict=True)),
        ),
        _outcomes(found.offers, "offer", "By the offer proposed"),
    ]
    return Section(title, see, facts, pictures)


def _tenths() -> list[str]:
    return [f"{place / RISK_BINS:.0%}" for place in range(RISK_BINS)]


def _outcomes(groups: Mapping[str, Outcome], by: str, title: str) -> Block:
    known = {name: each for name, each in groups.items() if each.closed}
    table = listed(
        [by, "alerts", "users", "time over", "back", "away", "share", "risk told"],
        [
            (
                name,
                each.alerts,
                each.users,
                each.closed,
                each.back,
                each.closed - each.back,
                percent(share(each.closed - each.back, each.closed), 0),
                percent(share(each.risk, each.closed), 0),
            )
            for name, each in groups.items()
        ],
    )
    away = {name: (each.closed - each.back) / each.closed for name, each in known.items()}
    return Block(
        title,
        "The graver an alert, the more of its users should have stayed away."
        if by == "level"
        else "What was proposed with the alert; nobody knows from here whether it was made.",
        f"Share of alerts whose user stayed away, by {by}: "
        + ", ".join(f"{name} {value:.1%}" for name, value in away.items())
        + ".",
        draw.across(
            away,
            "of alerts, stayed away",
            percent=True,
            notes=[f"{away[name]:.0%} of {each.closed:,}" for name, each in known.items()],
            colours=[_LEVEL_COLOURS.get(name, draw.GREEN) for name in known],
        )
        if known
        else b"",
        table,
    )


def auc_of(report: Report, target: str) -> str:
    """Return the AUC of a target's predictions, of those judged most."""
    known = [each for each in report.forecasts if each.target == target and each.figures]
    return (
        number(known[0].figures.auc if known and known[0].figures else None) if known else MISSING
    )
