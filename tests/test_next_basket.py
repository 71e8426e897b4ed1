"""The measurement of the next basket: what it asks, how it counts, and a short run of it."""

import json

import msgspec
import pytest

from benchmarks import basket_runs, next_basket
from benchmarks.basket_references import Frequency, Popularity, References
from benchmarks.basket_report import Result, Score, page
from benchmarks.emitted import Emitted, RunError
from benchmarks.next_basket import Options, Truth, lead, score, to_records
from models import replay
from models.replay import END_MS, TEST_MS, Basket, baskets
from stream_app.event import Event
from stream_app.sources.completejourney import CompleteJourney

DAY_MS = 86_400_000


def basket(basket_id: str, time_ms: int, *items: str, household: str = "h") -> Basket:
    """Return a basket of these products."""
    lines = [
        Event(
            event_id=f"{basket_id}-{place}",
            type="purchase",
            user_id=household,
            timestamp=time_ms,
            item_id=item,
            order_id=basket_id,
        )
        for place, item in enumerate(items)
    ]
    return Basket(basket_id, household, time_ms, lines)


def test_score_averages_over_baskets() -> None:
    """Recall divides by a basket's distinct products, and only ten answers count."""
    truth = {
        "1": Truth("a", frozenset({"x", "y", "z", "q"})),
        "2": Truth("a", frozenset({"x"})),
        "3": Truth("b", frozenset({"late"})),
        "4": Truth("b", frozenset({"x", "y"})),
    }
    answers = {
        "1": ["x", "m", "y"],
        "2": ["y", "x"],
        "3": [*map(str, range(10)), "late"],
        "4": ["n"],
    }
    found = score(answers, truth)
    assert found.recall_at_10 == pytest.approx((2 / 4 + 1 + 0 + 0) / 4)
    assert found.hit_rate_at_10 == pytest.approx(2 / 4)
    # A household drawn twice gives its own mean: .75 and 1 for one, 0 for the other.
    assert found.recall_at_10_interval == pytest.approx((0, 0.75))
    assert found.hit_rate_at_10_interval == pytest.approx((0, 1))


def test_score_counts_a_missing_answer_as_missed() -> None:
    """A basket without an answer has no hit, and is not left out."""
    truth = {"1": Truth("a", frozenset({"x"})), "2": Truth("a", frozenset({"x"}))}
    assert score({"1": ["x"]}, truth).recall_at_10 == pytest.approx(0.5)


def test_lead_is_paired_by_household() -> None:
    """What is better by the same amount for every household leads by that much for certain."""
    truth = {name: Truth(name, frozenset({name, "x"})) for name in "abcd"}
    others = {"a": ["a"], "b": ["b"], "c": [], "d": []}
    ours = {name: ["x", *items] for name, items in others.items()}
    found = lead(ours, others, truth)
    assert found.recall_at_10 == pytest.approx(0.5)
    assert found.recall_at_10_interval == pytest.approx((0.5, 0.5))
    assert found.hit_rate_at_10 == pytest.approx(0.5)


def test_questions_come_right_before_their_baskets() -> None:
    """Each basket of the window is asked for 1 ms before, after what came before it in the log."""
    own = [
        basket("1", TEST_MS - 1, "a"),
        basket("2", TEST_MS, "b", "c"),
        basket("3", TEST_MS, "d"),
    ]
    records = list(to_records(own))
    decoder = msgspec.json.Decoder(Event)
    events = [decoder.decode(value) for _, value, _ in records]
    assert [event.event_id for event in events] == ["1-0", "ask-2", "2-0", "2-1", "ask-3", "3-0"]
    assert [event.type == "recommend" for event in events] == [0, 1, 0, 0, 1, 0]
    assert [time_ms - TEST_MS for _, _, time_ms in records if time_ms] == [-1, -1, 0, 0, -1, 0]
    assert {key for key, _, _ in records} == {b"h"}


def test_baskets_are_read_whole_and_up_to_the_end() -> None:
    """A basket has one household and time, and none comes after the window."""
    shop = CompleteJourney()
    own = list(baskets(shop.events(next_basket.choose(shop, 20))))
    assert len({each.basket_id for each in own}) == len(own)
    assert all(line.user_id == each.user for each in own for line in each.lines)
    assert all(line.timestamp == each.time_ms < END_MS for each in own for line in each.lines)


def test_popularity_counts_lines_until_now() -> None:
    """The most bought come first, ten of them, ties by id; a late riser gets in."""
    popularity = Popularity()
    popularity.learn([*"abcdefghijklm", "m", "m", "c"])
    assert popularity.best() == ["m", "c", *"abdefghi"]
    popularity.learn("lll")
    assert popularity.best() == ["l", "m", "c", *"abdefgh"]


def test_frequency_decays_by_its_half_life() -> None:
    """Two purchases outweigh one, unless they are more than a half-life older."""
    plain, decayed = Frequency(), Frequency(60)
    for frequency in (plain, decayed):
        frequency.learn("h", TEST_MS, ["old", "old"])
        frequency.learn("h", TEST_MS + 61 * DAY_MS, ["new"])
    assert plain.best("h") == ["old", "new"]
    assert decayed.best("h") == ["new", "old"]
    assert plain.best("stranger") == []


def test_references_offer_a_stranger_what_is_popular() -> None:
    """A household without a purchase gets the popular products from every reference."""
    references = References()
    references.learn("h", TEST_MS, ["a", "b", "b"])
    assert all(answer == ["b", "a"] for answer in references.answer("stranger").values())


def test_direct_run_does_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are the same whether records come one by one or in batches."""
    runs = []
    for size in (1, 128):
        monkeypatch.setattr(replay, "BATCH_RECORDS", size)
        runs.append(next_basket.stream(Options(partitions=2, households=4, direct=True)))
    assert runs[0] == runs[1]
    assert runs[0].answers
    assert runs[0].tables["purchase"]


def test_short_run_answers_every_basket(capsys: pytest.CaptureFixture[str]) -> None:
    """On 60 households every basket is answered, with a recall like that of the whole shop."""
    code = next_basket.main(["--direct", "--households", "60", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (figures["missing"], figures["partitions"], figures["fallbacks"]) == (0, 4, 0)
    assert figures["model"].startswith("2017-11-05.")
    assert figures["baskets"] > 300
    assert 0.15 < figures["recall_at_10"] < 0.30
    assert 0.40 < figures["hit_rate_at_10"] < 0.70
    assert figures["recall_at_10"] > figures["references"]["popularity"]["recall_at_10"] + 0.05


def test_without_a_model_the_formula_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """`--model none` streams without one: every answer is the formula's."""
    assert next_basket.main(["--direct", "--households", "4", "--model", "none", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["model"] is None
    assert figures["fallbacks"] == figures["baskets"] > 0


def test_missing_answer_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1 when a basket has no answer, and the number of them is told."""
    run = next_basket.stream

    def forgetful(options: Options) -> Emitted:
        emitted = run(options)
        del emitted.answers[min(emitted.answers)]
        return emitted

    monkeypatch.setattr(next_basket, "stream", forgetful)
    assert next_basket.main(["--direct", "--households", "4", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["missing"] == 1


def test_rejected_record_fails_the_run() -> None:
    """A record that the program rejects ends the run, for the figures would be wrong."""
    with pytest.raises(RunError, match="rejected"):
        basket_runs.direct([(b"u", b"no event", TEST_MS)], 1)


def test_page_has_a_line_for_each_score() -> None:
    """The page of the docs names each reference and both numbers of partitions, with intervals."""
    one = Score(0.2, 0.5, (0.1, 0.3), (0.4, 0.6))
    result = Result(
        baskets=24_082,
        households=2_000,
        partitions=4,
        way="broker",
        missing=0,
        score=one,
        lead=one,
        model="2017-11-05.abc",
        fallbacks=3,
        one_partition=one,
        formula=one,
        references={"popularity": one},
        seconds=300,
    )
    text = page(result)
    assert "The model 2017-11-05.abc ranked" in text
    assert "3 answers were the formula's" in text
    formula = "stream-app without a model: the formula"
    for name in ("popularity", formula, "stream-app, 4 partitions", "stream-app, 1 partition"):
        assert f"| {name} | 0.2000 | 0.1000 to 0.3000 | 0.5000 | 0.4000 to 0.6000 |" in text
