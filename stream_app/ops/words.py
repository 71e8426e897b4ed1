"""Predictions and churn alerts in words."""

from stream_app.config import DAY_MS
from stream_app.event import ChurnAlert, Prediction

_WORDS = {"purchase": "buys", "comment": "comments", "share": "shares", "churn": "buys nothing"}


def span(ms: int) -> str:
    """Return a horizon in words.

    >>> span(1_800_000), span(7 * DAY_MS)
    ('30 minutes', '7 days')
    """
    days, rest = divmod(ms, DAY_MS)
    return f"{ms // 60_000} minutes" if rest else f"{days} days"


def foretold(target: str, horizon: str) -> str:
    """Return in words what is predicted.

    >>> foretold("purchase", "30 minutes"), foretold("churn", "28 days")
    ('buys within 30 minutes', 'buys nothing for 28 days')
    """
    return f"{_WORDS.get(target, target)} {'for' if target == 'churn' else 'within'} {horizon}"


def prediction(value: Prediction) -> str:
    """Return a prediction in words: each probability, and what it was made at."""
    horizon = span(value.horizon_ms)
    chances = ", ".join(
        f"{foretold(target, horizon)} {probability:.1%}"
        for target, probability in value.probabilities.items()
    )
    made = f"after event {value.cause.event_id}" if value.cause is not None else "as it was due"
    return f"{chances}; {made}, by {value.model} {value.model_version}"


def alert(value: ChurnAlert) -> str:
    """Return a churn alert in words: how grave, why, and what to offer."""
    why = "; ".join(value.reasons) or "no single reason"
    risk = f"{foretold('churn', span(value.horizon_ms))} {value.risk:.1%}"
    return f"{value.level}: {risk}: {why}; offer: {value.offer or 'none'}"
