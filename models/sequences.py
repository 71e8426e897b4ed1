"""Histories from a file of lines ``user item item ...``, and what is held back to judge by.

The protocol is leave-one-out (Kang & McAuley, ICDM 2018): of every user the last item is the test,
the last but one the validation, and what lies before is learned from.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console

from stream_app.errors import StreamAppError
from stream_app.manifest import FIRST_ITEM, PADDING

JUDGED_LENGTH = 3  # items of a user that is judged, at least; of shorter ones all is learned from

Items = npt.NDArray[np.int32]


class SequencesError(StreamAppError):
    """The file of sequences cannot be used as it is."""


class Sequences(msgspec.Struct, frozen=True):
    """Histories, oldest first, of items 0, 1, ...; ``names`` are the items in the file's words.

    ``learned`` are the histories to learn from, one per user; ``judged`` the users (places in
    ``learned``) with the items held back, ``validation`` and ``test``, all (n,).
    """

    names: list[str]
    learned: list[Items]
    judged: npt.NDArray[np.intp]
    validation: Items
    test: Items

    @property
    def items(self) -> int:
        """How many items there are."""
        return len(self.names)

    @property
    def before_validation(self) -> list[Items]:
        """The histories of the judged users before their item for validation."""
        return [self.learned[user] for user in self.judged]

    @property
    def before_test(self) -> list[Items]:
        """The histories of the judged users before their item for the test."""
        pairs = zip(self.before_validation, self.validation, strict=True)
        return [np.append(history, item) for history, item in pairs]


def read(path: Path) -> Sequences:
    """Return the histories of a file; lines without an item are counted on standard error.

    Raises
    ------
    SequencesError
        When there is no such file, it is not UTF-8, or no user has three items.
    """
    if not path.is_file():
        raise SequencesError(f"there is no file {path}: give one of lines `user item item ...`")
    try:
        # Not splitlines(), which would also end a line at characters that an id may hold.
        lines = [line.split() for line in path.read_text("utf-8").split("\n")]
    except UnicodeDecodeError as error:
        raise SequencesError(f"{path} is not UTF-8 ({error.reason}): convert it first") from None
    histories = [words[1:] for words in lines if len(words) > 1]
    idle = sum(len(words) == 1 for words in lines)
    if idle:
        told = f"{path}: {idle:,} lines name a user and no item, and are passed over"
        Console(stderr=True).print(told, markup=False, highlight=False)
    return split(histories)


def split(histories: Sequence[Sequence[str]]) -> Sequences:
    """Return histories with the last two items of each held back.

    Raises
    ------
    SequencesError
        When no user has three items.
    """
    numbers: dict[str, int] = {}
    known = [
        np.array([numbers.setdefault(name, len(numbers)) for name in history], np.int32)
        for history in histories
    ]
    judged = [user for user, history in enumerate(known) if len(history) >= JUDGED_LENGTH]
    if not judged:
        raise SequencesError("no user has three items: nothing could be held back to judge by")
    return Sequences(
        list(numbers),
        [history[:-2] if len(history) >= JUDGED_LENGTH else history for history in known],
        np.array(judged),
        np.array([known[user][-2] for user in judged], np.int32),
        np.array([known[user][-1] for user in judged], np.int32),
    )


def padded(histories: Sequence[npt.NDArray[np.integer]], length: int) -> Items:
    """Return the newest ``length`` items of histories as tokens, filled up left; (n, length)."""
    found = np.full((len(histories), length), PADDING, np.int32)
    for row, history in enumerate(histories):
        newest = history[-length:]
        if len(newest):
            found[row, -len(newest) :] = newest + FIRST_ITEM
    return found


def fitting(histories: Sequence[npt.NDArray[np.integer]], most: int) -> int:
    """Return the least power of two that the longest history fits into, ``most`` at most.

    Few lengths mean few shapes to compile, and little of what is computed is filling.
    """
    longest = max(map(len, histories), default=1)
    return min(1 << max(longest - 1, 1).bit_length(), most)
