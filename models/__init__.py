"""Offline training: what learns from the log in minutes, and leaves a file that the stream serves.

In the order of the work::

    replay.py     baskets, the questions before them, a partition of the program in this process
    data.py       a shop's events -> requests with their candidates, through the program itself
    networks.py   the ranker: a sequence encoder (SASRec) and a head that weighs it with features
    baselines.py  the formula, a logistic regression, boosted trees: what the network must beat
    train.py      gradient descent with early stopping, checkpoints and curves
    evaluate.py   how good rankings of candidates are: recall, hit rate, NDCG, with intervals
    report.py     the table, curves and page of an evaluation
    online.py     would an online re-scorer pay? measured, not served
    export.py     the ONNX file, its manifest and probes; parity of both
    compress.py   the table of items as float16 or int8
    variants.py   what that costs: bytes, time, NDCG, lists that change
    wrap.py       a graph that was trained elsewhere becomes such a folder
    adapt.py      what such a graph takes and gives, and the nodes around it
    folder.py     the folder, written whole or not at all
    card.py       the model card
    registry.py   which model the workers use
    __main__.py   python -m models train | evaluate | export, and the commands of the others

Nothing of ``stream_app`` imports this: an exported folder crosses over, no code.
"""
