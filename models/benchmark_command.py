"""``python -m models benchmark``: every network and baseline on a file of sequences."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from models import benchmark
from models.benchmark import NAMES
from models.sequences import read
from stream_app.errors import StreamAppError

app = typer.Typer()
console = Console(stderr=True, width=100)


@app.command("benchmark")
def benchmark_(  # noqa: PLR0913 - an argument is an option
    sequences: Annotated[Path, typer.Option(help="lines `user item item ...`, oldest first")],
    models: Annotated[str | None, typer.Option(help=f"some of {','.join(NAMES)}")] = None,
    seed: Annotated[int, typer.Option(help="of all chance")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="of a network, at most")] = None,
    *,
    json: Annotated[bool, typer.Option(help="no table, the line of JSON only")] = False,
    write: Annotated[bool, typer.Option(help="docs/results/<name of the file>.*")] = False,
) -> None:
    """Train every network and baseline on a file of sequences and compare them, leave-one-out.

    A model that fails is null in the line of JSON; standard error says why, and the command ends
    with 1.
    """
    try:
        data, names = read(sequences), benchmark.chosen(models)
        with TemporaryDirectory() as folder:
            results = benchmark.run(data, names, seed, Path(folder), epochs)
    except StreamAppError as error:
        console.print(str(error))
        raise typer.Exit(1) from None
    if not json:
        console.print(benchmark.table(results))
    if write:
        benchmark.write(results, data, sequences.stem)
    print(msgspec.json.encode(benchmark.figures(results)).decode())
    if None in results.values():
        raise typer.Exit(1)
