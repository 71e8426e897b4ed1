"""``python -m models evaluate --report DIR --data FILE``: figures by brute force."""

import json
import re
from math import log2
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from models.__main__ import commands
from models.benchmark import UnknownModelError
from models.evaluation_networks import BASELINES, How, chosen
from models.sources import SourceError
from stream_app.event import Event, encode
from stream_app.hashing import id_hash
from tests.training.rounds import MINUTE_MS, START_MS, write_rounds

app = commands()

USERS, ITEMS, LENGTH = 48, 16, 10
NETWORKS = {"Mult-VAE"}  # the others learn in the tests of their own


def histories(path: Path) -> list[list[str]]:
    """Return the items of each user in the order of time."""
    found: dict[str, list[str]] = {}
    for line in path.read_text("utf-8").splitlines():
        event = json.loads(line)
        found.setdefault(event["user_id"], []).append(event["item_id"])
    return list(found.values())


def again(user: int) -> Event:
    """Return an event about the first item that a user of the rounds had, at the very end."""
    return Event(
        event_id=f"{user}-again",
        type="view",
        user_id=f"u-{user}",
        item_id="i-0",
        timestamp=START_MS + 2 * LENGTH * MINUTE_MS,
    )


def test_report_on_any_data_by_brute_force(tmp_path: Path) -> None:
    """All users are asked for their last item; popularity's figures are those of plain loops."""
    path, folder = write_rounds(tmp_path / "shop.jsonl", USERS, ITEMS, LENGTH), tmp_path / "report"
    past = histories(path)
    had = [number for number, items in enumerate(past) if "i-0" in items]
    with path.open("ab") as file:
        file.writelines(encode(again(user)) + b"\n" for user in had)  # nothing new
    words = ["evaluate", "--report", str(folder), "--data", str(path), "--width", "8"]
    done = CliRunner().invoke(app, [*words, "--epochs", "1", "--networks", "mult-vae"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_bytes())["networks"]
    models = found["rankings"]["models"]
    assert models.keys() == BASELINES.keys() | NETWORKS
    assert {name: len(each) for name, each in found["epochs"].items()} == dict.fromkeys(NETWORKS, 1)

    # A tenth of the events is one of everybody's ten: eight are learned from, one validates.
    assert (found["users"], found["events"]) == (USERS, USERS * (LENGTH - 2))
    users = {f"i-{item}": 0 for item in range(ITEMS)}
    for items in past:
        for item in items[:-2]:
            users[item] += 1
    places, bits = [], []
    for *seen, wanted in past:
        left = sorted(users.keys() - set(seen), key=lambda item: (-users[item], id_hash(item)))
        places.append(left.index(wanted) + 1)
        bits += [-log2(users[item] / sum(users.values())) for item in left]
    for depth in (5, 10, 20):
        hits = [place for place in places if place <= depth]
        recall = len(hits) / USERS
        wanted_figures = {
            "recall": recall,
            "precision": recall / depth,
            "f1": 2 * recall / (depth + 1),
            "ndcg": sum(1 / log2(place + 1) for place in hits) / USERS,
            "mrr": sum(1 / place for place in hits) / USERS,
        }
        for name, value in wanted_figures.items():
            measured = models["popularity"]["measures"][f"{name}@{depth}"]
            assert measured["value"] == pytest.approx(value, abs=1e-5), (name, depth)
            assert measured["low"] <= measured["value"] <= measured["high"]
    novelty = models["popularity"]["measures"]["novelty@10"]["value"]
    assert novelty == pytest.approx(sum(bits) / len(bits), abs=1e-4)
    assert models["popularity"]["coverage"] == 1.0
    assert models["personal frequency"]["measures"] == models["popularity"]["measures"]
    assert models["forward co-visitation"]["measures"]["mrr@5"]["value"] == 1.0, "a circle"
    assert found["rankings"]["base"] in {"forward co-visitation", "EASE"}
    assert sum(found["rankings"]["parts"]["popularity"].values()) == USERS

    page = (folder / "index.md").read_text("utf-8")
    summary = page.split("\n## ")[0]
    assert re.search(r"ranking all items \| (forward co-visitation|EASE) \| NDCG@10 1", summary)
    pictures = set(re.findall(r"!\[.+?\]\((.+?)\)", page))
    assert pictures == {f"networks-{name}.png" for name in ("recall", "parts", "learning")}
    assert all((folder / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)


def test_data_without_a_report_is_refused(tmp_path: Path) -> None:
    """There is a sentence on what to give, since nothing would be left of the work."""
    path = write_rounds(tmp_path / "shop.jsonl")
    done = CliRunner().invoke(app, ["evaluate", "--data", str(path)])
    assert isinstance(done.exception, SourceError)
    assert "give --report" in str(done.exception)


def test_all_four_networks_are_judged_by_default() -> None:
    """Without a choice each network is there, as wide as asked; an unknown name is refused."""
    found = chosen(How(width=8), USERS)
    assert set(found) == {"Mult-VAE", "CFGAN", "LRURec", "SASRec"}
    assert set(chosen(How(networks=("sasrec", "cfgan")), USERS)) == {"SASRec", "CFGAN"}
    with pytest.raises(UnknownModelError, match="mult-vae"):
        chosen(How(networks=("bert",)), USERS)
