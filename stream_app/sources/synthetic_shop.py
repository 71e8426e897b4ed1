"""The parameters of the synthetic shops: all that their events and their truth follow from.

Both shops were set by looking at rates of events and at the AUC of the truth alone, before any
model saw them. ``SECOND`` is scored like ``FIRST``, and nothing is ever tuned on it.
"""

from msgspec import Struct

START_MS = 1_704_067_200_000  # 2024-01-01, a Monday: the first day of every shop
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

# The day's slots, in which a user has one session or none: eight of two hours from 08:00 UTC. A
# session begins in the first 59 minutes of its slot and lasts 30 at most, so no two sessions of a
# user are nearer than 31 minutes, and none runs at midnight.
SLOTS_A_DAY = 8
_OPENS_MS = 8 * HOUR_MS
_SLOT_MS = 2 * HOUR_MS
SESSION_BEGINS_MS = 59 * MINUTE_MS
SESSION_MS_MAX = 30 * MINUTE_MS

LEVELS = 3  # of prices: cheap, usual, dear
MIN_STEP_SECONDS = 5  # the impressions of a shelf and a click on it lie within one step


class Shop(Struct, frozen=True, kw_only=True):
    """A shop: its size, catalogue, users, what happens in a session, and the faults of its records.

    Weights are relative to that of a view, which is 1. Effects and spreads are in units of log
    weight. A spread is the standard deviation among users; ``z`` is a user's own deviate.

    Parameters
    ----------
    name
        Part of the seed, so that shops differ in every draw.
    users, weeks
        How many users come, and for how long the shop is open.
    early_share, early_weeks
        This share of the users comes in the first weeks, the others evenly thereafter.
    categories, items, brands
        Size of the catalogue.
    category_zipf, item_zipf
        The n-th category, or item of a category, is wanted in proportion to ``n ** -zipf``.
    price, price_ratio
        A usual price, and what separates cheap, usual and dear. In EUR, and a factor.
    taste_spread
        Of a user's liking for categories.
    sessions_a_day, sessions_spread
        Of a living user: median, and spread of its logarithm.
    lifetime_days, lifetime_spread
        One over the hazard to leave for ever: median, and spread of its logarithm.
    desire_spread, comment_spread, share_spread
        Of what draws a user to carts and purchases, to comments, to shares.
    like_effect, price_effect, views_effect
        On the weight of a cart: of a category that the user likes, of a level of price less, and of
        each view in the session, of which three count.
    purchase_effect
        How much of that, views excepted, tells on the weight of a purchase.
    search_first
        Chance that a session begins with a search; else it does with a view.
    search, shelf, cart, purchase, comment, share
        Weights. A purchase needs something in the cart, a comment something bought in this session
        and not commented on; a ``shelf`` is a row of the shop's own recommendations.
    share_bought
        Factor on the weight of a share while a comment is possible.
    leave, leave_cart, leave_bought
        Chance, at each step, that the session ends: as a rule, with something in the cart, and
        while a comment is possible.
    steps_max, step_seconds_min, step_seconds_max
        Of a session, the first event included, and between two steps.
    second_piece
        Chance that a line of an order is of two pieces.
    shelf_size, click, position_bias
        Items on a shelf, chance of a click on the first, and its decay ``place ** -position_bias``;
        a liking for the category moves it between nothing and twice as much.
    click_purchase
        Chance that a click on a real recommendation ends in a purchase.
    late_rate, duplicate_rate, broken_rate
        Share of events that are delivered more than 10 minutes late; chance of each to be sent
        again; chance of each to be followed by a broken copy.
    """

    name: str
    users: int
    weeks: int
    early_share: float
    early_weeks: int = 4
    categories: int
    items: int
    brands: int
    category_zipf: float
    item_zipf: float
    price: float
    price_ratio: float
    taste_spread: float
    sessions_a_day: float
    sessions_spread: float
    lifetime_days: float
    lifetime_spread: float
    desire_spread: float
    comment_spread: float
    share_spread: float
    like_effect: float
    price_effect: float
    views_effect: float
    purchase_effect: float
    search_first: float
    search: float
    shelf: float
    cart: float
    purchase: float
    comment: float
    share: float
    share_bought: float
    leave: float
    leave_cart: float
    leave_bought: float
    steps_max: int
    step_seconds_min: int
    step_seconds_max: int
    second_piece: float = 0.15
    shelf_size: int = 4
    click: float = 0.4
    position_bias: float = 0.7
    click_purchase: float = 0.1
    late_rate: float = 0.01
    duplicate_rate: float = 0.01
    broken_rate: float = 0.005

    def __post_init__(self) -> None:
        """Check what the truth rests on: no session lasts longer than 30 minutes."""
        longest_ms = (self.steps_max - 1) * self.step_seconds_max * 1000
        if longest_ms + 1000 * self.step_seconds_min > SESSION_MS_MAX:
            raise ValueError(f"a session of {self.name} may last longer than 30 minutes")
        if self.step_seconds_min < MIN_STEP_SECONDS:
            raise ValueError(f"a shelf takes up to {MIN_STEP_SECONDS} s, and a step must take more")


FIRST = Shop(
    name="first",
    users=800,
    weeks=32,
    early_share=0.5,
    categories=20,
    items=2_000,
    brands=40,
    category_zipf=0.8,
    item_zipf=1.0,
    price=20.0,
    price_ratio=3.0,
    taste_spread=1.0,
    sessions_a_day=0.65,
    sessions_spread=0.6,
    lifetime_days=220.0,
    lifetime_spread=0.6,
    desire_spread=0.35,
    comment_spread=0.35,
    share_spread=0.35,
    like_effect=0.2,
    price_effect=0.5,
    views_effect=0.8,
    purchase_effect=0.5,
    search_first=0.2,
    search=0.12,
    shelf=0.06,
    cart=0.009,
    purchase=1.0,
    comment=0.25,
    share=0.003,
    share_bought=80.0,
    leave=0.26,
    leave_cart=0.1,
    leave_bought=0.22,
    steps_max=24,
    step_seconds_min=5,
    step_seconds_max=75,
)

SECOND = Shop(
    name="second",
    users=560,
    weeks=32,
    early_share=0.7,
    categories=8,
    items=400,
    brands=12,
    category_zipf=0.3,
    item_zipf=1.3,
    price=60.0,
    price_ratio=1.8,
    taste_spread=0.5,
    sessions_a_day=0.52,
    sessions_spread=0.7,
    lifetime_days=400.0,
    lifetime_spread=0.3,
    desire_spread=0.5,
    comment_spread=0.2,
    share_spread=0.4,
    like_effect=0.1,
    price_effect=0.6,
    views_effect=0.5,
    purchase_effect=0.2,
    search_first=0.5,
    search=0.4,
    shelf=0.08,
    cart=0.03,
    purchase=0.4,
    comment=0.35,
    share=0.002,
    share_bought=150.0,
    leave=0.2,
    leave_cart=0.14,
    leave_bought=0.2,
    steps_max=40,
    step_seconds_min=10,
    step_seconds_max=45,
)

SHOPS = {shop.name: shop for shop in (FIRST, SECOND)}


def slot_ms(slot: int) -> int:
    """Return when a slot begins, in ms since the epoch.

    >>> (slot_ms(8) - START_MS) // HOUR_MS
    32
    """
    day, part = divmod(slot, SLOTS_A_DAY)
    return START_MS + day * DAY_MS + _OPENS_MS + part * _SLOT_MS
