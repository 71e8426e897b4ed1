"""A real Prometheus scrapes real workers: each query of dashboard, rules and alerts has data."""

import asyncio
import json
import math
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.harness import Sent, WorkerProcess, produce, read_log
from stream_app import metrics
from stream_app.clock import now_ms
from stream_app.config import load
from stream_app.event import Recommendation, encode, to_ms
from stream_app.ops.demo_child import Child, free_port
from stream_app.registry import Registry
from stream_app.runtime import topics
from stream_app.sources.produce import ProduceSettings
from stream_app.sources.produce import produce as send_records
from stream_app.sources.synthetic import SyntheticShop
from tests.broker.kafka import KafkaServer
from tests.broker.workers import PARTITIONS, Scene, scene
from tests.onnx_model import POOL, write_model

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RECORDS = 6_000  # enough that 1,000 predictions of a kind are judged
LIVE = 400  # events in a wave
WAVES, WAVE_SECONDS = 2, 2.5  # each falls between other scrapes
SCRAPES = 4  # that both workers answer in a row, one each second, before anything is asked
WAIT_SECONDS = 60.0
# As Grafana fills them in: all workers, and a range of several scrapes.
VARIABLES = {"$instance": ".*", "$__rate_interval": "1m"}
SHOP = SyntheticShop()


class Prometheus(Child):
    """A Prometheus that scrapes workers each second, with the rules of deploy/.

    Parameters
    ----------
    folder
        Where its settings and data go.
    targets
        Addresses of the workers.
    """

    def __init__(self, folder: Path, targets: list[str]) -> None:
        program = shutil.which("prometheus")
        assert program, "prometheus is missing: install Debian's package prometheus"
        self.port = free_port()
        self.targets = targets
        folder.mkdir()
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(DEPLOY / "prometheus" / f"{n}.yml") for n in ("rules", "alerts")],
            "scrape_configs": [
                {"job_name": "stream_app", "static_configs": [{"targets": targets}]}
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(settings))  # JSON is YAML
        command = [
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]
        super().__init__(command, folder / "prometheus.log")

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the HTTP API."""
        query = f"{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}/api/v1/{query}", timeout=10
        ) as answer:
            return json.load(answer)["data"]

    def values(self, query: str) -> list[float]:
        """Return the numbers that a query gives now, without NaN."""
        found = [float(each["value"][1]) for each in self.ask("query", query=query)["result"]]
        return [value for value in found if not math.isnan(value)]

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules as Prometheus has evaluated them."""
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]


def until(good: Callable[[], bool], what: str) -> None:
    """Wait until something holds; what cannot be asked yet does not."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        with suppress(OSError):
            if good():
                return
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def live_scene(brokers: str, folder: Path) -> Scene:
    """Make the topics of a live shop."""
    settings = load(brokers=brokers, topic_prefix="live.", app="app-live", partitions=PARTITIONS)
    topics.create(settings)
    names = ("brokers", "topic_prefix", "app", "guarantee")
    environment = {f"STREAM_APP_{name.upper()}": str(getattr(settings, name)) for name in names}
    return Scene(settings, environment, folder / "live.log")


def send_live(stage: Scene, first: int) -> None:
    """Send events that happen now."""
    now = now_ms()
    events = list(SHOP.events(first + LIVE))[first:]
    records = [
        Sent(None, e.user_id.encode(), encode(msgspec.structs.replace(e, timestamp=now)), now)
        for e in events
    ]
    asyncio.run(produce(stage.settings, records, PARTITIONS))


def reactions(stage: Scene) -> list[Sent]:
    """Return what users do about the newest recommendation of each, after all that was sent."""
    topic = stage.settings.topic("recommendations")
    logs = asyncio.run(read_log(stage.settings.brokers, topic, PARTITIONS))
    newest = {}
    for record in (record for log in logs.values() for record in log):
        answer = msgspec.json.decode(record.value or b"", type=Recommendation)
        newest[answer.user_id] = answer
    end_ms = max(answer.timestamp for answer in newest.values())
    events = [event for answer in newest.values() for event in SHOP.react(answer)]
    events.sort(key=lambda event: to_ms(event.timestamp))
    times = [max(to_ms(event.timestamp), end_ms) for event in events]
    return [
        Sent(None, e.user_id.encode(), encode(msgspec.structs.replace(e, timestamp=at)), at)
        for e, at in zip(events, times, strict=True)
    ]


@pytest.fixture(scope="module")
def prometheus(
    kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Run a replay with a ranking model and a live shop, scraped all the while."""
    folder = tmp_path_factory.mktemp("prometheus")
    replay, live = scene(kafka.bootstrap, "scraped", folder), live_scene(kafka.bootstrap, folder)
    item_ids = [item.item_id for item in SHOP.items()]
    ports = [free_port(), free_port()]
    registry = Registry(str(folder / "registry"))
    model = registry.publish(write_model(folder / "ranker", item_ids=item_ids), POOL)
    registry.promote(model, datetime(2026, 1, 1, tzinfo=UTC))
    registry.set_shadow(model)
    workers: list[WorkerProcess] = [
        replay.worker(
            STREAM_APP_METRICS_PORT=str(ports[0]),
            STREAM_APP_REGISTRY=registry.url,
            STREAM_APP_MODEL_MS_MAX="1000",
        ),
        live.worker(STREAM_APP_METRICS_PORT=str(ports[1])),
    ]
    for stage in (replay, live):
        topic = stage.settings.topic("catalog")
        send_records(SHOP.item_records(), ProduceSettings(brokers=kafka.bootstrap, topic=topic))
    records = [
        Sent(None, key, value, time_ms or 0) for key, value, time_ms in SHOP.records(RECORDS)
    ]
    try:
        with Prometheus(folder / "server", [f"127.0.0.1:{port}" for port in ports]) as server:
            for worker in workers:
                worker.start()
            until(
                lambda: sum(server.values("stream_app_ready")) == len(workers),
                f"the workers did not get ready: {replay.said()} {live.said()}",
            )
            asyncio.run(produce(replay.settings, records, PARTITIONS))
            send_live(live, 0)
            until(
                lambda: (
                    sum(server.values("stream_app_lag_records")) == 0
                    and sum(server.values("stream_app_records_total")) >= RECORDS + LIVE
                ),
                f"not all was processed: {replay.said()} {live.said()}",
            )
            reacted = reactions(replay)
            for wave in range(WAVES):
                part = reacted[wave * len(reacted) // WAVES : (wave + 1) * len(reacted) // WAVES]
                asyncio.run(produce(replay.settings, part, PARTITIONS))
                send_live(live, (wave + 1) * LIVE)
                time.sleep(WAVE_SECONDS)
            # A worker on a busy machine misses scrapes; a rate takes two of them.
            until(
                lambda: (
                    server.values(f"min_over_time(up[{SCRAPES}s])") == [1, 1]
                    and sum(server.values("stream_app_lag_records")) == 0
                ),
                f"not all was scraped: {replay.said()} {live.said()}",
            )
            yield server
    finally:
        for worker in workers:
            worker.end()


def test_every_panel_has_data(prometheus: Prometheus) -> None:
    """Each query of each panel gives a number, once the variables are filled in."""
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "stream_app.json").read_text())
    empty, asked = [], 0
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            asked += 1
            if not prometheus.values(query):
                empty.append(f"{panel['title']}: {query}")
    assert not empty, "\n".join(empty)
    assert asked > 50


def test_the_variable_of_the_dashboard_has_the_workers(prometheus: Prometheus) -> None:
    """What the dashboard offers to choose among are the workers that are scraped."""
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "stream_app.json").read_text())
    (variable,) = board["templating"]["list"]
    asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
    assert asked, variable["query"]
    assert f"${variable['name']}" in VARIABLES
    values = prometheus.ask(f"label/{asked[2]}/values", **{"match[]": asked[1]})
    assert sorted(values) == sorted(prometheus.targets)


@pytest.mark.parametrize("page", ["howto/watch-it.md", "runbook.md"])
def test_every_expression_of_a_page_has_data(prometheus: Prometheus, page: str) -> None:
    """What a page tells people to ask Prometheus gives a number."""
    text = (DEPLOY.parent / "docs" / page).read_text(encoding="utf-8")
    queries = re.findall(r"`([^`\n]*\bstream_app_\w+[^`\n]*[)}])`", text)
    assert len(queries) > 5
    assert not [query for query in queries if not prometheus.values(query)]


def test_every_rule_is_evaluated_and_has_data(prometheus: Prometheus) -> None:
    """Prometheus evaluates each rule without an error, and each gives a number, less a threshold.

    An alert is a query and a threshold.
    """
    rules = prometheus.rules()
    wrong = [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]
    assert not wrong, "\n".join(wrong)
    empty = []
    for rule in rules:
        query = rule["query"]
        if rule["type"] == "alerting":
            parts = re.fullmatch(r"(.+) (?:<=|<|>) [\d.]+", query)
            assert parts, f"{rule['name']} is not a query and a threshold: {query}"
            query = parts[1]
        if not prometheus.values(query):
            empty.append(f"{rule['name']}: {query}")
    assert not empty, "\n".join(empty)
    assert {rule["type"] for rule in rules} == {"alerting", "recording"}


def test_metrics_of_a_worker_are_well_named(prometheus: Prometheus) -> None:
    """Both workers are up; promtool finds nothing wrong with their metrics, which are bounded."""
    assert prometheus.values("up") == [1, 1]
    known = prometheus.ask("metadata")
    ours = {name for name in known if name.startswith("stream_app_")}
    assert len(ours) > 40
    assert all(entry["help"] and entry["type"] for name in ours for entry in known[name])
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: install Debian's package prometheus"
    for target in prometheus.targets:
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
            text = answer.read()
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, check=False, capture_output=True
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
        lines = [line for line in text.decode().splitlines() if line.startswith("stream_app_")]
        assert len(lines) <= metrics.series_max(PARTITIONS)
