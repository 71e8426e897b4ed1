"""The report as a page: what it says, what it escapes, and what it says when it cannot be made."""

import importlib.util
import json
import re
import socket
import threading
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from typer.testing import CliRunner

from stream_app.cli import app
from stream_app.config import DAY_MS, Settings, load
from stream_app.errors import ConfigError
from stream_app.event import Item, encode
from stream_app.ops.broker import EmbeddedBroker
from stream_app.ops.report import Order, Report, gather, measured, write
from stream_app.ops.report_metrics import MetricsError, Workers, ask
from stream_app.ops.report_page import page
from stream_app.ops.report_read import Taker
from stream_app.runtime.topics import create
from tests.command import run
from tests.conftest import START_MS, Record
from tests.ops.test_report_figures import alert, answer, deed, log, prediction

EVIL = "<script>alert('bread')</script>"
METRICS = """
stream_app_records_total{outcome="processed"} 120
stream_app_outputs_total{topic="recommendations"} 40
# TYPE stream_app_stage_seconds histogram
stream_app_stage_seconds_bucket{stage="score",le="0.001"} 4
stream_app_stage_seconds_bucket{stage="score",le="+Inf"} 4
stream_app_stage_seconds_sum{stage="score"} 0.002
stream_app_stage_seconds_count{stage="score"} 4
"""
# The parts of the page, and the pictures in each that the shop below gives rise to.
PICTURES = {
    "What came in": ["Events over time"],
    "What was recommended": [
        "Recommendations over time, by who ranked them",
        "Recommended items over time, by source",
        "Recommended most",
    ],
    "What the recommendations led to": [
        "Recommendations with a hit, over time",
        "By place",
        "By source",
    ],
    "How right the predictions were": [
        "Right or wrong over time (AUC)",
        "Do the probabilities mean what they say?",
    ],
    "Who may leave": [
        "From all users to the alerts",
        "Came back or stayed away",
        "Alerts over time",
        "Where users stand",
    ],
    "How fast it was": ["From the click to the recommendation", "Where the time goes"],
    "Is every record accounted for?": [],
}
SECONDS_MAX = 180.0  # the client tries for long before it gives a broker up


class Topics:
    """Topics in memory, of one partition each."""

    def __init__(self, settings: Settings, records: Mapping[str, Sequence[Record]]) -> None:
        self._records = {settings.topic(name): each for name, each in records.items()}

    def read(self, topic: str, take: Taker) -> None:
        """Hand the records of a topic over, in two pieces."""
        records = self._records.get(topic, ())
        half = len(records) // 2
        take(0, records[:half])
        take(0, records[half:])


class Images(HTMLParser):
    """The images of a page, and the names of all tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a tag in."""
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))


def shop(item: str = "i-1") -> dict[str, Sequence[Record]]:
    """Return a month of one shop whose users buy an item each day, as it was recommended."""
    events, answers, predictions = [], [], []
    for number in range(120):
        time_ms = number * DAY_MS // 4
        kind = "purchase" if number % 3 else "click"
        events.append(deed(number, kind, item, time_ms, user_id=f"u-{number % 4}"))
        if number % 3 == 0:
            answers.append(answer(number, time_ms, item, "i-2", user_id=f"u-{number % 4}"))
        chance = 0.9 if number % 2 else 0.2
        predictions.append(prediction(number, time_ms, chance, user_id=f"u-{number % 4}"))
    catalog = [Record(0, START_MS, item.encode(), encode(Item(item_id=item, title=EVIL)))]
    return {
        "events": log(*events),
        "recommendations": answers,
        "predictions": [*predictions, prediction(120, 5 * DAY_MS, 0.8, "churn")],
        "churn_alerts": [alert(0, "u-1", 5, "watch")],
        "catalog": catalog,
    }


def report_of(records: Mapping[str, Sequence[Record]], **over: Any) -> Report:
    """Return the figures of topics in memory."""
    settings = load(replay="true")
    workers = over.pop("workers", None)
    return gather(settings, Order(out=Path("x"), **over), workers, Topics(settings, records))


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


def test_page_escapes_what_comes_from_outside() -> None:
    """A title, an item and a user that look like HTML are text, and no script is on the page."""
    text = page(report_of(shop("<img src=x onerror=alert(1)>")))
    assert "&lt;script&gt;" in text
    assert EVIL not in text
    assert "<img src=x" not in text
    assert "script" not in Images(text).tags


def test_page_stands_alone_and_says_what_its_pictures_show() -> None:
    """Each part's pictures are inside the page, with a text in their place and figures below."""
    workers = Workers.of([("w", METRICS)])
    text = page(report_of(shop(), workers=workers, measured=measured("a shop", 9.0, [10.0, 20.0])))
    images = Images(text).images
    for title, pictures in PICTURES.items():
        part = text.split(f"<h2>{title}</h2>")[1].split("</section>")[0]
        assert [each for each in pictures if f"<h3>{each}</h3>" not in part] == [], title
        assert len(Images(part).images) >= len(pictures), title
    for image in images:
        assert (image["src"] or "").startswith("data:image/svg+xml;base64,")
        assert len(image["alt"] or "") > 20
    assert text.count("<summary>The figures</summary>") >= len(images)
    assert not re.findall(r'(?:src|href)="(?!data:image|#)', text)
    assert "url(" not in text


def test_page_of_the_same_topics_is_the_same() -> None:
    """Made twice, the pages differ in nothing but when they were made."""
    pages = [re.sub(r"at \d{4}-\S+Z", "", page(report_of(shop()))) for _ in range(2)]
    assert pages[0] == pages[1]


def test_page_of_nothing_says_what_to_do() -> None:
    """Empty topics give a page that says so in a sentence, without a picture."""
    text = page(report_of({}))
    assert "There is nothing in clickstream.events yet: send events" in text
    assert not Images(text).images


def test_page_of_little_says_that_it_is_not_enough() -> None:
    """Where there are too few cases, the page says so and draws nothing of them."""
    text = page(report_of({"events": log(deed(0, "view", "a", 0))}))
    assert text.count("Not enough data") >= 3
    assert "Nothing has been recommended yet" in text


def test_page_warns_of_a_model_whose_data_is_not_known() -> None:
    """Hits of a model are said to prove little, unless it is known where its data ends."""
    assert "The ranking model may have learned" in page(report_of(shop()))
    known = page(report_of(shop(), counted_from_ms=START_MS))
    assert "The ranking model may have learned" not in known


def test_page_compares_the_accounts_with_the_workers() -> None:
    """It says whether the workers count the same as the topics tell."""
    same = "The workers asked count the same"
    assert same in page(report_of(shop(), workers=Workers.of([("w", METRICS)])))
    less = METRICS.replace("} 120", "} 119")
    assert same not in page(report_of(shop(), workers=Workers.of([("w", less)])))


def test_page_tells_what_the_demo_measured() -> None:
    """Latencies and the rate are those that were handed over."""
    text = page(report_of(shop(), measured=measured("a shop", 1234.5, [10.0, 20.0, 30.0])))
    assert "1,234 events a second" in text
    assert "3 recommendations came back after" in text


def test_sample_is_said_on_the_page() -> None:
    """Where users are left out, the page says which share is joined."""
    text = page(report_of(shop(), limit=70))
    assert re.search(r"what is joined on this page is of \d+\.\d+% of them", text)


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_report_without_its_packages_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A sentence names the package and the extra, before any topic is read."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name == package else real(name, *rest),
    )
    with pytest.raises(ConfigError, match=rf"needs {package}: pip install 'stream-app\[report\]'"):
        write(load(), Order(out=tmp_path / "r.html"))


def test_report_without_a_broker_says_so(tmp_path: Path) -> None:
    """A broker that is not there is one sentence, and no traceback."""
    out = tmp_path / "r.html"
    done = run("report", "--brokers", f"127.0.0.1:{free_port()}", "--out", str(out))
    assert done.returncode == 2
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("stream-app:")]
    assert "no broker answers at 127.0.0.1" in line
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_report_into_no_folder_is_refused() -> None:
    """Where the page cannot be written, that is said first."""
    with pytest.raises(ConfigError, match=r"--out no/such/folder/r\.html: there is no folder"):
        write(load(), Order(out=Path("no/such/folder/r.html")))
    demo = CliRunner().invoke(app, ["demo", "--report", "no/such/folder/r.html"])
    assert str(demo.exception).startswith("--report no/such/folder/r.html: there is no folder")


def test_workers_that_do_not_answer_are_named() -> None:
    """A URL without a worker behind it, and one that is none, are named."""
    url = f"http://127.0.0.1:{free_port()}/metrics"
    with pytest.raises(MetricsError, match=re.escape(url)):
        ask([url])
    for none in ("ftp://worker", "http://[foo/metrics", "http://"):
        with pytest.raises(ConfigError, match="give a URL"):
            ask([none])


@pytest.mark.parametrize("text", ["<html>{", "", "process_open_fds 8.0\n"])
def test_metrics_that_are_none_of_a_worker_are_named(text: str) -> None:
    """A page that is no text of metrics, or of another program, is one sentence with the URL."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.handle_request).start()
        with pytest.raises(MetricsError, match=f":{server.server_port}/x answers, but not with a"):
            ask([f"127.0.0.1:{server.server_port}/x"])


def test_report_reads_the_embedded_broker_to_its_end(tmp_path: Path) -> None:
    """Without transactions, and where latest is one batch short, every record is counted."""
    out = tmp_path / "r.html"
    with EmbeddedBroker(tmp_path) as broker:
        settings = load(brokers=broker.address, replay="true")
        create(settings)
        empty = write(settings, Order(out=out))
        assert empty.events.consumed == 0
        assert "There is nothing in" in out.read_text(encoding="utf-8")
        with KafkaProducer(bootstrap_servers=broker.address) as producer:
            for name, records in shop().items():
                for record in records:
                    producer.send(
                        settings.topic(name),
                        key=record.key,
                        value=record.value,
                        partition=0,
                        timestamp_ms=record.timestamp,
                    )
            producer.flush()
        done = run("report", "--brokers", broker.address, "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["report"] == str(out)
    assert figures["events"]["consumed"] == 120
    assert figures["answers"]["count"] == 40
    assert figures["answers"]["hits"]["all"]["shown"] > 20
    assert "What the recommendations led to" in out.read_text(encoding="utf-8")
