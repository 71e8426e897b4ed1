"""Made-up rows of other shops, in the forms that the ready mappings read."""

import csv
import random
from pathlib import Path
from typing import Any

REES46_COLUMNS = (
    *("event_time", "event_type", "product_id", "category_id", "category_code", "brand"),
    *("price", "user_id", "user_session"),
)
_CATEGORIES = ("home.kitchen.kettle", "home.kitchen.pan", "toys.puzzle", "")
_BRANDS = ("nord", "sued", "")


def rees46_rows(count: int, seed: int = 0, users: int = 20) -> list[dict[str, str]]:
    """Return rows in the form of REES46's open data, in time order, all different."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        product = rng.randrange(1, 30)
        user = rng.randrange(users)
        seconds = 3 * number
        rows.append(
            {
                "event_time": (
                    f"2019-10-01 {seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02} UTC"
                ),
                "event_type": rng.choice(("view", "view", "view", "cart", "purchase")),
                "product_id": str(1_000 + product),
                "category_id": str(9_000 + product % 4),
                "category_code": _CATEGORIES[product % 4],
                "brand": _BRANDS[product % 3],
                "price": f"{product * 3.5:.2f}",
                "user_id": str(500 + user),
                "user_session": f"session-{user}-{number // 200}",
            }
        )
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as CSV; the first tells the columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
