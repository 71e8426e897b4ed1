"""The words of a report on all that is learned; figures are put in where braces stand."""

RANKER_PARTS = {
    "activity": "orders of the user before the request, in thirds of the requests",
    "age": "time since anybody first bought the item",
    "popularity": "how often the item was bought before these weeks",
}
NETWORKS_PARTS = {
    "activity": "items in the user's history, in thirds of the users",
    "age": "time since anybody first had the item",
    "popularity": "how many users had the item in what is learned from",
}

PAGE = """\
# All that is learned, judged

Made by `python -m models evaluate --report`; all figures are in [evaluation.json](evaluation.json).
Intervals are 95 % percentile intervals of a bootstrap that draws users, each with all that is
theirs; differences are taken on the same draws. What is best, by NDCG@10 or ROC AUC:

{summary}
"""

RANKER = """\
## Ranking the stream's candidates

*ranker* is {ranker}, which `python -m models train` left: {packaged}.

Before each of {requests:,} baskets of {users:,} users from {since} to {until}, the stream was asked
what to recommend, with {partitions} partitions. Every way ranks all of the same candidates, those
that the stream proposed; none are sampled. They hold {reachable:.4f} of a basket on average, which
bounds the recall. Nothing was trained on these weeks.

{main}

- *coverage* is the share of the {known:,} items that had been bought before these weeks which stand
  among the first ten at least once; *novelty* the mean of -log2 of an item's share of the purchases
  before.
- *formula* is what the stream answers with when it has no model.
- *popularity*, *personal frequency* and *co-visitation* go by one thing that the stream counts, all
  of them decayed: a share of all purchases (at most 3 %, more are equal), the user's own, and what
  came after the user's last ten items; ties go by popularity.
- *logistic regression* and *boosted trees* were fitted to the candidates of the four weeks before,
  on the features that the ranker sees.
- *SASRec alone* is the ranker's encoder without the head that weighs it with these features; it
  cannot tell apart items without a name.
- *ranker and online re-scorer* goes on learning after each basket; it is not served.

![recall at k of each way](recall.png)

How much each is ahead, on the same draws of users:

{leads}

At every depth; a basket's precision divides by the places shown:

{depths}

### For whom, and of which items

Recall@10 by the user's activity, and the share of a basket's items that are among the first ten by
the item's age and popularity; in parentheses how many requests or items there are. The shop's data
begin with its year, so no item is known to be older.

![accuracy by activity, age and popularity](parts.png)

{parts}"""

TEMPORAL = """\
Everything before {validation} is learned from; the last new item of a user from then to {test} says
when to stop, and the first new item of each user from {test} on is to be found"""
LEAVE_ONE_OUT = """\
Of each user the last new item is to be found and the last but one says when to stop; what is before
is learned from, also where other users' tests are earlier"""

NETWORKS = """\
## Networks and baselines, ranking all items

{data}, events of {kinds}: {users:,} users to learn from with {events:,} items in their histories,
{items:,} different ones{least}. {split}: one item of each of {judged:,} users. All
items are ranked, but those of the user's history; none are sampled.

What is asked for is something *new* to the user, as in public benchmarks: of each user and item
only the first event counts. What people mostly do, at a grocer's, is to buy again what they bought
before; this says nothing of it. With one item held back, precision@k is recall@k / k, F1@k is
2 recall@k / (k + 1), and MRR@k the mean of 1 / its place.

{main}

- *coverage* is the share of the {known:,} items that are learned from which stand among the first
  ten at least once; *novelty* the mean of -log2 of an item's share of these histories.
- *{personal}* is left with popularity here, since what the user had is not ranked.
- Equal scores stand by a hash of the item. Items that were bought at one time stand as they came.
- Networks have the settings that `python -m models train` has for any data, and were not tuned on
  this; where users are few, Mult-VAE and CFGAN see fewer of them in a step.

![recall at k of each]({recall_picture})

How much each is ahead of *{base}*, the best of the baselines ({baselines}) here:

{leads}

At every depth:

{depths}

### For whom, and of which items

Recall@10 by the user's history, and by the item's age and popularity; in parentheses how many users
there are.

![accuracy by activity, age and popularity]({parts_picture})

{parts}
### How the networks learned

Training ends after {epochs_max} epochs, or five without a gain; the best one is kept.

{learning}

![loss and validation NDCG over the epochs]({learning_picture})
"""

BESIDE_RULES = """\
The others are logistic regressions on what they are named after, in days, fitted to the
{fitted_on:,} earlier cases whose outcome was known by then"""
BESIDE_TRUTH = """\
*{truth}* is the probability that this made-up shop drew by, which nobody can beat; {fitted_on:,}
earlier cases were learned from before"""

BEHAVIOR = """\
## {title}

{cases:,} predictions to {users:,} users from {since} to {until}, as the stream made and judged them
itself; it happened in {base_rate:.1%}. *{stream}* learns on the way, from each case after it was
judged. {others}; *{base}* says the same of everyone. Accuracy, precision, recall and F1
are those at {threshold:g}, {rule}.

{table}

![ROC, precision and recall, calibration, gain, lift, and loss over time]({picture})
"""

TRAINING = """\
## Training of the ranker

| epoch | encoder's loss | head's loss | validation Recall@10 | validation NDCG@10 |
|---|---|---|---|---|
{epochs}

![losses and validation NDCG over the epochs](training.png)
"""
