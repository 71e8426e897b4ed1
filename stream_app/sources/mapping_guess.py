"""Proposes a mapping for a sample of another shop's rows, and says what is doubtful about it."""

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from stream_app.errors import ConfigError
from stream_app.event import EVENT_TYPES, Event
from stream_app.sources.mapping import (
    Mapping,
    load_mapping,
    mapping_text,
    parse_mapping,
    ready_mappings,
)
from stream_app.sources.mapping_columns import (
    Column,
    candidates,
    columns_of,
    is_clock,
    looks_like_cents,
    number_form,
    ranked,
    time_format,
    type_of,
)
from stream_app.sources.mapping_records import MappedRecords, Tally, misfits_said
from stream_app.sources.rows import NumberedRow, RowFile, RowSource

SAMPLE_ROWS = 5_000
# Of a sample, for a ready mapping to fit: rows that do not, and rows that give events.
_MISFIT_SHARE_MAX = 0.02
_GIVING_SHARE_MIN = 0.02
_SKIPPED_SHOWN = 8
_CANDIDATES_SHOWN = 4
_TYPES_MAX = 60  # different names of types; a column with more is none of types
_UNKNOWN = "?"
_BARE = re.compile(r"[A-Za-z0-9_-]+")

_TOTALS = ("amount", "revenue", "total", "value", "sales")
_SEPARATORS = (" > ", ">", "/", "|", ".")


class Proposal(Struct):
    """A mapping as text, what is doubtful, the ready one that fits, and events of the sample."""

    content: str
    doubts: list[str]
    ready: str | None
    events: int


class _Guess(Struct):
    """The lines of a mapping as they are found, by table."""

    columns: dict[str, Column]
    rows: int
    doubts: list[str] = field(default_factory=list)
    each: list[str] = field(default_factory=list)
    event: dict[str, str] = field(default_factory=dict)  # field: TOML
    item: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    time: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def first(self, name: str) -> Column | None:
        """Return the likeliest column of a field that no other field has."""
        left = [each for each in self.columns.values() if each.path not in self.used]
        found = ranked(left, name)
        if not found:
            return None
        if len(found) > 1:
            others = ", ".join(repr(each.path) for each in found[1:3])
            self.doubts.append(f"{name} is taken from {found[0].path!r}; it may be {others}")
        self.used.add(found[0].path)
        return found[0]


def propose(file: Path, source: RowSource | None = None) -> Proposal:
    """Return a mapping for a file by its first rows.

    Raises
    ------
    ConfigError
        When the file cannot be read, or has no rows.
    """
    rows = RowFile(file, source)
    sample = list(islice(rows, SAMPLE_ROWS))
    good = [row for _, row, fault in sample if fault is None]
    if not good:
        faults = [f"row {number}: {fault}" for number, _, fault in sample]
        raise ConfigError(f"{file}: there are no rows in it{''.join(f'; {f}' for f in faults[:1])}")
    ready = _fitting(sample, rows.source)
    if ready is not None:
        return _ready(*ready, file.name)
    guess = _Guess(columns_of(good), len(good))
    if _own_share(good) >= 1 - _MISFIT_SHARE_MAX:
        guess.doubts.append(
            "these rows are events in our own schema: produce --source jsonl needs no mapping"
        )
    _guess_fields(guess)
    content = _content(guess, file.name, rows.source, [])
    tally = tally_rows(parse_mapping(content, Path(f"{file.stem}.toml")), sample)
    verdict = [f"Of the first {tally.rows:,} rows it makes {tally.events:,} events"]
    for fault, count in tally.faults.most_common(5):
        guess.doubts.append(f"{misfits_said(count)}: {fault}")
    content = _content(guess, file.name, rows.source, verdict)
    return Proposal(content, guess.doubts, None, tally.events)


def _ready(name: str, tally: Tally, file: str) -> Proposal:
    """Return a ready mapping as the proposal; what it skips is for people to judge."""
    doubts = [
        f"{kind!r} is skipped, {count:,} times: map it if it is one of our types"
        for kind, count in tally.skipped.most_common(_SKIPPED_SHOWN)
    ]
    head = (
        f"# The ready mapping {name} fits: {tally.events:,} events of the first {tally.rows:,} "
        f"rows\n# of {file}, and {misfits_said(tally.misfits)}. --mapping {name} needs no file; "
        "this is it.\n"
    )
    head += "".join(f"# - {_one_line(doubt)}\n" for doubt in doubts) + "\n"
    return Proposal(head + mapping_text(name), doubts, name, tally.events)


def tally_rows(mapping: Mapping, rows: list[NumberedRow]) -> Tally:
    """Return what a mapping makes of rows."""
    records = MappedRecords(mapping)
    for _ in records.of(rows):
        pass
    return records.tally


def _fitting(sample: list[NumberedRow], source: RowSource) -> tuple[str, Tally] | None:
    """Return the ready mapping that makes the most events of a sample, if one fits it."""
    best: tuple[str, Tally] | None = None
    for name in ready_mappings():
        mapping = load_mapping(name)
        if (mapping.spec.source == "csv") != (source == "csv"):
            continue
        tally = tally_rows(mapping, sample)
        giving = tally.rows - tally.rows_skipped - tally.misfits
        fits = tally.misfits <= _MISFIT_SHARE_MAX * tally.rows
        fits = fits and giving > 0 and giving >= _GIVING_SHARE_MIN * tally.rows
        if fits and (best is None or tally.events > best[1].events):
            best = name, tally
    return best


def _own_share(rows: list[dict[str, Any]]) -> float:
    """Return which share of rows are events in our own schema already."""
    good = 0
    for row in rows:
        try:
            good += msgspec.convert(row, Event).type in EVENT_TYPES
        except msgspec.ValidationError:
            continue
    return good / len(rows)


def _guess_fields(guess: _Guess) -> None:
    for name in ("user_id", "item_id"):
        column = guess.first(name)
        guess.event[name] = _quoted(column.path if column else _UNKNOWN)
        if column is not None and "[]" in column.path:
            parts = column.path.split("[]")[:-1]
            guess.each = [
                "".join(f"{part}[]" for part in parts[: n + 1]) for n in range(len(parts))
            ]
    _guess_time(guess)
    for name in ("session_id", "order_id", "quantity", "currency", "category", "rating", "text"):
        column = guess.first(name)
        if column is not None and _is_reachable(guess, column):
            guess.event[name] = _quoted(column.path)
    _guess_event_id(guess)
    _guess_price(guess)
    _guess_types(guess)
    _guess_item(guess)
    _doubt_missing(guess)


def _doubt_missing(guess: _Guess) -> None:
    """Say what no column's name speaks of, and which of those left it may be."""
    left = [each for each in guess.columns.values() if each.path not in guess.used]
    for name in ("user_id", "item_id", "price"):
        if guess.event.get(name, _quoted(_UNKNOWN)) != _quoted(_UNKNOWN):
            continue
        may = ", ".join(repr(each.path) for each in candidates(left, name)[:_CANDIDATES_SHOWN])
        if name == "price" and may:
            guess.doubts.append(f"no column is called a price; it may be {may}")
        elif name != "price":
            named = f"; it may be {may}" if may else ""
            guess.doubts.append(
                f"no column looks like a {name}: name one instead of {_UNKNOWN!r}{named}"
            )


def _is_reachable(guess: _Guess, column: Column) -> bool:
    """Tell whether a column lies in the lists that are unrolled, or in none."""
    lists = column.path.rpartition("[]")[0]
    return not lists or f"{lists}[]" in guess.each


def _guess_time(guess: _Guess) -> None:
    candidates = ranked(guess.columns.values(), "timestamp")
    candidates += [each for each in guess.columns.values() if each not in candidates]
    clock = next((each for each in candidates if is_clock(each)), None)
    for column in candidates:
        if column.path in guess.used or not _is_reachable(guess, column):
            continue
        found = time_format(column)
        if found is None:
            continue
        pattern, doubts = found
        guess.used.add(column.path)
        guess.event["timestamp"] = _quoted(column.path)
        if clock is not None and not any(":" in text for text in column.texts()):
            guess.event["timestamp"] = f'{{ template = "{{{column.path}}} {{{clock.path}}}" }}'
            guess.used.add(clock.path)
            if pattern is not None:
                seconds = ":%S" if any(text.count(":") > 1 for text in clock.texts()) else ""
                pattern = f"{pattern} %H:%M{seconds}"
        if pattern is not None:
            guess.time["format"] = _quoted(pattern)
        guess.doubts += doubts
        return
    guess.event["timestamp"] = _quoted(_UNKNOWN)
    guess.doubts.append(f"no column looks like a time: name one instead of {_UNKNOWN!r}")


def _guess_event_id(guess: _Guess) -> None:
    for column in ranked(guess.columns.values(), "event_id"):
        unique = len(column.values) == column.filled == guess.rows
        if unique and column.path not in guess.used and "[]" not in column.path:
            guess.used.add(column.path)
            guess.event["event_id"] = _quoted(column.path)
            return
    guess.doubts.append(
        "no column looks like an event's id: it is a hash of the whole row, so equal rows are one "
        "event; name what tells events apart: event_id = { hash = [...] }"
    )


def _guess_price(guess: _Guess) -> None:
    left = (each for each in guess.columns.values() if each.path not in guess.used)
    for column in ranked(left, "price"):
        decimal = number_form(column)
        if decimal is None or not _is_reachable(guess, column):
            continue
        guess.used.add(column.path)
        name = column.words[0]
        keys = [f"path = {_quoted(column.path)}"]
        if "cent" in name or "minor" in name:
            keys.append("scale = 0.01")
        elif looks_like_cents(column):
            guess.doubts.append(f"{column.path!r} may be in cents: then add scale = 0.01")
        if decimal == ",":
            keys.append('decimal = ","')
        if any(total in name for total in _TOTALS) and "quantity" in guess.event:
            keys.append(f"per = {guess.event['quantity']}")
            guess.doubts.append(
                f"{column.path!r} is taken for the total of all pieces, and divided by the quantity"
            )
        guess.event["price"] = keys[0][7:] if len(keys) == 1 else f"{{ {', '.join(keys)} }}"
        if "currency" not in guess.event:
            known = re.search(r"_(usd|eur|gbp)$", name)
            if known:
                guess.event["currency"] = f'{{ constant = "{known[1].upper()}" }}'
            else:
                guess.doubts.append('no currency is given: add currency = { constant = "USD" }')
        return


def _says_types(guess: _Guess, column: Column, share_min: float) -> bool:
    """Tell whether more than a share of a column's few values are names of types."""
    texts = column.texts()
    known = sum(type_of(text) != "skip" for text in texts)
    few = len(texts) <= _TYPES_MAX
    return few and known > share_min * len(texts) and _is_reachable(guess, column)


def _guess_types(guess: _Guess) -> None:
    left = [each for each in guess.columns.values() if each.path not in guess.used]
    # By its name, or else by its values: names of types in a column of another name.
    named = [each for each in ranked(left, "type") if _says_types(guess, each, 0.0)]
    named += [each for each in left if _says_types(guess, each, 0.5)]
    if not named:
        kind = "purchase" if {"order_id", "quantity"} & guess.event.keys() else "view"
        guess.event["type"] = f'{{ constant = "{kind}" }}'
        guess.doubts.append(f"no column says what happened: all rows are taken for a {kind}")
        return
    column = named[0]
    guess.used.add(column.path)
    guess.event["type"] = _quoted(column.path)
    for name, _ in Counter(column.values).most_common():
        kind = type_of(str(name))
        if kind == "search" and "text" not in guess.event:
            kind = "skip"
        guess.types[str(name)] = kind
        if kind == "skip":
            guess.doubts.append(f"{name!r} is skipped: map it if it is one of our types")


def _guess_item(guess: _Guess) -> None:
    """Propose what the rows tell of items, beside the id."""
    found: dict[str, str] = {}
    for name in ("title", "brand"):
        column = guess.first(name)
        if column is not None and _is_reachable(guess, column):
            found[name] = _quoted(column.path)
    if "category" in guess.event:
        texts = guess.columns[json.loads(guess.event["category"])].texts()
        split = next((s for s in _SEPARATORS if any(s in text for text in texts)), None)
        found["category"] = guess.event["category"]
        if split is not None:
            found["category"] = f'{{ path = {guess.event["category"]}, split = "{split}" }}'
    for name in ("price", "currency"):
        if name in guess.event:
            found[name] = guess.event[name]
    if found and guess.event["item_id"] != _quoted(_UNKNOWN):
        guess.item = {"item_id": guess.event["item_id"], **found}


def _content(guess: _Guess, name: str, source: RowSource, verdict: list[str]) -> str:
    lines = [f"# A guess by the first {guess.rows:,} rows of {name}; change what is wrong."]
    lines += [f"# {sentence}." for sentence in verdict]
    if guess.doubts:
        lines += ["#", "# Doubts:", *(f"# - {doubt}" for doubt in guess.doubts)]
    lines += ["", f"title = {_quoted(name)}", f'source = "{source}"']
    if guess.each:
        lines.append(f"each = [{', '.join(map(_quoted, guess.each))}]")
    tables: list[tuple[str, dict[str, Any]]] = [
        ("event", guess.event),
        ("types", {key: _quoted(kind) for key, kind in guess.types.items()}),
        ("time", guess.time),
        ("item", guess.item),
    ]
    for title, table in tables:
        if table:
            lines += ["", f"[{title}]"]
            lines += [f"{_key(key)} = {value}" for key, value in table.items()]
    return "\n".join(map(_one_line, lines)) + "\n"


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\r", " ")


def _quoted(text: str) -> str:
    """Return text as a TOML string; JSON's escapes are TOML's, too."""
    return json.dumps(text)


def _key(text: str) -> str:
    return text if _BARE.fullmatch(text) else _quoted(text)
