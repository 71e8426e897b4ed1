"""Stage 2: drops repeats; owns consent and erasure, and hands them on.

A user's row remembers the hashes of the last 32 events. An erased user's row gives way to one that
is filed under a hash of the id and holds no more than the time of the erasure and "no consent".
"""

from array import array
from collections.abc import Sequence
from struct import Struct

import msgspec

from stream_app.codec import Sections
from stream_app.config import DAY_MS, StageSettings
from stream_app.hashing import event_hash
from stream_app.steps import Admitted, Arrival, Decoded, Due, Duplicate, Received, Step

RING_SIZE = 32
_HEADER = Struct("<qqqB")  # newest log time, times of erasure and of the last consent, flags
_CONSENT = 1
BYTES_MAX = _HEADER.size + 8 * RING_SIZE


class Admission(msgspec.Struct):
    """Hashes of the last events, whether the user consents, and when the user was erased, if ever.

    ``newest_ms`` is log time; ``erased_ms`` and ``consent_ms`` are event times, 0 for never.

    >>> section = Admission.decode(b"")
    >>> section.ring.append(7)
    >>> Admission.decode(section.encode()).ring
    array('Q', [7])
    """

    newest_ms: int
    erased_ms: int
    consent_ms: int
    consent: bool
    ring: "array[int]"

    @classmethod
    def decode(cls, data: bytes) -> "Admission":
        """Return the section that ``data`` holds, a fresh one for no data."""
        if not data:
            return cls(0, 0, 0, consent=True, ring=array("Q"))
        newest_ms, erased_ms, consent_ms, flags = _HEADER.unpack_from(data)
        ring = array("Q", data[_HEADER.size :])
        return cls(newest_ms, erased_ms, consent_ms, bool(flags & _CONSENT), ring)

    def encode(self) -> bytes:
        """Return the section as bytes."""
        flags = _CONSENT if self.consent else 0
        header = _HEADER.pack(self.newest_ms, self.erased_ms, self.consent_ms, flags)
        return header + self.ring.tobytes()


def erased_key(user_id: str) -> str:
    r"""Return the key under which the row of an erased user is filed: a hash in place of the id.

    >>> erased_key("anna")
    '\x006d90dd156e0805eb'
    """
    return "\x00" + format(event_hash("erased\x00" + user_id), "016x")


def admit(
    users: Sections[str, Admission], decoded: Sequence[Decoded], settings: StageSettings
) -> list[Received]:
    """Return the arrivals that are no repeats as :class:`Admitted`, repeats as :class:`Duplicate`.

    Everything else passes. A repeat changes nothing. After ``user_ttl_days`` of log time without an
    event the ring counts as empty, exactly when ``timers`` ends the row.
    """
    ttl_ms = settings.user_ttl_days * DAY_MS
    return [
        _admit_one(users, entry, ttl_ms) if isinstance(entry, Arrival) else entry
        for entry in decoded
    ]


def expire(users: Sections[str, Admission], steps: Sequence[Step], settings: StageSettings) -> None:
    """Empty the sections of users whose rows have ended; call it once ``timers`` has fired.

    By then this stage has seen the whole batch: who came back after the end keeps the new section.
    """
    ttl_ms = settings.user_ttl_days * DAY_MS
    for step in steps:
        if type(step) is Due and step.scope == "user" and step.kind == "expiry":
            section = users.get(str(step.key))
            if section is not None and section.newest_ms + ttl_ms <= step.due_ms:
                users.clear(str(step.key))


def _admit_one(users: Sections[str, Admission], arrival: Arrival, ttl_ms: int) -> Received:
    event = arrival.event
    key = event.user_id
    section = users.get(key)
    if section is None:
        key = erased_key(event.user_id)
        section = users.get(key)
    if section is not None and arrival.log_ms >= section.newest_ms + ttl_ms:
        users.clear(key)
        section = None
    if section is None:
        key = event.user_id
    digest = event_hash(event.event_id)
    if section is not None:
        if digest in section.ring:
            return Duplicate(arrival.offset, arrival.log_ms)
        if arrival.time_ms < section.erased_ms:
            return Admitted(arrival, key, profiled=False, untouchable=True)
    if event.type == "erase":
        return _erase(users, arrival, digest)
    section = users.touch(key)
    section.newest_ms = arrival.log_ms
    section.ring.append(digest)
    if len(section.ring) > RING_SIZE:
        del section.ring[0]
    if event.type == "consent" and arrival.time_ms >= section.consent_ms:
        section.consent = bool(event.consent)
        section.consent_ms = arrival.time_ms
    return Admitted(arrival, key, profiled=section.consent)


def _erase(users: Sections[str, Admission], arrival: Arrival, digest: int) -> Admitted:
    """Empty the user's section and note the erasure under the hash of the id."""
    users.clear(arrival.event.user_id)
    key = erased_key(arrival.event.user_id)
    section = users.touch(key)
    section.newest_ms = arrival.log_ms
    section.erased_ms = max(section.erased_ms, arrival.time_ms)
    section.consent = False
    section.ring = array("Q", [digest])
    return Admitted(arrival, key, profiled=False)
