"""What ranks in the demo, and from when on its hits are counted."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from stream_app.event import rfc3339
from stream_app.manifest import read_manifest
from stream_app.ops.demo_worker import Counts

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Ranking(msgspec.Struct, frozen=True):
    """What ranks, in a sentence.

    ``counted_from_ms`` is where the data ends that the model was trained on; what it recommends
    earlier proves nothing. None where no model is loaded.
    """

    sentence: str = ""
    counted_from_ms: int | None = None

    @classmethod
    def of(cls, folder: Path | None, counts: Counts, *, missing: bool) -> "Ranking":
        """Return what ranks in a worker that is ready.

        Parameters
        ----------
        folder
            Of the model that it was given, if any.
        counts
            What its metrics say.
        missing
            Whether the shop should have a model, and this copy of the program has none.

        Raises
        ------
        ModelError
            When the folder of the model that is loaded has been lost meanwhile.

        Examples
        --------
        >>> Ranking.of(Path("model"), Counts(refusal="too_slow"), missing=False).sentence
        'the worker refused its ranking model (too_slow): the formula ranks'
        """
        if folder is not None and counts.model is not None:
            since_ms = _milliseconds(read_manifest(folder).data.until)
            name, version = counts.model
            return cls(
                f"{name} {version} ranks; hits count from {day(since_ms)} on, it learned from "
                "what was before",
                since_ms,
            )
        if folder is not None:
            reason = counts.refusal or "for a reason that it does not tell"
            return cls(f"the worker refused its ranking model ({reason}): the formula ranks")
        if missing:
            return cls("the ranking model of this shop is not installed: the formula ranks")
        return cls("this shop has no ranking model: the formula ranks")


def model_folder(own: Path | None, packaged: Path | None) -> Path | None:
    """Return the model for the demo's worker: one that the user has set, else the shop's if there.

    Parameters
    ----------
    own
        The setting ``model``.
    packaged
        The folder where the shop's is, if it has any.
    """
    if own is not None:
        return own
    return packaged if packaged is not None and packaged.is_dir() else None


def day(ms: int) -> str:
    """Return a time; where a day begins, the day alone.

    >>> day(1_509_840_000_000), day(1_509_840_000_001)
    ('2017-11-05', '2017-11-05T00:00:00.001Z')
    """
    text = rfc3339(ms)
    return text if ms % 86_400_000 else text[:10]


def _milliseconds(moment: datetime) -> int:
    """Return the first millisecond that is not before a moment."""
    return -((_EPOCH - moment) // timedelta(milliseconds=1))
