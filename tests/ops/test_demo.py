"""The demo: a short real run, its accounts, its story, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from stream_app.config import DAY_MS
from stream_app.errors import ConfigError
from stream_app.event import Cause, ChurnAlert, Event, RankedItem, Recommendation
from stream_app.manifest import read_folder
from stream_app.ops import demo
from stream_app.ops.demo_learned import learned, lines_of
from stream_app.ops.demo_ranking import Ranking, model_folder
from stream_app.ops.demo_result import Accounts, Result
from stream_app.ops.demo_shops import MODEL_FOLDER, SHOPS
from stream_app.ops.demo_story import Story
from stream_app.ops.demo_view import Lines, Picture, Progress, outcome
from stream_app.ops.demo_worker import Counts, DemoWorker, Quality
from stream_app.stages.candidates import POOL_SIZE
from tests.onnx_model import NAME, VERSION, flip_bit, write_model

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "stream_app", "demo", "--events"]
RUN_SECONDS_MAX = 120.0
END_SECONDS_MAX = 30.0
KEYS = (
    "consumed processed rejected duplicate recommendations predictions churn_alerts auc judged "
    "events_per_second latency_ms_p50 latency_ms_p99 latency_samples seconds "
    "model model_answers fallback_answers hits_counted_from report"
)

EVEN = Counts(
    position=10,
    processed=7,
    rejected=2,
    duplicate=1,
    recommendations=4,
    churn_alerts=3,
    model_answers=3,
    fallback_answers=1,
)


def start(*arguments: str) -> "subprocess.Popen[str]":
    """Start a demo."""
    return subprocess.Popen(
        [*COMMAND, "3000", "--no-report", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid: int, count: int) -> list[int]:
    """Wait until a process has so many children; return their ids."""
    deadline = time.monotonic() + END_SECONDS_MAX
    while time.monotonic() < deadline:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        if len(found) == count:
            return [int(child) for child in found]
        time.sleep(0.05)
    pytest.fail(f"the demo did not start {count} processes")


def runs(pid: int) -> bool:
    """Tell whether a process is there and has not ended; init may take its time to bury it."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return said.rpartition(")")[2].split()[0] != "Z"


def purchase(number: int, item: str, user: str = "h") -> Event:
    """Return the purchase of an item."""
    return Event(
        event_id=f"e-{number}", type="purchase", user_id=user, timestamp=number, item_id=item
    )


def answer(number: int, *items: str, user: str = "h") -> Recommendation:
    """Return the recommendation that the purchase of that number caused."""
    return Recommendation(
        recommendation_id=f"r-{number}",
        user_id=user,
        timestamp=number,
        items=[
            RankedItem(item, rank, 1.0 / rank, ["repeat"], ["bought before"])
            for rank, item in enumerate(items, 1)
        ],
        cause=Cause(f"e-{number}", "t", 0, number),
        model="m",
        model_version="1",
        fallback_level=None,
        service_level=0,
        variant="exploit",
        catalog_version="0",
    )


def told(*items: str, hero: str = "h") -> Story:
    """Return a story in which the household has bought these items, one after another."""
    story = Story(hero, {})
    for number, item in enumerate(items):
        story.happened(purchase(number, item))
    return story


def result_of(*arguments: str, model: Path | None = None) -> dict[str, Any]:
    """Return the object that a whole run prints; its accounts are even."""
    environment = dict(os.environ)
    if model is not None:
        environment |= {"STREAM_APP_MODEL": str(model), "STREAM_APP_MODEL_MS_MAX": "1000"}
    if "--report" not in arguments:
        arguments = (*arguments, "--no-report")
    command = [*COMMAND, *arguments, "--json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS_MAX,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result: dict[str, Any] = json.loads(line)
    assert list(result) == KEYS.split()
    assert result["consumed"] == sum(result[k] for k in ("processed", "rejected", "duplicate"))
    assert result["recommendations"] == result["model_answers"] + result["fallback_answers"]
    assert 0 < result["latency_ms_p50"] <= result["latency_ms_p99"]
    return result


def test_demo_accounts_for_every_event() -> None:
    """A real run is even to the last event, and learns to predict what is in the data."""
    result = result_of("20000")
    assert 18_000 < result["consumed"] < 22_000
    assert result["rejected"] == result["duplicate"] == 0
    assert result["recommendations"] > 1_000
    assert result["latency_samples"] > 20
    assert result["predictions"] > 1_000
    assert result["churn_alerts"] > 0
    assert list(result["auc"]) == list(result["judged"])
    assert result["judged"]["purchase"] > 500
    assert 0.5 < result["auc"]["purchase"] < 1
    assert (result["auc"]["share"], result["judged"]["share"]) == (None, 0), "nobody shares here"


def test_demo_of_the_drawn_shop_closes_the_loop(tmp_path: Path) -> None:
    """What users do about recommendations is in the log too, and the accounts are still even.

    The report counts what the worker does, repeats and broken records among it.
    """
    page = tmp_path / "report.html"
    result = result_of("6000", "--shop", "synthetic", "--report", str(page))
    assert result["consumed"] > 6_000, "the reactions come on top"
    assert result["rejected"] > 0, "some records are broken"
    assert result["duplicate"] > 0
    assert all(result["judged"][target] > 0 for target in ("purchase", "comment", "share"))
    assert result["report"] == str(page)
    text = page.read_text(encoding="utf-8")
    assert "The workers asked count the same: nothing is lost or counted twice." in text
    assert f"{result['duplicate']:,} duplicate" in text
    assert f"{result['rejected']:,} rejected" in text
    assert (result["model"], result["model_answers"], result["hits_counted_from"]) == (
        None,
        0,
        None,
    )


def test_demo_counts_hits_after_its_models_data(tmp_path: Path) -> None:
    """With a model that ranks, the result names it, its answers and when counting began."""
    result = result_of("3000", model=write_model(tmp_path / "model"))
    assert result["model"] == {"name": NAME, "version": VERSION}
    assert result["model_answers"] > 0.9 * result["recommendations"] > 0
    assert result["hits_counted_from"] == "2017-11-05T00:00:00.000Z"


def test_demo_with_a_refused_model_says_so(tmp_path: Path) -> None:
    """A damaged model is named in one line, and the formula answers; all answers count."""
    model = write_model(tmp_path / "model")
    flip_bit(model / "ranker.onnx")
    done = subprocess.run(
        [*COMMAND, "3000", "--no-report"],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS_MAX,
        check=False,
        env={**os.environ, "STREAM_APP_MODEL": str(model)},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (said,) = (line for line in lines if "refused" in line)
    assert said.endswith("the worker refused its ranking model (corrupt): the formula ranks")
    assert "by the model" not in done.stdout
    assert re.search(r"by the formula +│ +[1-9]", done.stdout)


def test_demo_when_interrupted_leaves_nothing() -> None:
    """Ctrl-C ends the demo quietly, and its broker and worker with it."""
    with start() as running:
        started = children(running.pid, 2)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=END_SECONDS_MAX)
    assert running.returncode == 130
    assert not errors
    assert not any(map(runs, started))


def test_demo_without_its_worker_says_so() -> None:
    """A worker that dies is reported, and the demo exits with 1 and leaves nothing."""
    with start("--json") as running:
        broker, worker = children(running.pid, 2)
        os.kill(worker, signal.SIGKILL)
        output, errors = running.communicate(timeout=END_SECONDS_MAX)
    assert running.returncode == 1
    assert not output
    assert "the worker ended early, with code -9" in errors
    assert not runs(broker)


@pytest.mark.parametrize("events", ["0", "-5", "some", ""])
def test_demo_of_no_events_is_refused(events: str) -> None:
    """What is no number of events is named before anything starts."""
    with pytest.raises(ConfigError, match="give a number from 1, or all"):
        demo.run(events)


def test_accounts_that_are_even_pass() -> None:
    """Nothing is wrong when every event has an outcome and every recommendation came back."""
    assert Accounts(10, 4, 3, EVEN).faults() == []


@pytest.mark.parametrize(
    ("accounts", "fault"),
    [
        (Accounts(11, 4, 3, EVEN), "11 events were acknowledged, the worker consumed 10"),
        (
            Accounts(10, 4, 3, msgspec.structs.replace(EVEN, processed=6)),
            "10 events were consumed, but 6 processed + 2 rejected + 1 duplicate = 9",
        ),
        (Accounts(10, 3, 3, EVEN), "the worker made 4 recommendations, 3 were read"),
        (Accounts(10, 5, 3, EVEN), "the worker made 4 recommendations, 5 were read"),
        (Accounts(10, 4, 2, EVEN), "the worker made 3 churn alerts, 2 were read"),
        (
            Accounts(10, 4, 3, msgspec.structs.replace(EVEN, fallback_answers=0)),
            "the worker made 4 recommendations, but 3 by the model + 0 by the formula = 3",
        ),
    ],
)
def test_accounts_that_are_uneven_fail(accounts: Accounts, fault: str) -> None:
    """A lost event, one without an outcome, and a recommendation too few or too many are named."""
    assert accounts.faults() == [fault]


def test_story_marks_what_is_bought_until_the_next_recommendation() -> None:
    """A hit is bought after the cause, and no later than the cause of the next recommendation."""
    story = told("milk", "bread", "eggs", "soap", "tea")
    story.recommended(answer(0, "tea", "eggs", "milk"))
    chapters = [story.chapter]
    story.recommended(answer(2, "soap"))
    chapters.append(story.chapter)
    story.finish()
    chapters.append(story.chapter)
    before, first, second = chapters
    assert before is None, "it was not known yet what is bought next"
    assert first is not None
    assert second is not None
    assert [item.item_id for item in first.hits] == ["eggs"]
    assert (first.cause, first.others) == ("milk", ["bread"])
    assert [item.item_id for item in second.hits] == ["soap"]
    assert (story.score.right, story.score.judged, story.score.hits) == (2, 2, 2)
    assert story.score.sources == {"repeat": 2}


def test_story_counts_misses() -> None:
    """A recommendation that nothing bought was in counts as judged, and not as right."""
    story = told("milk", "bread")
    story.recommended(answer(0, "soap"))
    story.finish()
    assert (story.score.right, story.score.judged) == (0, 1)


def test_story_does_not_judge_what_no_purchase_followed() -> None:
    """The recommendation after a household's last purchase is neither right nor wrong."""
    story = told("milk")
    story.recommended(answer(0, "soap"))
    story.finish()
    assert story.score.judged == 0


def test_story_passes_over_repeats() -> None:
    """A recommendation that is read twice, as after a crash, is judged once."""
    story = told("milk", "bread", "eggs")
    for number in (0, 0, 2):
        story.recommended(answer(number, "bread"))
    story.finish()
    assert story.score.judged == 1


def test_story_tells_of_one_household_and_counts_all() -> None:
    """The chapters are those of the chosen household, the score is that of everybody."""
    story = told("milk", "bread", hero="somebody else")
    story.recommended(answer(0, "bread"))
    story.finish()
    assert story.chapter is None
    assert (story.hero_score.judged, story.score.judged) == (0, 1)


def test_story_tells_clicks_from_purchases() -> None:
    """What was only clicked on is no hit, and a chapter is told for it all the same."""
    story = told("milk")
    story.recommended(answer(0, "tea", "soap"))
    click = msgspec.structs.replace(purchase(1, "soap"), type="click")
    story.happened(click)
    story.finish()
    assert story.chapter is not None
    assert [item.item_id for item in story.chapter.clicks] == ["soap"]
    assert (story.chapter.hits, story.score.judged) == ([], 0)


def picture(story: Story, ranking: Ranking) -> str:
    """Return the live picture of a run, at its end."""
    console = Console(width=120, height=50, record=True, file=StringIO(), force_terminal=True)
    with Picture(console) as view:
        view.show(Progress("a shop", "done", 1.0, 5, story=story, ranking=ranking), last=True)
    return console.export_text()


LOADED = Ranking("tiny 7 ranks", 2 * DAY_MS)


@pytest.mark.parametrize(("number", "counted"), [(2 * DAY_MS - 1, 0), (2 * DAY_MS, 1)])
def test_story_counts_from_the_end_of_the_models_data_on(number: int, counted: int) -> None:
    """A recommendation made before it is told and not counted; one made right then is counted."""
    story = Story("h", {})
    story.counted_from_ms = LOADED.counted_from_ms
    story.happened(purchase(number, "milk"))
    story.recommended(answer(number, "bread"))
    story.happened(purchase(3 * DAY_MS, "bread"))
    story.finish()
    assert story.chapter is not None
    assert story.counts(story.chapter) == bool(counted)
    assert story.score.judged == story.score.right == story.score.hits == counted
    assert story.hero_score.judged == counted
    assert sum(story.score.sources.values()) == counted
    shown = picture(story, LOADED)
    assert "tiny 7 ranks" in shown
    assert ("nothing is counted yet; hits count from 1970-01-03 on" in shown) != counted
    assert ("(the model learned from this time)" in shown) != counted
    assert ("1 of 1 recommendations since 1970-01-03 had a hit" in shown) == counted


def test_picture_without_a_model_counts_everything() -> None:
    """Nothing is marked, and no date is named, where no model has learned from anything."""
    story = told("milk", "bread")
    story.recommended(answer(0, "bread"))
    story.finish()
    shown = picture(story, Ranking("this shop has no ranking model: the formula ranks"))
    assert "1 of 1 recommendations had a hit" in shown
    assert "the model learned" not in shown
    assert "this shop has no ranking model: the formula ranks" in shown


def test_summary_names_the_model_and_what_is_counted() -> None:
    """It says who answered how many, how many are counted, and from which day on."""
    story = told("milk", "bread")
    story.counted_from_ms = LOADED.counted_from_ms
    counts = msgspec.structs.replace(EVEN, model=("tiny", "7"))
    console = Console(width=100, record=True, file=StringIO())
    console.print(outcome(Result.of(counts, 1.0, [1.0], 1.0, LOADED), counts, story))
    text = re.sub(r"[│ ]+", " ", console.export_text())
    assert "... by the model tiny, version 7 3 " in text
    assert "... by the formula 1 " in text
    assert "... counted: a purchase followed, made from 1970-01-03 on 0 " in text


def test_lines_say_once_what_ranks() -> None:
    """Where there is no terminal to draw on, the sentence about the model is printed once."""
    console = Console(width=100, record=True, file=StringIO())
    view = Lines(console)
    for phase in ("one", "two", "three"):
        view.show(Progress("a shop", phase, 1.0, 5, ranking=LOADED))
    assert console.export_text().count("tiny 7 ranks") == 1


def test_ranking_is_told_from_what_the_worker_loaded(tmp_path: Path) -> None:
    """A date to count from comes from a loaded model alone; all else is a sentence."""
    folder = write_model(tmp_path / "model")
    loaded = Ranking.of(folder, Counts(model=("tiny", "7")), missing=False)
    assert loaded.counted_from_ms == 1_509_840_000_000
    assert loaded.sentence.startswith("tiny 7 ranks; hits count from 2017-11-05 on")
    for folder_, counts, missing, words in (
        (folder, Counts(refusal="corrupt"), False, "refused its ranking model (corrupt)"),
        (None, Counts(), True, "is not installed"),
        (None, Counts(), False, "has no ranking model"),
    ):
        ranking = Ranking.of(folder_, counts, missing=missing)
        assert words in ranking.sentence
        assert ranking.sentence.endswith(": the formula ranks")
        assert ranking.counted_from_ms is None


def test_model_with_a_broken_millisecond_counts_from_the_next(tmp_path: Path) -> None:
    """Data that ends within a millisecond takes in all of it."""
    data = {
        "source": "made up",
        "from": "1970-01-01T00:00:00Z",
        "until": "1970-01-01T01:00:00.0001+01:00",
        "events": 1,
    }
    folder = write_model(tmp_path, data=data)
    assert Ranking.of(folder, Counts(model=("m", "1")), missing=False).counted_from_ms == 1


def test_shop_has_its_model_if_it_is_there(tmp_path: Path) -> None:
    """The grocer's folder is used when it exists, the drawn shop has none, one's own wins."""
    assert SHOPS["completejourney"].model == MODEL_FOLDER
    assert SHOPS["synthetic"].model is None
    assert model_folder(None, tmp_path) == tmp_path
    assert model_folder(None, tmp_path / "missing") is None
    assert model_folder(None, None) is None
    assert model_folder(tmp_path / "own", tmp_path) == tmp_path / "own"


def test_packaged_model_can_be_read() -> None:
    """The model's folder ships with the program, and if it is there, a worker can take it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = project["tool"]["setuptools"]["package-data"]["stream_app.ops"]
    assert f"{MODEL_FOLDER.name}/*" in shipped
    if MODEL_FOLDER.is_dir():
        manifest = read_folder(MODEL_FOLDER, POOL_SIZE).manifest
        assert manifest.data.until == datetime(2017, 11, 5, tzinfo=UTC)


def test_worker_is_given_the_model(tmp_path: Path) -> None:
    """The folder reaches the worker as a setting; without one the environment stays as it is."""
    with_model = DemoWorker("b:1", tmp_path, tmp_path / "model", {})
    assert with_model._environment["STREAM_APP_MODEL"] == str(tmp_path / "model")
    assert "STREAM_APP_MODEL" not in DemoWorker("b:1", tmp_path, None, {})._environment


METRICS = """\
stream_app_records_total{outcome="processed"} 5.0
stream_app_outputs_total{topic="predictions"} 7.0
stream_app_predictions_total{horizon="7d",target="purchase"} 6.0
stream_app_predictions_total{horizon="28d",target="churn"} 2.0
stream_app_judged_total{horizon="7d",partition="0",target="purchase"} 3.0
stream_app_judged_total{horizon="7d",partition="1",target="purchase"} 1.0
stream_app_auc{horizon="7d",partition="0",target="purchase"} 0.1
stream_app_auc{horizon="7d",partition="all",target="purchase"} 0.75
stream_app_calibration_error{horizon="7d",partition="all",target="purchase"} NaN
stream_app_recommended_places_total{event="click",place="2"} 4.0
stream_app_recommended_sources_total{event="click",source="repeat"} 4.0
stream_app_answers_total{fallback="none",model="tiny"} 8.0
stream_app_answers_total{fallback="linear-formula",model="linear-formula"} 2.0
stream_app_model_info{name="tiny",version="7"} 1.0
stream_app_model_refusals_total{reason="too_slow"} 1.0
stream_app_model_refusals_total{reason="corrupt"} 0.0
"""


def test_counts_are_read_from_the_metrics() -> None:
    """Cases add up over partitions, figures are those of all, and what is not known is none."""
    counts = Counts.parse(METRICS)
    assert (counts.processed, counts.predictions) == (5, 7)
    assert counts.quality == (
        Quality("purchase", "7d", sent=6, judged=4, auc=0.75),
        Quality("churn", "28d", sent=2),
    )
    assert counts.places == {"click": {"2": 4}}
    assert counts.sources == {"click": {"repeat": 4}}
    assert (counts.model, counts.refusal) == (("tiny", "7"), "too_slow")
    assert (counts.model_answers, counts.fallback_answers) == (8, 2)


def test_picture_fits_a_small_terminal() -> None:
    """With every target, alerts and clicks there are 100 columns and no line is wrapped."""
    names = ("purchase", "comment", "share")
    quality = [Quality(name, "30m", 50_000, 40_000, 0.123, 0.789, 0.012) for name in names]
    quality += [Quality("purchase", "7d", 1), Quality("churn", "28d", 9_000, 8_000, 0.1, 0.8, 0.1)]
    shares = {str(place): 100 for place in range(1, 11)}
    counts = Counts(quality=tuple(quality), places={"impression": shares, "click": shares})
    alert = ChurnAlert(
        alert_id="a",
        user_id="u",
        timestamp=0,
        horizon_ms=1,
        risk=0.5,
        level="watch",
        reasons=["no purchase for 40 days"] * 3,
        offer="reminder",
        model="m",
        model_version="1",
    )
    console = Console(width=100, record=True, file=StringIO())
    console.print(learned(counts, {"watch": 1}, alert, 100))
    text = console.export_text()
    assert len(text.splitlines()) == lines_of(counts, alert)
    assert "buys nothing for 28 days" in text
    assert "no purchase for 40 days" in text
