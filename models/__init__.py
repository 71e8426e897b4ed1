"""Offline training: what learns from the log in minutes, and leaves a file that the stream serves.

Data from anywhere, cleaned as the stream would clean it, and runs that survive a kill::

    sources.py        a topic, a file or a shop -> a log of what stages 1 and 2 let through
    data_card.py      what it is like, and what may leak; a log -> sequences, by two splits
    data_commands.py  python -m models data
    checkpoint.py     arrays on disk, whole or not at all; a run goes on to the same bits
    parallel.py       a step of several processes, whose gradients are added up
    fit.py            python -m models fit: a network of those below on any data
    ranker_trainer.py the served ranker on any data, from its last weights on
    retrain.py        python -m models retrain: when, against what serves, and whether to promote

Networks that say what comes next, one file for all four, and the benchmark of them::

    networks.py       SASRec, LRURec, Mult-VAE, CFGAN: each whole on a screen or two
    sequences.py      lines `user item item ...` -> histories, and what is held back
    counts.py         popularity, personal frequency, forward co-visitation, EASE
    descent.py        epochs with early stopping and checkpoints
    next_item.py      how SASRec and LRURec learn
    item_sets.py      how Mult-VAE and CFGAN learn
    combined.py       co-visitation and a network as one, as a stream serves them
    leave_one_out.py  full ranking: recall and NDCG of the item that came next
    benchmark.py      all of them on one file: a table, a page, a line of JSON

The served ranker, in the order of the work::

    replay.py     baskets, the questions before them, a partition of the program in this process
    data.py       a shop's events -> requests with their candidates, through the program itself
    ranker_network.py  SASRec and a head that weighs what it says with the features
    baselines.py  the formula, a logistic regression, boosted trees: what the network must beat
    train.py      gradient descent with early stopping, checkpoints and curves
    evaluate.py   how good rankings of candidates are: recall, NDCG, ..., with intervals
    report.py     every way to rank the same candidates: scores, table, curves, page
    evaluation.py the report on all that is learned: page, pictures, figures, made of
                  evaluation_ranking.py (for whom, which items), evaluation_behavior.py (purchase
                  and churn as the stream judged them), evaluation_pictures.py
    online.py     would an online re-scorer pay? measured, not served
    export.py     the ONNX file, its manifest and probes; parity of both
    compress.py   the table of items as float16 or int8
    variants.py   what that costs: bytes, time, NDCG, lists that change
    wrap.py       a graph that was trained elsewhere becomes such a folder
    adapt.py      what such a graph takes and gives, and the nodes around it
    folder.py     the folder, written whole or not at all
    card.py       the model card
    registry.py   which model the workers use
    __main__.py   python -m models train | evaluate | export | benchmark, and those of other modules

Nothing of ``stream_app`` imports this: an exported folder crosses over, no code.
"""
