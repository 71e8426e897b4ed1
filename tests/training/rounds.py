"""Data for training runs of seconds: users who go round a circle of items."""

from pathlib import Path

import numpy as np

from models.fit import FitSettings
from stream_app.event import Event, encode

START_MS, MINUTE_MS = 1_700_000_000_000, 60_000
TINY = FitSettings(width=8, blocks=1, places=72, epochs=3)  # nine histories a step


def write_rounds(path: Path, users: int = 48, items: int = 16, length: int = 10) -> Path:
    """Write the views of users as JSON lines, all histories as long as each other."""
    starts = np.random.default_rng(0).integers(items, size=users).tolist()
    events = [
        Event(
            event_id=f"{user}-{place}",
            type="view",
            user_id=f"u-{user}",
            item_id=f"i-{(start + place) % items}",
            timestamp=START_MS + place * MINUTE_MS + user,
        )
        for place in range(length)
        for user, start in enumerate(starts)
    ]
    path.write_bytes(b"".join(encode(event) + b"\n" for event in events))
    return path
