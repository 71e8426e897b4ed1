"""Rows become records for Kafka through a mapping; one that does not fit is sent on to be rejected.

A misfit goes to the topic of events, too, as ``{"misfit": {"mapping", "row", "field", "value",
"needs"}, "row": {...}}``. That is no event, so the worker rejects it as ``not_an_event`` and it is
found, fault and all, among the dead letters. Its key is the user's id where that can be read, else
there is none.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from stream_app.errors import StreamAppError
from stream_app.event import Event, Item, encode
from stream_app.sources import Record
from stream_app.sources.mapping import Mapping
from stream_app.sources.mapping_values import Misfit
from stream_app.sources.rows import NumberedRow

# Of misfits, the first are kept to be named; faults of the same field and kind are counted.
_NAMED_MAX = 5
_FAULTS_MAX = 1_000
# Longer rows are cut where a misfit shows them: a worker takes records of up to 1 MB.
_ROW_BYTES_MAX = 100_000


class NamedMisfit(msgspec.Struct, frozen=True):
    """A row that did not fit: its number, the field, the value found, and what is needed."""

    row: int | str
    field: str
    value: str
    needs: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.field} {self.value!r}: {self.needs}"


class StrictError(StreamAppError):
    """A row does not fit and producing is strict; the message names it. Mend it or the mapping."""


class Tally(msgspec.Struct):
    """What became of rows, counted while they are read.

    ``rows`` = rows that gave events + ``rows_skipped`` + ``misfits``. ``sent`` counts the records
    handed over: ``events`` and ``misfits``. ``out_of_order`` counts events that are older than one
    before them. ``skipped`` has names of types, ``faults`` what was wrong with how many rows.
    """

    rows: int = 0
    rows_skipped: int = 0
    events: int = 0
    misfits: int = 0
    out_of_order: int = 0
    sent: int = 0
    skipped: Counter[str] = msgspec.field(default_factory=Counter)
    faults: Counter[str] = msgspec.field(default_factory=Counter)
    named: list[NamedMisfit] = msgspec.field(default_factory=list)

    def misfit(self, place: int | str, misfit: Misfit) -> NamedMisfit:
        """Count a row that does not fit, and return it with its place."""
        named = NamedMisfit(place, misfit.field, misfit.value, misfit.sentence)
        self.misfits += 1
        if len(self.named) < _NAMED_MAX:
            self.named.append(named)
        fault = f"{misfit.field}: {misfit.sentence}"
        self.faults[fault if len(self.faults) < _FAULTS_MAX else misfit.field] += 1
        return named


def misfits_said(count: int) -> str:
    """Return how many rows do not fit, in words.

    >>> misfits_said(1), misfits_said(1_234)
    ('1 row does not fit', '1,234 rows do not fit')
    """
    return "1 row does not fit" if count == 1 else f"{count:,} rows do not fit"


class MappedRecords:
    """Yields the records of rows, and None where None was among them: a source has nothing now.

    Parameters
    ----------
    mapping
        Makes events of rows.
    strict
        Stop at the first row that does not fit.
    first_ms
        The time of a misfit before the first event that cannot be dated itself; others have that
        of the event before. A misfit must not be dated by its sending: in a replay, which lives in
        the time of its records, all that follows would be late.
    done
        Called with a row's place, and how many records were sent by then, before the last record
        of a row is handed over.

    Attributes
    ----------
    tally
        What became of the rows so far.
    """

    def __init__(
        self,
        mapping: Mapping,
        *,
        strict: bool = False,
        first_ms: int | None = None,
        done: Callable[[int | str, int], object] = lambda _place, _sent: None,
    ) -> None:
        self.mapping, self.tally = mapping, Tally()
        self._strict, self._newest_ms, self._done = strict, first_ms, done

    def of(self, rows: Iterable[NumberedRow | None]) -> Iterator[Record | None]:
        """Yield the records of rows, in order.

        Raises
        ------
        StrictError
            When strict and a row does not fit.
        """
        tally = self.tally
        for numbered in rows:
            if numbered is None:
                yield None
                continue
            batch = self._row(*numbered)
            if not batch:
                self._done(numbered[0], tally.sent)
            for number, record in enumerate(batch, 1):
                tally.sent += 1
                if number == len(batch):
                    self._done(numbered[0], tally.sent)
                yield record

    def _row(self, place: int | str, row: dict[str, Any], fault: str | None) -> list[Record]:
        """Return the records of one row, counted."""
        tally = self.tally
        tally.rows += 1
        try:
            events = events_of(self.mapping, row, fault, tally.skipped)
        except Misfit as misfit:
            named = tally.misfit(place, misfit)
            if self._strict:
                raise StrictError(
                    f"{named}: mend the row or {self.mapping.place}; what stands before it was sent"
                ) from misfit
            return [_letter(self.mapping, named, row, self._newest_ms)]
        tally.events += len(events)
        tally.rows_skipped += not events
        batch: list[Record] = []
        for event in events:
            time_ms = event.timestamp
            assert isinstance(time_ms, int), "a mapping gives milliseconds"
            if self._newest_ms is None or time_ms >= self._newest_ms:
                self._newest_ms = time_ms
            else:
                tally.out_of_order += 1
            batch.append((event.user_id.encode(), encode(event), time_ms))
        return batch


def events_of(
    mapping: Mapping, row: dict[str, Any], fault: str | None, skipped: "Counter[str] | None" = None
) -> list[Event]:
    """Return the events of a row.

    Raises
    ------
    Misfit
        When it does not fit, or was no row to begin with: ``fault`` then says why.
    """
    if fault is not None:
        raise Misfit("row", row.get("line"), fault)
    return mapping.events(row, skipped)


def items_of(
    mapping: Mapping, row: dict[str, Any], fault: str | None
) -> list[tuple[str, Item | None]]:
    """Return the items of a row by their ids, None for one to remove.

    Raises
    ------
    Misfit
        As of :func:`events_of`.
    """
    if fault is not None:
        raise Misfit("row", row.get("line"), fault)
    return mapping.items(row)


def first_time_ms(rows: Iterable[NumberedRow], mapping: Mapping) -> int | None:
    """Return the time of the first event among rows, None if there is none."""
    for _, row, fault in rows:
        try:
            events = events_of(mapping, row, fault)
        except Misfit:
            continue
        if events:
            assert isinstance(events[0].timestamp, int), "a mapping gives milliseconds"
            return events[0].timestamp
    return None


def _letter(
    mapping: Mapping, named: NamedMisfit, row: dict[str, Any], newest_ms: int | None
) -> Record:
    """Return the record of a row that does not fit."""
    user, time_ms = mapping.hints(row)
    about = {"mapping": mapping.name, **msgspec.structs.asdict(named)}
    try:
        shown = msgspec.json.encode(row)
    except (TypeError, ValueError):
        shown = msgspec.json.encode({"line": repr(row)})
    if len(shown) > _ROW_BYTES_MAX:
        shown = msgspec.json.encode({"line": shown[:_ROW_BYTES_MAX].decode(errors="replace")})
    value = msgspec.json.encode({"misfit": about, "row": msgspec.Raw(shown)})
    return (user or "").encode(errors="replace"), value, time_ms if newest_ms is None else newest_ms
