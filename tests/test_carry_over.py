"""The measurement of a cold shop asks in time, judges rightly, and can fail."""

from pathlib import Path

import msgspec
import pytest

from benchmarks.carry_over import WAYS, Visit, events_of, judge, run, visits
from benchmarks.carry_over_report import (
    BASELINES,
    MAIN,
    Carried,
    ShopResult,
    met,
    page,
    plot,
    result,
    summary,
    within,
)
from stream_app.steps import SOURCES

EVENTS = 2_500


@pytest.fixture(scope="module")
def judged() -> dict[str, list[Carried]]:
    """Return what comes of the beginning of the synthetic shop."""
    return run("synthetic", MAIN, EVENTS)


def carried(place: int, recall: float) -> Carried:
    """Return a visit that was served so well."""
    none = (0.0,) * len(SOURCES)
    return Carried(
        place=place,
        user_id=f"u-{place % 7}",
        recall=recall,
        hits=int(recall > 0),
        credit=none,
        proposed=(0,) * len(SOURCES),
        shown=10,
        alike=0,
    )


def test_visits_are_asked_for_before_anything_is_known_of_them() -> None:
    """No event of a visit, or of an order, stands before the place at which it is asked for."""
    events = events_of("synthetic", EVENTS)
    for visit in visits(events, "visit"):
        before = events[: visit.place]
        assert events[visit.place].session_id == visit.name
        assert all(event.session_id != visit.name for event in before)
    by_order = visits(events, "order")
    bought = [event for event in events if event.type == "purchase"]
    assert {visit.name for visit in by_order} == {event.order_id for event in bought}
    assert all(events[visit.place].type == "purchase" for visit in by_order)
    assert sum(len(visit.items) for visit in by_order) <= len(bought)


def test_every_visit_is_answered_and_credited(judged: dict[str, list[Carried]]) -> None:
    """The stream and both baselines are judged on the same visits; credits add up to the recall."""
    assert list(judged) == [MAIN, *BASELINES]
    places = [[each.place for each in own] for own in judged.values()]
    assert places[0] == places[1] == places[2]
    assert any(each.hits for each in judged[MAIN])
    for each in judged[MAIN]:
        assert sum(each.credit) == pytest.approx(each.recall)
        assert 0 <= each.alike <= each.shown <= 10


def test_a_visit_without_an_answer_is_missed() -> None:
    """What was not answered counts, as a miss."""
    (missed,) = judge([Visit("v", "u", 0, frozenset("a"))], {})
    assert (missed.recall, missed.hits, missed.shown) == (0.0, 0, 0)


def test_only_a_shop_that_improves_meets_the_aim() -> None:
    """The last fifth must be better than the first, by more than nothing."""
    for recalls, good in (((0.1, 0.2), True), ((0.2, 0.1), False), ((0.1, 0.1), False)):
        half = [carried(place, recalls[place >= 500]) for place in range(0, 1000, 10)]
        found = result({MAIN: half}, [MAIN], 1000)
        assert met(found) == good
        assert summary({"shop": found})["met"] == good
    assert len(within(half, 0, 500)) == 50


def test_page_and_picture_show_every_way(judged: dict[str, list[Carried]], tmp_path: Path) -> None:
    """The page has a row for each way and source, the picture is drawn, and JSON holds it all."""
    found = {"synthetic": result(judged, [MAIN], EVENTS)}
    text = page(found, 1.0)
    assert "What it shows" not in text  # of one shop nothing is concluded
    assert all(f"| {name.replace('_', ' ')} |" in text for name in (*judged, *SOURCES.values()))
    plot(found, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 0
    assert len(msgspec.json.decode(msgspec.json.encode(found))["synthetic"]["fifths"][MAIN]) == 5
    assert {MAIN} < WAYS["synthetic"].keys()


def test_page_concludes_from_both_shops() -> None:
    """What the page says in words has the figures of the run."""
    half = [carried(place, 0.125 if place < 500 else 0.25) for place in range(0, 1000, 10)]
    found: dict[str, ShopResult] = {}
    for shop, ways in WAYS.items():
        found[shop] = result(dict.fromkeys((*ways, *BASELINES), half), list(ways), 1000)
    text = " ".join(page(found, 1.0).split())
    assert "A catalogue changes Recall@10 of a fifth by 0.0000 at most" in text
    assert "0.1250 in the first fifth and 0.2500 in the last" in text
