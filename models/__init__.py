"""Offline training: what learns from the log in minutes, and leaves a file that the stream serves.

Data from anywhere, cleaned as the stream would clean it, and runs that survive a kill::

    sources.py        a topic, a file or a shop -> a log of what stages 1 and 2 let through
    data_card.py      what it is like, and what may leak; a log -> sequences, by two splits
    data_commands.py  python -m models data
    checkpoint.py     arrays on disk, whole or not at all; a run goes on to the same bits
    parallel.py       a step of several processes, whose gradients are added up
    fit.py            python -m models train: a network of those below on any data
    ranker_trainer.py the served ranker on any data, from its last weights on
    retrain.py        python -m models retrain: when, against what serves, and whether to promote

Networks that say what comes next, one file for all four, and the benchmark of them::

    networks.py       SASRec, LRURec, Mult-VAE, CFGAN: each whole on a screen or two
    sequences.py      lines `user item item ...` -> histories, and what is held back
    counts.py         popularity, personal frequency, forward co-visitation, EASE
    descent.py        epochs with early stopping and checkpoints
    next_item.py      how SASRec and LRURec learn
    item_sets.py      how Mult-VAE and CFGAN learn
    all_scores.py     any of them as ONNX: a history -> scores of all items; parity
    mix.py            a network that proposes, and scores with the stream's counts: for workers
    served.py         the same within the stages, judged by what they answer
    leave_one_out.py  full ranking: recall and NDCG of the item that came next
    benchmark.py      all of them on one file: a table, a page, a line of JSON

The served ranker, in the order of the work::

    replay.py     baskets, the questions before them, a partition of the program in this process
    data.py       a shop's events -> requests with their candidates, through the program itself
    ranker_network.py  SASRec and a head that weighs what it says with the features
    baselines.py  the formula, a logistic regression, boosted trees: what the network must beat
    train.py      gradient descent with early stopping, checkpoints and curves
    demo_ranker.py  the demo's, from its shop's year
    evaluate.py   how good rankings of candidates are: recall, NDCG, ..., with intervals
    report.py     every way to rank the same candidates: scores, table, curves, page
    evaluation.py the report on all that is learned: its parts; evaluation_ranking.py (for whom,
                  which items), evaluation_networks.py (the networks alone, on any data, all items
                  ranked), evaluation_behavior.py (purchase, comment, share and churn as the stream
                  judged them); written by evaluation_page.py with evaluation_tables.py,
                  evaluation_words.py and evaluation_pictures.py
    online.py     would an online re-scorer pay? measured, not served
    export.py     the folder that workers load: ONNX, manifest and probes; parity
    compress.py   the table of items as float16 or int8
    variants.py   what that costs: bytes, time, NDCG, lists that change
    wrap.py       a graph that was trained elsewhere becomes such a folder
    adapt.py      what such a graph takes and gives, and the nodes around it
    folder.py     the folder, written whole or not at all
    card.py       the model card
    registry.py   which model the workers use
    __main__.py   python -m models evaluate | export | benchmark, and those of other modules

Items that nobody has bought yet, ranked by what they are::

    text_encoder.py   a sentence encoder (BERT) from published weights, as ONNX; texts -> vectors
    image_encoder.py  any encoder of pictures that is given as ONNX
    encode.py         python -m models encode: writes the first, and checks that it understands
    content.py        the content tower: vectors of text and picture -> rows of the ranker's tables
    longer.py         rows for new items at the end of a graph's tables
    extend.py         python -m models extend: a served model learns a catalogue's unseen items

Nothing of ``stream_app`` imports this: an exported folder crosses over, no code.
"""
