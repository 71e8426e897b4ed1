"""Dead letters for people and scripts: counts and a table, one with all its bytes, a replay."""

import base64
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stream_app.event import rfc3339
from stream_app.ops.dead_letters import DeadLetter
from stream_app.ops.dead_letters_replay import Replayed

_VALUE_CHARACTERS_MAX = 4_000
_KEY_CHARACTERS_MAX = 40
_LEFT_SHOWN = 20


def summary(letters: Sequence[DeadLetter], last: int) -> dict[str, Any]:
    """Return counts of dead letters by status, reason and source partition, and the last of them.

    `first` and `until` are the times of the oldest and the newest rejected record.
    """
    times = [each.time_ms for each in letters]
    newest = sorted(letters, key=lambda each: each.time_ms)[-last:] if last else []
    return {
        "dead_letters": len(letters),
        **{name: sum(each.status == name for each in letters) for name in ("open", "replayed")},
        "reasons": dict(Counter(each.reason for each in letters).most_common()),
        "partitions": dict(sorted(Counter(each.source_partition for each in letters).items())),
        "first": rfc3339(min(times)) if times else None,
        "until": rfc3339(max(times)) if times else None,
        "last": [
            {
                "id": each.id,
                "time": rfc3339(each.time_ms),
                "reason": each.reason,
                "detail": each.detail,
                "key": safe(each.key),
                "bytes": each.size,
                "status": each.status,
                "replayed_from": each.parent,
            }
            for each in newest
        ],
    }


def details(letter: DeadLetter, all_letters: Sequence[DeadLetter]) -> dict[str, Any]:
    """Return all that is known of a dead letter, its ancestors and what became of it.

    ``value`` is its text, null where it is not UTF-8; ``value_base64`` its bytes.
    """
    value = letter.value
    return {
        "id": letter.id,
        "status": letter.status,
        "replayed_at": rfc3339(letter.replayed_ms) if letter.replayed_ms else None,
        "reason": letter.reason,
        "detail": letter.detail,
        "source": f"{letter.source_topic}-{letter.source_partition}-{letter.source_offset}",
        "time": rfc3339(letter.time_ms),
        "ancestors": ancestors(letter, all_letters),
        "rejected_again_as": [each.id for each in all_letters if each.parent == letter.id],
        "headers": {name: safe(text) for name, text in letter.headers},
        "key": safe(letter.key),
        "value": None if value is None or not _is_text(value) else value.decode(),
        "value_base64": None if value is None else base64.b64encode(value).decode(),
    }


def ancestors(letter: DeadLetter, all_letters: Sequence[DeadLetter]) -> list[str]:
    """Return the ids of the dead letters that were put back and became this one, nearest first."""
    parents = {each.id: each.parent for each in all_letters}
    line: list[str] = []
    parent = letter.parent
    while parent is not None and parent not in line:
        line.append(parent)
        parent = parents.get(parent)
    return line


def safe(data: bytes | None) -> str | None:
    r"""Return bytes as text that no terminal acts upon: what cannot be printed is escaped.

    >>> safe(b"a\x1b[31m\xff")
    'a\\x1b[31m\\xff'
    """
    if data is None:
        return None
    text = data.decode("utf-8", "backslashreplace")
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def print_summary(console: Console, letters: Sequence[DeadLetter], last: int) -> None:
    """Print counts, and a table of the last dead letters, newest first."""
    said = summary(letters, last)
    if not letters:
        console.print("no dead letters")
        return
    console.print(
        f"{said['dead_letters']} dead letters, {said['open']} open, {said['replayed']} replayed, "
        f"of records from {said['first']} to {said['until']}"
    )
    for title, name in (("reason", "reasons"), ("source partition", "partitions")):
        table = Table(title, "count")
        for each, count in said[name].items():
            table.add_row(str(each), str(count))
        console.print(table)
    table = Table("id", "time", "reason", "key", "bytes", "status")
    for row in reversed(said["last"]):
        key = escape((row["key"] or "")[:_KEY_CHARACTERS_MAX])
        table.add_row(
            escape(row["id"]), row["time"], row["reason"], key, str(row["bytes"]), row["status"]
        )
    console.print(table)


def print_details(console: Console, letter: DeadLetter, all_letters: Sequence[DeadLetter]) -> None:
    """Print all that is known of a dead letter; JSON is indented, other bytes are escaped."""
    said = details(letter, all_letters)
    for name in ("id", "status", "replayed_at", "reason", "detail", "source", "time", "key"):
        if said[name] is not None:
            text = safe(str(said[name]).encode()) if name == "detail" else said[name]
            console.print(f"{name}: {text}", markup=False, highlight=False, emoji=False)
    for name in ("ancestors", "rejected_again_as"):
        if said[name]:
            console.print(f"{name}: {', '.join(said[name])}", markup=False, highlight=False)
    for name, text in said["headers"].items():
        console.print(f"header {name}: {text}", markup=False, highlight=False, emoji=False)
    body = "(no value)" if letter.value is None else _pretty(letter.value)
    cut = body[:_VALUE_CHARACTERS_MAX]
    console.print(f"\n{cut}", markup=False, highlight=False, emoji=False)
    if len(body) > len(cut):
        console.print(f"... {letter.size} bytes in all; --json gives them", style="dim")


def _pretty(value: bytes) -> str:
    """Return JSON indented, its strings escaped; anything else as one escaped line."""
    try:
        msgspec.json.decode(value)
        lines = msgspec.json.format(value, indent=2).splitlines()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return safe(value) or ""
    return "\n".join(safe(line) or "" for line in lines)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def replay_summary(done: Replayed) -> dict[str, Any]:
    """Return what a replay did, or would do, for a script."""
    puts = [each for each in done.plan if each.puts]
    return {
        "dry_run": done.dry,
        "replayed": done.letters,
        "records": done.records,
        "would_replay": len(puts) if done.dry else 0,
        "left": [{"id": each.letter.id, "why": each.left} for each in done.left],
        "plan": [
            {"id": each.letter.id, "partitions": [put.partition for put in each.puts]}
            for each in puts
        ],
    }


def print_replay(console: Console, done: Replayed) -> None:
    """Print what a replay did, or would do, and what it left alone and why."""
    puts = [each for each in done.plan if each.puts]
    if done.dry:
        for each in puts:
            keys = ", ".join(sorted({safe(put.key) or "" for put in each.puts}))
            console.print(
                f"would replay {each.letter.id} ({each.letter.reason}): {len(each.puts)} records, "
                f"key {keys}",
                markup=False,
                highlight=False,
                emoji=False,
            )
        console.print(f"{len(puts)} dead letters would be put back; nothing was done")
    else:
        console.print(f"{done.letters} dead letters put back, as {done.records} records")
    for each in done.left[:_LEFT_SHOWN]:
        console.print(
            f"left alone: {each.letter.id}: {safe(each.left.encode())}",
            markup=False,
            highlight=False,
            emoji=False,
        )
    if len(done.left) > _LEFT_SHOWN:
        console.print(f"and {len(done.left) - _LEFT_SHOWN} more; --json names them")
