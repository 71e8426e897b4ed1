"""``python -m models`` on another shop's rows: a mapping is all that it takes."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.__main__ import commands
from tests.sources.shop_rows import REES46_COLUMNS, write_csv

app = commands()

BEGAN = datetime(2019, 10, 1, tzinfo=UTC)
DAYS, USERS, ITEMS = 20, 8, 12


def purchases() -> list[tuple[datetime, str, str]]:
    """Return times, users and products: every user goes round twelve, two a day."""
    return [
        (BEGAN + timedelta(days=day, minutes=user), f"{500 + user}", f"{(user + day + line) % 12}")
        for day in range(DAYS)
        for user in range(USERS)
        for line in range(2)
    ]


def write_rees46(path: Path) -> Path:
    """Write them as REES46 does, a row a line, a view before each day's first."""
    rows = []
    for time, user, item in purchases():
        row = dict.fromkeys(REES46_COLUMNS, "") | {
            "event_time": f"{time:%Y-%m-%d %H:%M:%S} UTC",
            "event_type": "purchase",
            "product_id": item,
            "price": "3.50",
            "user_id": user,
            "user_session": f"{user}-{time:%d}",
        }
        seen = f"{time - timedelta(seconds=30):%Y-%m-%d %H:%M:%S} UTC"
        rows += [row | {"event_type": "view", "event_time": seen}, row]
    return write_csv(path, rows)


def write_ga4(path: Path) -> Path:
    """Write them as Google Analytics exports them: an order an object, its lines within."""
    orders: dict[tuple[datetime, str], list[str]] = {}
    for time, user, item in purchases():
        orders.setdefault((time, user), []).append(item)
    rows = [
        {
            "event_name": "purchase",
            "event_timestamp": int(time.timestamp() * 1e6),
            "user_pseudo_id": user,
            "ecommerce": {"transaction_id": f"{user}-{time:%d}"},
            "items": [{"item_id": item, "price": 3.5, "quantity": "1"} for item in items],
        }
        for (time, user), items in orders.items()
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return the file of a shop whose columns are its own."""
    return write_rees46(tmp_path / "shop.csv")


def ran(*words: str) -> str:
    """Run a command that must succeed; return the last line that it printed."""
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()[-1] if done.stdout else ""


def test_data_is_the_same_whatever_its_schema(shop: Path, tmp_path: Path) -> None:
    """One shop's purchases make the same sequences as rows of REES46 and as objects of GA4."""
    texts = []
    files = ((shop, "rees46"), (write_ga4(tmp_path / "shop.jsonl"), "ga4"))
    for number, (path, mapping) in enumerate(files):
        out = tmp_path / f"{number}.txt"
        words = ("data", "--data", str(path), "--mapping", mapping, "--types", "purchase")
        card = json.loads(ran(*words, "--sequences", str(out), "--json"))
        assert (card["users"], card["items"]) == (USERS, ITEMS)
        assert card["rejects"] == {}
        texts.append(sorted(out.read_text("utf-8").splitlines()))
    assert texts[0] == texts[1]
    assert len(texts[0]) == USERS


def test_network_is_fitted_to_mapped_rows(shop: Path, tmp_path: Path) -> None:
    """A network learns another shop's items from its rows, and names them as the shop does."""
    words = ("train", "--data", str(shop), "--mapping", "rees46", "--model", "mult-vae")
    found = json.loads(ran(*words, "--folder", str(tmp_path), "--width", "4", "--epochs", "1"))
    assert found["epochs"] == 1
    names = (tmp_path / "items.txt").read_text("utf-8").split()
    assert sorted(names) == sorted({item for _, _, item in purchases()})
