"""The law of the synthetic shops, and what follows from it exactly: the Bayes-optimal predictions.

A session is a Markov chain whose state can be seen: how many steps were made, how many views (three
count), whether something waits in the cart, and whether something was bought and not commented on.
The chances of the next step depend on the state, on the user and on what the user looks for, which
is settled when the session begins. So the chance that a purchase, comment or share is still to come
follows by dynamic programming, backwards from the last step. A session ends within 30 minutes, and
the user's next one is further away than that: what is to come in the session is what is to come
within 30 minutes.

Sessions fall into slots. In each a living user leaves for ever with chance d, else has a session
with chance p, and that ends in a purchase with chance q. Whether a silent user still lives is never
looked up, but inferred from the silence, as in Schmittlein, Morrison & Colombo, "Counting your
customers", Management Science 33 (1987), in the discrete form of Fader, Hardie & Shang,
"Customer-base analysis in a discrete-time noncontractual setting", Marketing Science 29 (2010).
"""

import math
from itertools import product

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from stream_app.event import Target
from stream_app.sources.synthetic_shop import LEVELS, Shop

TARGETS: tuple[Target, ...] = ("purchase", "comment", "share")
ACTIONS = ("end", "view", "search", "shelf", "cart", "purchase", "comment", "share")

# Deviates that a user's desire, and readiness to comment and to share, are drawn from, each as
# likely: of mean 0 and variance 1. A few values only, so that few tables serve all users.
DESIRES = (-1.4, -0.7, 0.0, 0.7, 1.4)
READINESS = (-1.2247, 0.0, 1.2247)

_VIEWS = 4  # 0 to 3, and 3 stands for more
PHASES = _VIEWS * 2 * 2  # views, something in the cart, something to comment on
_CART, _BOUGHT = _VIEWS, 2 * _VIEWS


class Case(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What could be known at a moment: the probabilities of what comes next, by target.

    Either at an event, of ``purchase`` (of another order), ``comment`` and ``share`` in the 30
    minutes after it, or without one on a Sunday at 00:00 UTC, of ``churn``: no purchase in the 28
    days after it. ``timestamp`` in ms since the epoch.
    """

    event_id: str | None = None
    user_id: str
    timestamp: int
    probabilities: dict[Target, float]


def after(phase: int, action: str) -> int:
    """Return the phase of a session after an action.

    >>> cart = after(after(0, "view"), "cart")
    >>> cart, after(cart, "purchase"), after(after(cart, "purchase"), "comment")
    (5, 9, 1)
    """
    if action == "view":
        return phase + 1 if phase % _VIEWS < _VIEWS - 1 else phase
    if action == "cart":
        return phase | _CART
    if action == "purchase":
        return (phase & ~_CART) | _BOUGHT
    if action == "comment":
        return phase & ~_BOUGHT
    return phase


def kind_of(desire: int, comment: int, share: int, *, likes: bool, level: int) -> int:
    """Return the number of a kind of session: places of the user's deviates, and what it is about.

    >>> kind_of(0, 0, 0, likes=False, level=0), kind_of(4, 2, 2, likes=True, level=2)
    (0, 269)
    """
    traits = (desire * len(READINESS) + comment) * len(READINESS) + share
    return (traits * 2 + likes) * LEVELS + level


class Law:
    """What may happen in the sessions of a shop, and how probable each outcome is.

    Attributes
    ----------
    steps
        By kind and phase: chances of the actions, in their order, summed up to 1.
    ahead
        By target, steps made, kind and phase: chance that it happens in what is left of a session.
    buys
        By kind: chance that a session has a purchase.

    Examples
    --------
    >>> from stream_app.sources.synthetic_shop import FIRST
    >>> law = Law(FIRST)
    >>> cart = after(after(0, "view"), "cart")
    >>> law.ahead["purchase"][2][100][cart] > law.ahead["purchase"][2][100][1]
    True
    """

    def __init__(self, shop: Shop) -> None:
        chances = _chances(shop)
        sums = np.cumsum(chances, axis=2)
        sums[:, :, -1] = 1.0  # whatever rounding left
        self.steps: list[list[list[float]]] = sums.tolist()
        tables = {target: _ahead(chances, target, shop.steps_max) for target in TARGETS}
        self.ahead: dict[Target, list[list[list[float]]]] = {
            target: table.tolist() for target, table in tables.items()
        }
        first = tables["purchase"][1]
        searches = shop.search_first
        buys = searches * first[:, 0] + (1 - searches) * first[:, after(0, "view")]
        self.buys: list[float] = buys.tolist()

    def probabilities(self, steps: int, kind: int, phase: int) -> dict[Target, float]:
        """Return the truth after so many steps of a session, by target."""
        return {target: self.ahead[target][steps][kind][phase] for target in TARGETS}


def _chances(shop: Shop) -> npt.NDArray[np.float64]:
    """Return the chance of each action, of shape (kinds, phases, actions)."""
    rows = []
    deviates = product(DESIRES, READINESS, READINESS, (False, True), range(LEVELS))
    for desire, comment, share, likes, level in deviates:
        appeal = (
            shop.desire_spread * desire
            + (shop.like_effect if likes else 0.0)
            + shop.price_effect * (LEVELS // 2 - level)
        )
        cart = shop.cart * math.exp(appeal)
        purchase = shop.purchase * math.exp(shop.purchase_effect * appeal)
        comments = shop.comment * math.exp(shop.comment_spread * comment)
        shares = shop.share * math.exp(shop.share_spread * share)
        for phase in range(PHASES):
            waits, bought = bool(phase & _CART), bool(phase & _BOUGHT)
            weights = (
                1.0,
                shop.search,
                shop.shelf,
                cart * math.exp(shop.views_effect * (phase % _VIEWS)),
                purchase * waits,
                comments * bought,
                shares * (shop.share_bought if bought else 1.0),
            )
            leave = shop.leave_cart if waits else shop.leave_bought if bought else shop.leave
            total = math.fsum(weights)
            rows.append((leave, *[(1 - leave) * weight / total for weight in weights]))
    return np.array(rows).reshape(-1, PHASES, len(ACTIONS))


def _ahead(
    chances: npt.NDArray[np.float64], target: Target, steps_max: int
) -> npt.NDArray[np.float64]:
    """Return the chance that the target is still to come, of shape (steps + 1, kinds, phases)."""
    kinds = chances.shape[0]
    table = np.zeros((steps_max + 1, kinds, PHASES))
    for steps in range(steps_max - 1, 0, -1):
        for place, action in enumerate(ACTIONS[1:], 1):
            follows = [after(phase, action) for phase in range(PHASES)]
            reached = 1.0 if action == target else table[steps + 1][:, follows]
            table[steps] += chances[:, :, place] * reached
    return table


def churn(leaves: float, comes: float, buys: float, silent: int, slots: int) -> float:
    """Return the chance that a user buys nothing in the next slots, after so many silent ones.

    Parameters
    ----------
    leaves, comes, buys
        Chances: in each slot, to leave for ever; if not, of a session; in it, of a purchase.
    silent, slots
        Slots since the one of the last session, and slots to come.

    Examples
    --------
    >>> churn(0.0, 0.5, 1.0, 3, 2), churn(1.0, 0.5, 1.0, 1, 2)
    (0.25, 1.0)
    """
    lives, gone = _unseen(leaves, comes, silent)
    without, left = _unseen(leaves, comes * buys, slots)
    return (gone + lives * (without + left)) / (gone + lives)


def _unseen(leaves: float, seen: float, slots: int) -> tuple[float, float]:
    """Return the chances that a user, unseen for so many slots, still lives and has left."""
    stays = (1 - leaves) * (1 - seen)
    lives = stays**slots
    gone = leaves * (1 - lives) / (1 - stays) if stays < 1 else 0.0
    return lives, gone
