"""The ranking model: what it scores, and each reason for which one is refused."""

import itertools
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto

from stream_app import manifest as manifest_module
from stream_app.errors import ModelError
from stream_app.hashing import id_hash
from stream_app.ranker import TIMED_RUNS, Ranker
from stream_app.stages.features import HISTORY_SIZE
from stream_app.steps import FEATURE_NAMES
from tests import onnx_model as models
from tests.onnx_model import (
    ITEMS,
    POOL,
    WIDTH,
    expected,
    flip_bit,
    graph,
    probe,
    proposer,
    write_model,
)

HASHES = tuple(id_hash(item_id) for item_id in ITEMS)


def ticking(step_seconds: float = 0.0) -> Callable[[], float]:
    """Return a clock that is so much later at every look."""
    return itertools.count(0.0, step_seconds).__next__


def load(folder: Path, **over: Any) -> Ranker:
    """Return a model, loaded with a clock that stands still."""
    fields: dict[str, Any] = {"clock": ticking(), "milliseconds_max": 20.0, "pool_min": POOL}
    return Ranker.load(folder, **(fields | over))


def features(count: int, seed: int = 0) -> list[tuple[float, ...]]:
    """Return rows of features."""
    rng = random.Random(seed)
    return [tuple(rng.uniform(-3, 3) for _ in range(WIDTH)) for _ in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a good model."""
    return write_model(tmp_path / "model")


# --- what it scores -------------------------------------------------------------------------------


def test_scores_are_the_graph_s(folder: Path) -> None:
    """Hashes become tokens; the newest of the history stands last; scores keep the order."""
    ranker, rows = load(folder), features(3)
    found = ranker.scores(HASHES[:2], (HASHES[11], HASHES[0], HASHES[4]), rows)
    assert found == pytest.approx(expected([2, 3], [13, 2, 6], rows), abs=1e-5)
    assert (ranker.name, ranker.version) == (models.NAME, models.VERSION)


def test_unknown_items_share_a_token(folder: Path) -> None:
    """An item that the model does not know is token 1, as a candidate and in the history."""
    ranker, rows = load(folder), features(1) * 2
    strangers = id_hash("nobody"), id_hash("no one")
    found = ranker.scores(strangers[:1], strangers, rows)
    assert found == pytest.approx(expected([1], [1, 1], rows), abs=1e-5)
    assert found[0] == found[1]


def test_short_request_after_a_full_one_is_as_if_alone(folder: Path) -> None:
    """Nothing of a request is left in the buffers when the next one is shorter."""
    ranker, rows = load(folder), features(2)
    alone = ranker.scores((), HASHES[:2], rows)
    full = ranker.scores(HASHES * 5, (HASHES * 9)[:POOL], features(POOL, 1))
    for buffer in ranker._feeds.values():
        assert buffer.all()
    assert ranker.scores((), HASHES[:2], rows) == alone
    assert not ranker._history.any()
    assert not ranker._candidates[2:].any()
    assert not ranker._features[2 * WIDTH :].any()
    assert ranker.scores(HASHES * 5, (HASHES * 9)[:POOL], features(POOL, 1)) == full


def test_history_is_the_last_fifty(folder: Path) -> None:
    """Of a longer history the newest items count; the length is that of the features' stage."""
    assert manifest_module.HISTORY == HISTORY_SIZE == 50
    ranker, rows = load(folder), features(1)
    long = (HASHES[3],) * 9 + HASHES[:10] * 5
    assert ranker.scores(long, HASHES[:1], rows) == ranker.scores(long[-50:], HASHES[:1], rows)
    assert ranker.scores(long, HASHES[:1], rows) != ranker.scores(long[:50], HASHES[:1], rows)


def test_no_candidates_need_no_run(folder: Path) -> None:
    """A request without candidates has no scores."""
    assert load(folder).scores(HASHES, (), ()) == ()


def test_two_loads_score_alike(folder: Path) -> None:
    """What is scored depends on the folder and the request alone, to the bit."""
    rows = features(POOL)
    many = (HASHES * 9)[:POOL]
    assert load(folder).scores(HASHES, many, rows) == load(folder).scores(HASHES, many, rows)


def test_run_that_fails_is_nan(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the graph cannot compute raises nothing; it is NaN, and logged once."""
    ranker = load(folder)
    ranker._tokens[HASHES[0]] = 1_000
    for _ in range(2):
        found = ranker.scores((), HASHES[:2], features(2))
        assert len(found) == 2
        assert all(map(math.isnan, found))
    (entry,) = caplog.records
    assert entry.message.startswith("model tiny cannot answer a request: ")


def test_numbers_beyond_float32_raise_nothing(folder: Path) -> None:
    """A feature that no float32 holds gives no number, which the stage notices, and no error."""
    ranker = load(folder)
    with pytest.warns(RuntimeWarning, match="overflow"):
        (found,) = ranker.scores((), HASHES[:1], [(1e300,) * WIDTH])
    assert not math.isfinite(found)


def test_ids_hold_any_character_but_a_newline(tmp_path: Path) -> None:
    """Lines end at newlines alone; other separators belong to the id."""
    ids = ("a\rb", "c\u2028d", "e\x0bf", " g ")
    ranker = load(write_model(tmp_path, item_ids=ids))
    rows = features(4)
    found = ranker.scores((id_hash(" g "),), [id_hash(item_id) for item_id in ids], rows)
    assert found == pytest.approx(expected([5], [2, 3, 4, 5], rows, 4), abs=1e-5)


def test_first_of_two_ids_with_one_hash_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ids with one hash are one item: always the first."""
    monkeypatch.setattr("stream_app.ranker.event_hash", len)
    rows = features(2)
    found = load(folder).scores((3,), (3, 4), rows)  # i-0 to i-9 have three characters
    assert found == pytest.approx(expected([2], [2, 12], rows), abs=1e-5)


@pytest.mark.parametrize("opset", [13, manifest_module.OPSETS[-1]])
def test_opsets_that_are_let_in_run(tmp_path: Path, opset: int) -> None:
    """The newest opset that a manifest may name is one that onnxruntime has."""
    rows = features(2)
    ranker = load(write_model(tmp_path, onnx=graph(opset=opset), opset=opset))
    found = ranker.scores(HASHES[:1], HASHES[:2], rows)
    assert found == pytest.approx(expected([2], [2, 3], rows), abs=1e-5)


# --- why one is refused ---------------------------------------------------------------------------


def refusal(folder: Path, **over: Any) -> tuple[str, str]:
    """Return the reason and the sentence with which a model is refused."""
    with pytest.raises(ModelError) as refused:
        load(folder, **over)
    return refused.value.reason, str(refused.value)


@pytest.mark.parametrize("name", ["manifest.json", "ranker.onnx", "items.txt"])
def test_missing_file_is_refused(folder: Path, name: str) -> None:
    """A file that is not there is named, and what is wanted is said."""
    (folder / name).unlink()
    reason, sentence = refusal(folder)
    assert reason == "missing"
    assert f"{name} cannot be read: No such file" in sentence
    assert "set `model` to a folder" in sentence


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """A folder that is not there, or a file in its place, is as if nothing was in it."""
    assert refusal(tmp_path / "nowhere")[0] == "missing"
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file")[0] == "missing"


@pytest.mark.parametrize("name", ["ranker.onnx", "items.txt"])
def test_flipped_bit_is_refused(folder: Path, name: str) -> None:
    """One changed bit in a file is seen by its hash, wherever it is."""
    size = (folder / name).stat().st_size
    for place in (0, size // 2, size - 1):
        flip_bit(folder / name, place)
        reason, sentence = refusal(folder)
        assert reason == "corrupt"
        assert f"{name} is not the file that manifest.json names" in sentence
        flip_bit(folder / name, place)
    load(folder)


def test_flipped_bits_of_a_manifest_change_no_score(folder: Path) -> None:
    """A manifest with a changed bit is refused with a reason, or the model scores as before."""
    path, rows = folder / "manifest.json", features(1)
    right = load(folder).scores((), HASHES[:1], rows)
    reasons: set[str] = set()
    for place in range(0, path.stat().st_size, 61):
        flip_bit(path, place, place % 8)
        try:
            ranker = load(folder)
        except ModelError as error:
            reasons.add(error.reason)
        else:
            assert ranker.scores((), HASHES[:1], rows) == right
        flip_bit(path, place, place % 8)
    assert {"corrupt", "mismatch"} <= reasons <= {"corrupt", "mismatch", "wrong_scores"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a manifest"),
        ("[]", "Expected `object`"),
        ('{"format": 1}', "missing required field"),
        ('{"format": "1"}', r"\$\.format"),
        ("\udcff", "is not a manifest"),
    ],
)
def test_file_that_is_no_manifest_is_refused(folder: Path, text: str, said: str) -> None:
    """What is no manifest is refused with what is wrong in it."""
    (folder / "manifest.json").write_text(text, errors="surrogateescape")
    reason, sentence = refusal(folder)
    assert reason == "corrupt"
    assert re.search(said, sentence)
    assert sentence.endswith("export the model again")


NAMES = list(FEATURE_NAMES)
DATA = {"source": "x", "from": "2017-01-01T00:00:00", "until": "2017-11-05T00:00:00Z", "events": 1}


@pytest.mark.parametrize(
    ("over", "reason", "said"),
    [
        ({"version": ""}, "corrupt", "length >= 1 - at `$.version`"),
        ({"data": DATA}, "corrupt", "timezone component - at `$.data.from`"),
        ({"probes": []}, "corrupt", "length >= 1 - at `$.probes`"),
        ({"files": {}}, "corrupt", "its SHA-256 is another one"),
        ({"metrics": None}, "corrupt", "missing required field `metrics`"),
        ({"format": 2}, "mismatch", "format 2, and this program reads 1"),
        ({"features": NAMES[:-1]}, "mismatch", "its features are"),
        ({"features": [*NAMES[1:], NAMES[0]]}, "mismatch", "in this order"),
        ({"history": 20}, "mismatch", "a history of 20 items, and this program has 50"),
        ({"pool": POOL - 1}, "mismatch", f"{POOL - 1} candidates, and a request has up to {POOL}"),
        ({"pool": POOL + 1}, "mismatch", "probe 1 of manifest.json has not the shape"),
        ({"opset": 99}, "mismatch", "its opset is 99, and onnxruntime here runs 7 to 28"),
        ({"items": 5}, "mismatch", "or tokens that it does not have"),
        ({"items": 13}, "mismatch", "items.txt has 12 items, and manifest.json says 13"),
        ({"items": b"i\n" * 12}, "mismatch", "items.txt names an item twice"),
        ({"items": b"\n".join(b"%d" % n for n in range(13))}, "mismatch", "end with a newline"),
        ({"items": b"\xff\n" * 12}, "corrupt", "items.txt is not UTF-8"),
        ({"onnx": b"no graph"}, "corrupt", "onnxruntime cannot load ranker.onnx"),
        ({"onnx": b""}, "corrupt", "onnxruntime cannot load ranker.onnx"),
        ({"onnx": graph()[:-40]}, "corrupt", "onnxruntime cannot load ranker.onnx"),
        ({"onnx": graph(pool=POOL + 1)}, "mismatch", "has the inputs"),
        ({"onnx": graph(width=WIDTH + 1)}, "mismatch", "has the inputs"),
        ({"onnx": graph(tokens=TensorProto.INT64)}, "mismatch", "tensor(int64)"),
        ({"onnx": graph(output="logits")}, "mismatch", "has the outputs {'logits'"),
        ({"onnx": graph(11)}, "mismatch", "cannot answer probe 1"),
        ({"onnx": graph(last="Acos")}, "not_finite", "no number, or beyond 1,000,000"),
        ({"onnx": graph(seed=1)}, "wrong_scores", "0.001 at most"),
    ],
)
def test_model_that_does_not_fit_is_refused(
    tmp_path: Path, over: dict[str, Any], reason: str, said: str
) -> None:
    """What does not fit is refused with its reason, and a sentence that ends with what to do."""
    model = write_model(tmp_path, **{k: v for k, v in over.items() if k != "items"})
    if isinstance(over.get("items"), bytes):
        write_model(tmp_path, items=over["items"])
    elif "items" in over:
        manifest = (model / "manifest.json").read_bytes()
        changed = manifest.replace(b'"items":12', b'"items":%d' % over["items"])
        (model / "manifest.json").write_bytes(changed)
    found, sentence = refusal(model)
    assert found == reason
    assert said in sentence
    assert any(verb in sentence for verb in ("export", "train", "set"))


def test_graph_that_fails_without_history_is_refused(tmp_path: Path) -> None:
    """Scores that are no numbers where a user has no history are found, though no probe has it."""
    good = probe()
    scores = [1.0 / score for score in good["scores"]]
    only = {**good, "scores": scores}
    reason, sentence = refusal(write_model(tmp_path, onnx=graph(last="Reciprocal"), probes=[only]))
    assert reason == "not_finite"
    assert "a request without history" in sentence


def test_slow_model_is_refused(folder: Path) -> None:
    """A model whose median run takes longer than allowed is refused; as long is not longer."""
    reason, sentence = refusal(folder, clock=ticking(0.0205))
    assert reason == "too_slow"
    assert f"takes 20.5 ms an answer (median of {TIMED_RUNS})" in sentence
    assert "raise model_ms_max" in sentence
    assert load(folder, clock=ticking(0.0195)).milliseconds == pytest.approx(19.5)


def test_one_slow_run_is_forgiven(folder: Path) -> None:
    """The median counts, so that a pause of the machine refuses no model."""
    times = itertools.chain([0.0, 5.0], itertools.count(6.0, 0.001))
    assert load(folder, clock=times.__next__).milliseconds == pytest.approx(1.0)


# --- what it proposes -----------------------------------------------------------------------------


def proposing(folder: Path, **over: Any) -> Path:
    """Return the folder of a model that proposes four items."""
    return write_model(folder / "proposing", **{"proposing": proposer()} | over)


def test_proposals_are_items_in_the_graph_s_order(tmp_path: Path) -> None:
    """Tokens become hashes, the best first; padding and the unknown item are left out."""
    table, _ = models.parameters(len(ITEMS))
    history = [2, 5]
    best = (table @ table[history].sum(0)).argsort()[::-1][:4]
    ranker = load(proposing(tmp_path))
    wanted = tuple(HASHES[token - 2] for token in best if token >= 2)
    assert ranker.propose((HASHES[0], HASHES[3])) == wanted
    assert wanted


def test_proposals_depend_on_the_history_alone(tmp_path: Path) -> None:
    """What was scored or proposed before leaves nothing behind, and the other way round."""
    ranker, rows = load(proposing(tmp_path)), features(2)
    alone = ranker.propose(HASHES[:2]), ranker.scores(HASHES[:3], HASHES[:2], rows)
    ranker.scores(HASHES * 5, (HASHES * 9)[:POOL], features(POOL, 1))
    ranker.propose(HASHES * 9)
    assert (ranker.propose(HASHES[:2]), ranker.scores(HASHES[:3], HASHES[:2], rows)) == alone
    assert ranker.propose(HASHES * 9) == ranker.propose((HASHES * 9)[-50:])


def test_without_a_proposer_nothing_is_proposed(folder: Path) -> None:
    """A folder of three files proposes nothing."""
    assert load(folder).propose(HASHES[:2]) == ()


def test_proposer_that_fails_proposes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the second graph cannot answer raises nothing, and is logged once."""
    ranker = load(proposing(tmp_path))
    ranker._tokens[HASHES[0]] = 1_000
    assert ranker.propose(HASHES[:1]) == ranker.propose(HASHES[:1]) == ()
    (entry,) = caplog.records
    assert entry.message.startswith("model tiny cannot answer a request: ")


@pytest.mark.parametrize(
    ("over", "reason", "said"),
    [
        ({"proposing": b"no graph"}, "corrupt", "cannot load proposer.onnx"),
        ({"proposing": graph()}, "mismatch", "proposer.onnx has the inputs"),
        ({"proposes": 5}, "mismatch", "proposer.onnx has the outputs"),
        ({"proposing": proposer(shift=90)}, "mismatch", "tokens that are none of the 12 items"),
        ({"proposing": proposer(shift=-90)}, "mismatch", "tokens that are none of the 12 items"),
    ],
)
def test_bad_proposer_is_refused(
    tmp_path: Path, over: dict[str, Any], reason: str, said: str
) -> None:
    """A second graph that is none, or fits neither manifest nor items, is refused with a reason."""
    with pytest.raises(ModelError, match=said) as found:
        load(proposing(tmp_path, **over))
    assert found.value.reason == reason


def test_missing_or_damaged_proposer_is_refused(tmp_path: Path) -> None:
    """The second graph is hashed, like the first."""
    folder = proposing(tmp_path)
    flip_bit(folder / "proposer.onnx")
    with pytest.raises(ModelError, match=r"proposer\.onnx is not the file"):
        load(folder)
    (folder / "proposer.onnx").unlink()
    with pytest.raises(ModelError, match=r"proposer\.onnx cannot be read"):
        load(folder)
