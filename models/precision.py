"""In which precision a model may be stored, and what it may lose by that."""

from enum import StrEnum
from typing import Annotated

import typer

from stream_app.errors import StreamAppError

LOSS_MAX = 0.005  # of NDCG@10, relative


class Precision(StrEnum):
    """How the table of items is stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


class CompressError(StreamAppError):
    """A graph cannot be made smaller, or loses too much by it; whoever exports it acts."""


PrecisionOption = Annotated[Precision, typer.Option(help="of the table of items")]
LossMax = Annotated[
    float, typer.Option("--loss-max", min=0.0, max=1.0, help="of NDCG@10, relative")
]
