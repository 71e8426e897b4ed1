"""A sequence network within the stages of the stream, judged by what they answer.

Histories stream through all stages as purchases, and teach them what follows what; then each
history to be continued is that of a new visitor, who asks. Its events arrive too late to teach
co-visitation, so that counts and network know the same. Its newest 50 items are sent, since a row
of state holds no more.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from flax import nnx

from models.data import Requests, collect
from models.folder import Inputs
from models.leave_one_out import Scores, quality
from models.mix import About, Network, export, mixed, parts
from models.next_item import NextItem
from models.replay import Basket, Partition
from models.sequences import Items, Sequences
from stream_app.clock import monotonic_seconds
from stream_app.config import DAY_MS, StageSettings
from stream_app.errors import StreamAppError
from stream_app.event import Event, encode
from stream_app.hashing import event_hash
from stream_app.manifest import FIRST_ITEM, HISTORY, UNKNOWN, Data
from stream_app.pipeline import Context, Outputs
from stream_app.ranker import Ranker
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import FEATURE_NAMES, Ranked, Reject, Request

WEIGHTS = [place / 20 for place in range(21)]  # of the network, that are tried
BEGIN_MS = 1_735_689_600_000  # 2025-01-01: sequences without times are streamed from here on
STEP_MS = 1_000  # between two events, at most
SPAN_MS = 2 * DAY_MS  # of all events, however many: made-up time must not make counts fade
LATE_MS = 900_000  # what arrives so long after its time teaches no co-visitation
CHOSEN_MAX = 5_000  # users that the weight is chosen by
ROWS = 256  # requests that the network reads at once
SETTINGS = StageSettings(
    allow_repeat=False, recommend_on=frozenset(), top_k=50, learn_share=0.0, items_max=5_000_000
)


def pace_ms(events: int) -> int:
    """Return the milliseconds between two of so many events."""
    return min(max(SPAN_MS // events, 1), STEP_MS)


class RejectedError(StreamAppError):
    """The stages reject an event of a history: the file must name users and items otherwise."""


class Served:
    """What the stream answers with a fitted network; its folder is in ``folder`` after ``fit``."""

    def __init__(
        self, network: NextItem, folder: Path, data: Data | None = None, name: str = "network"
    ) -> None:
        self.network, self.folder, self.name = network, folder, name
        self.data = data  # for the manifest
        self.weight = 0.5  # of the network

    def fit(self, data: Sequences) -> Self:
        """Stream the histories, and choose the weight by the NDCG of the validation items.

        Raises
        ------
        RejectedError
            When an id is none to the stages, such as one of more than 128 characters.
        """
        self.names = data.names
        self._numbers = count()  # of events
        self._ms = BEGIN_MS
        self._step_ms = pace_ms(sum(map(len, data.learned)) + 2 * len(data.judged))
        self._partition = Partition(0, Context(SETTINGS, 1))
        self._places = {event_hash(name): place for place, name in enumerate(data.names)}
        for user, history in enumerate(data.learned):
            for item in history:
                self._ms += self._step_ms
                self._append(f"u{user}", self._ms, data.names[item])
        self._ranked(self._partition.run())
        self._serve()
        self.weight = self._choose(data.before_validation, data.validation)
        self._serve()
        return self

    def scores(self, histories: Sequence[Items]) -> Scores:
        """Return 1 / rank of what is recommended, 0 elsewhere; n histories -> (n, items)."""
        found = np.zeros((len(histories), len(self.names)), np.float32)
        for row, ranked in enumerate(self._ask(histories)):
            items = [self._places[ranked.request.items[place]] for place in ranked.places]
            found[row, items] = 1.0 / np.arange(1, len(items) + 1)
        return found

    def held(self, histories: Sequence[Items], targets: Items, from_ms: int) -> Requests:
        """Return the requests for some of the histories, as `compress` takes them.

        They are dated one after another from ``from_ms`` on. Candidates that may not be shown,
        those of the history, are left out.
        """
        chosen = np.linspace(0, len(histories) - 1, min(len(histories), CHOSEN_MAX)).astype(int)
        pairs = []
        for place, ranked in zip(
            chosen, self._ask([histories[place] for place in chosen]), strict=True
        ):
            target = Event(
                event_id="target",
                type="purchase",
                user_id=str(place),
                timestamp=from_ms,
                item_id=self.names[targets[place]],
            )
            basket = Basket("target", target.user_id, from_ms, [target])
            pairs.append((_shown(ranked.request), basket))
        found = collect(pairs)
        return msgspec.structs.replace(found, time_ms=from_ms + np.arange(len(found)))

    def _serve(self) -> None:
        """Write the folder with the weight, and let it answer as a worker would."""
        network: Network = self.network.network
        data = self.data
        if data is None:
            began, now = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (BEGIN_MS, self._ms))
            data = Data("sequences", began, now, (self._ms - BEGIN_MS) // self._step_ms)
        about = About(f"{self.name}-with-counts", data, {})
        export(network, self.names, self.weight, about, self.folder)
        ranker = Ranker.load(
            self.folder, clock=monotonic_seconds, milliseconds_max=np.inf, pool_min=POOL_SIZE
        )
        self._partition.context = Context(SETTINGS, 1, ranker=ranker)

    def _choose(self, histories: Sequence[Items], targets: Items) -> float:
        """Return the weight that ranks the candidates of some of the users best."""
        chosen = np.linspace(0, len(histories) - 1, min(len(histories), CHOSEN_MAX)).astype(int)
        requests = [each.request for each in self._ask([histories[place] for place in chosen])]
        hashes = [event_hash(self.names[item]) for item in targets[chosen]]
        network = self.network.network
        above = np.full((len(WEIGHTS), len(requests)), POOL_SIZE)
        for begin in range(0, len(requests), ROWS):
            inputs = self._inputs(requests[begin : begin + ROWS])
            known = _parts(network, inputs.history, inputs.candidates, inputs.features)
            chance, share = map(np.asarray, known)
            for row, request in enumerate(requests[begin : begin + ROWS]):
                shown = ~np.array(request.bought)
                wanted = hashes[begin + row]
                own = request.items.index(wanted) if wanted in request.items else None
                if own is None or not shown[own]:
                    continue
                for place, weight in enumerate(WEIGHTS):
                    scores = mixed(chance[row], share[row], weight)[: len(shown)]
                    above[place, begin + row] = (scores[shown] > scores[own]).sum()
        found = [quality(each, np.zeros_like(each)).ndcg_at_10 for each in above]
        return WEIGHTS[int(np.argmax(found))]

    def _inputs(self, requests: Sequence[Request]) -> Inputs:
        """Return requests as the graph takes them, filled up to :data:`ROWS`."""
        history = np.zeros((ROWS, HISTORY), np.int32)
        candidates = np.zeros((ROWS, POOL_SIZE), np.int32)
        features = np.zeros((ROWS, POOL_SIZE, len(FEATURE_NAMES)), np.float32)
        for row, request in enumerate(requests):
            past = [self._token(item) for item in request.view.items[-HISTORY:]]
            history[row, HISTORY - len(past) :] = past
            size = len(request.items)
            candidates[row, :size] = [self._token(item) for item in request.items]
            features[row, :size] = request.features
        return Inputs(history, candidates, features)

    def _token(self, item: int) -> int:
        place = self._places.get(item)
        return UNKNOWN if place is None else place + FIRST_ITEM

    def _ask(self, histories: Sequence[Items]) -> list[Ranked]:
        """Return what is recommended to visitors with these histories, in their order."""
        found = []
        for history in histories:
            self._ms += self._step_ms
            visitor = f"v{next(self._numbers)}"
            newest = history[-HISTORY:]
            for place, item in enumerate(newest):
                late_ms = self._ms - LATE_MS - (len(newest) - place) * self._step_ms
                found += self._append(visitor, late_ms, self.names[item])
            found += self._append(visitor, self._ms)
        found += self._ranked(self._partition.run())
        return found

    def _append(self, user_id: str, time_ms: int, item_id: str | None = None) -> list[Ranked]:
        """Send a purchase, or a question where there is no item; return what is recommended."""
        kind = "recommend" if item_id is None else "purchase"
        event = Event(
            event_id=f"e{next(self._numbers)}",
            type=kind,
            user_id=user_id,
            timestamp=time_ms,
            item_id=item_id,
        )
        outputs = self._partition.append((user_id.encode(), encode(event), self._ms))
        return self._ranked(outputs)

    @staticmethod
    def _ranked(outputs: Sequence[Outputs]) -> list[Ranked]:
        for each in outputs:
            reject = next((step for step in each.steps if isinstance(step, Reject)), None)
            if reject is not None:  # silently, it would be a worse figure
                raise RejectedError(f"an event is rejected ({reject.reason}): {reject.detail}")
        return [ranked for each in outputs for ranked in each.answers.ranked]


def _shown(request: Request) -> Request:
    """Return a request without the candidates that may not be shown."""
    places = [place for place, bought in enumerate(request.bought) if not bought]
    names = ("items", "item_ids", "features", "sources", "bought")
    columns = {name: getattr(request, name) for name in names}
    kept = {name: tuple(each[place] for place in places) for name, each in columns.items()}
    return msgspec.structs.replace(request, **kept)


@nnx.jit
def _parts(network: Network, history: Any, candidates: Any, features: Any) -> Any:
    return parts(network, history, candidates, features)
