"""A cycle of retraining: when it is due, what is promoted, and the served ranker on own data."""

import json
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from models.__main__ import commands
from models.data import Vocabulary
from models.ranker_network import Ranker
from models.ranker_trainer import CHECKPOINT, SETTINGS, TOKENS, carry_over, streamed
from models.retrain import (
    Last,
    Measured,
    Outcome,
    RetrainError,
    cycle,
    due,
    measure,
    measured,
    period,
)
from models.sources import Source
from models.train import TrainSettings, build, load, save
from stream_app.event import Event, encode
from stream_app.registry import Registry, Release
from stream_app.steps import FEATURE_NAMES
from tests.onnx_model import NAME, write_model
from tests.sources.shop_rows import write_csv

app = commands()

NOW = datetime(2026, 1, 8, tzinfo=UTC)
START_MS, DAY_MS = 1_700_000_000_000, 86_400_000


class StandIn:
    """Exports the small model of the tests, and finds it as good as it is told."""

    def __init__(self, version: str, ndcg: dict[str, float]) -> None:
        self.version, self.ndcg, self.kept = version, ndcg, False

    def train(self, into: Path) -> None:
        """Write the folder."""
        write_model(into, version=self.version)

    def judge(self, folder: Path) -> float:
        """Return what was told of this version."""
        return self.ndcg[json.loads((folder / "manifest.json").read_bytes())["version"]]

    def keep(self) -> None:
        """Note it."""
        self.kept = True


def test_a_cycle_promotes_what_is_not_much_worse(tmp_path: Path) -> None:
    """All are published; one that loses more than the bound does not serve, nor is it built on."""
    registry, ndcg = Registry(str(tmp_path / "registry")), {"1": 0.20, "2": 0.19, "3": 0.196}
    found = []
    for version in ndcg:
        trainer = StandIn(version, ndcg)
        found.append(cycle(trainer, registry, 0.005, NOW))
        assert trainer.kept == found[-1].promoted
    assert [each.promoted for each in found] == [True, False, True]
    assert [each.served_ndcg for each in found] == [None, 0.20, 0.20]
    assert found[1].reason == "worse by more than 0.005: 0.19000 to 0.20000"
    assert [each.version for each in registry.releases()] == ["1", "2", "3"]
    now = registry.served().now
    assert now is not None
    assert now.version == "3"
    assert [each.release.version for each in registry.served().promotions] == ["1", "3"]


def test_the_same_model_again_is_the_same_release(tmp_path: Path) -> None:
    """A cycle on data that has not grown publishes nothing twice and does not fail."""
    registry = Registry(str(tmp_path / "registry"))
    for _ in range(2):
        outcome = cycle(StandIn("1", {"1": 0.2}), registry, 0.0, NOW)
    assert outcome.promoted
    assert len(registry.served().promotions) == len(registry.releases()) == 1


def test_a_cycle_is_due_by_time_drift_and_auc() -> None:
    """The first always; then after so long, after a drift, or below an AUC; not otherwise."""
    release = Release(NAME, "1", "0")
    outcome = Outcome(release, 0.2, None, None, served_saw_window=False, promoted=True, reason="")
    last, week = Last(NOW - timedelta(days=3), 5.0, outcome), timedelta(days=7)
    assert due(None, NOW, None, None, None) == "there was none yet"
    assert due(last, NOW, week, None, None) is None
    assert due(last, NOW + timedelta(days=4), week, None, None) == "the last was 2026-01-05 00:00"
    assert due(last, NOW, week, Measured(5.0, 0.7), 0.6) is None
    assert due(last, NOW, week, Measured(7.0, 0.7), 0.6) == "2 drifts since the last"
    assert due(last, NOW, None, Measured(1.0, None), 0.6) == "1 drifts since the last"  # restarted
    assert due(last, NOW, week, Measured(5.0, 0.55), 0.6) == "an AUC of 0.550, below 0.6"
    assert period("2w") == timedelta(days=14)
    with pytest.raises(RetrainError, match="such as 7d"):
        period("soon")


def test_a_workers_metrics_are_read() -> None:
    """Drifts for the worse are added up; of the AUCs the least counts, NaN does not."""
    text = (
        "# TYPE stream_app_drifts counter\n"
        'stream_app_drifts_total{target="purchase",horizon="session",direction="worse"} 2\n'
        'stream_app_drifts_total{target="churn",horizon="28d",direction="worse"} 1\n'
        'stream_app_drifts_total{target="churn",horizon="28d",direction="better"} 9\n'
        "# TYPE stream_app_auc gauge\n"
        'stream_app_auc{target="purchase",horizon="session"} 0.71\n'
        'stream_app_auc{target="churn",horizon="28d"} 0.64\n'
        'stream_app_auc{target="share",horizon="session"} NaN\n'
    )
    assert measured(text) == Measured(3.0, 0.64)
    assert measured("") == Measured(0.0, None)


class Worker(BaseHTTPRequestHandler):
    """Answers as a worker's port of metrics does, with one drift."""

    def do_GET(self) -> None:
        """Send the metrics; nothing else is there."""
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(b'stream_app_drifts_total{direction="worse"} 1\n')

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_worker_is_asked_over_http() -> None:
    """What it answers is read; one that does not answer, or is no URL, is a sentence."""
    with HTTPServer(("127.0.0.1", 0), Worker) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert measure(f"{url}/metrics") == Measured(1.0, None)
        with pytest.raises(RetrainError, match="404"):
            measure(f"{url}/elsewhere")
        server.shutdown()
    with pytest.raises(RetrainError, match="start the worker, or give another --metrics"):
        measure(f"{url}/metrics")
    with pytest.raises(RetrainError, match="is no URL"):
        measure("localhost:8000/metrics")


def write_shop(path: Path) -> Path:
    """Write purchases: every user goes round twelve items, two a basket, one basket a day."""
    events = [
        Event(
            event_id=f"{user}-{day}-{line}",
            type="purchase",
            user_id=f"u-{user}",
            item_id=f"i-{(user + day + line) % 12}",
            order_id=f"{user}-{day}" if user % 2 else None,
            timestamp=START_MS + day * DAY_MS + user * 60_000,
        )
        for day in range(20)
        for user in range(8)
        for line in range(2)
    ]
    gone = Event(event_id="e", type="erase", user_id="u-1", timestamp=START_MS + 19 * DAY_MS)
    path.write_bytes(b"".join(encode(each) + b"\n" for each in [*events, gone]))
    return path


def write_other_shop(path: Path) -> list[str]:
    """Write the same purchases in another shop's columns; return the words that name both files."""
    events = [msgspec.json.decode(line) for line in write_shop(path).read_bytes().splitlines()]
    rows = [
        {"who": each["user_id"], "what": each["item_id"], "when": each["timestamp"], "row": number}
        for number, each in enumerate(events)
        if each["type"] == "purchase"
    ]
    mapping = path.with_suffix(".toml")
    mapping.write_text(
        '[event]\ntype = { constant = "purchase" }\nuser_id = "who"\nitem_id = "what"\n'
        'timestamp = "when"\nevent_id = { template = "row-{row}" }\n'
    )
    table = write_csv(path.with_suffix(".csv"), rows)
    return ["--data", str(table), "--mapping", str(mapping)]


def test_any_source_becomes_requests(tmp_path: Path) -> None:
    """Every basket from a time on is asked for, by order or by time; of erased users only later."""
    source = Source(str(write_shop(tmp_path / "shop.jsonl")))
    found = streamed(source, 2, START_MS + 10 * DAY_MS, START_MS + 30 * DAY_MS).before_baskets()
    # Ten baskets of seven users; of the erased one none, since no consent came after.
    assert len(found) == 70
    assert set(found.basket_sizes.tolist()) == {2}
    assert np.all(np.diff(found.time_ms) >= 0)
    assert found.bought.any(axis=1).mean() > 0.9
    assert found.history[0].any()


def test_weights_are_carried_over_by_the_names_of_items() -> None:
    """An item keeps its vector under a new token, a new one has a fresh one; the rest is copied."""
    settings, neutral = TrainSettings(width=8, hidden=4), (jnp.zeros(len(FEATURE_NAMES)),) * 2
    before, now = Vocabulary(["a", "b", "c"]), Vocabulary(["c", "d", "a", "e"])
    last = build(settings, before.size, *neutral)
    model: Ranker = build(TrainSettings(width=8, hidden=4, seed=1), now.size, *neutral)
    fresh = np.asarray(model.encoder.items.embedding[...])
    carry_over(last, before, model, now)
    old, new = (np.asarray(each.encoder.items.embedding[...]) for each in (last, model))
    assert np.array_equal(new[[0, 1, 2, 4]], old[[0, 1, 4, 2]])
    assert np.array_equal(new[[3, 5]], fresh[[3, 5]])
    for each in ("inner", "trait"):
        assert np.array_equal(getattr(last, each).kernel[...], getattr(model, each).kernel[...])


def kept_ranker(folder: Path) -> Ranker:
    """Return the network that the next training starts from."""
    settings = msgspec.json.decode((folder / SETTINGS).read_bytes(), type=TrainSettings)
    tokens = Vocabulary((folder / TOKENS).read_text("utf-8").splitlines()).size
    model = build(settings, tokens, *(jnp.zeros(len(FEATURE_NAMES)),) * 2)
    load(model, folder / CHECKPOINT)
    return model


def test_retrain_once_makes_a_release_that_serves(tmp_path: Path) -> None:
    """From purchases in our schema to a promoted release; then from another's, by its mapping.

    The second cycle starts from the weights that are kept, since its items have the same names.
    Each leaves a model card and no checkpoints.
    """
    own, registry = write_shop(tmp_path / "shop.jsonl"), tmp_path / "registry"
    sources = (["--data", str(own)], write_other_shop(tmp_path / "other.jsonl"))
    words = ["retrain", "--registry", str(registry), "--once"]
    words += ["--folder", str(tmp_path / "kept"), "--window-days", "4", "--epochs", "1"]
    words += ["--partitions", "1", "--worse-max", "1", "--licence", "CC0"]
    for number, data in enumerate(sources):
        done = CliRunner().invoke(app, [*words, *data])
        assert done.exit_code == 0, done.output
        outcome = json.loads(done.stdout.splitlines()[-1])
        assert outcome["promoted"]
        assert (outcome["served_ndcg"] is None) == (number == 0)
        assert 0.0 < outcome["ndcg"] <= 1.0
        assert not (tmp_path / "kept" / "checkpoints").exists()
        model = kept_ranker(tmp_path / "kept")
        bias = np.asarray(model.encoder.bias[...])
        # A network begins with zeros there, and few steps of training change little.
        assert np.abs(bias - number).max() < 0.1
        model.encoder.bias[...] = jnp.ones_like(bias)
        save(model, tmp_path / "kept" / CHECKPOINT)
    releases = Registry(str(registry)).releases()
    assert len(releases) == 2
    card = (registry / releases[-1].place / "README.md").read_text("utf-8")
    assert "newest window, which it never saw: recall_at_10" in card
    assert "**Licence.** CC0" in card
    assert (tmp_path / "kept" / "curve.png").exists()
