"""``python -m models publish | promote | roll-back | shadow | list``: which model the workers use.

The registry is a folder or a place in an object store; workers follow the one that their setting
``registry`` names.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from models.precision import LOSS_MAX, CompressError, LossMax, Precision
from stream_app.manifest import Manifest, read_manifest
from stream_app.registry import Registry, Release
from stream_app.stages.candidates import POOL_SIZE

Url = Annotated[
    str,
    typer.Option("--registry", envvar="STREAM_APP_REGISTRY", help="folder, or URL of fsspec"),
]
Name = Annotated[str, typer.Argument(help="of the model")]
Version = Annotated[str, typer.Argument(help="of the model")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for a program to read")]

app = typer.Typer()


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="that an export has written")],
    registry: Url,
    *,
    promote: Annotated[bool, typer.Option("--promote", help="let it serve at once")] = False,
    loss_max: LossMax = LOSS_MAX,
) -> None:
    """Copy a model into the registry, where it stays as it is; nothing serves it yet.

    One in float16 or int8 must say what it lost by that, at most --loss-max.

    For example:

        python -m models publish build/ranker --registry s3://shop/models
    """
    check_loss(read_manifest(folder), loss_max)
    where = Registry(registry)
    release = where.publish(folder, POOL_SIZE)
    print(f"published {_named(release)}")
    if promote:
        where.promote(release, datetime.now(UTC))
        print(f"{_named(release)} serves now")


@app.command()
def promote(name: Name, version: Version, registry: Url) -> None:
    """Let a release serve: every worker loads it beside the old one and swaps between batches."""
    where = Registry(registry)
    release = where.find(name, version)
    where.promote(release, datetime.now(UTC))
    print(f"{_named(release)} serves now")


@app.command("roll-back")
def roll_back(registry: Url) -> None:
    """Let the release serve that served before the present one."""
    now = Registry(registry).roll_back().now
    assert now is not None, "there was one before"
    print(f"{_named(now)} serves again")


@app.command()
def shadow(
    registry: Url,
    name: Annotated[str | None, typer.Argument(help="of the model; none ends the shadow")] = None,
    version: Annotated[str | None, typer.Argument(help="of the model")] = None,
) -> None:
    """Let a release score what the serving one scores, without answering; metrics compare them."""
    where = Registry(registry)
    if (name is None) != (version is None):
        raise typer.BadParameter("give a name and a version, or neither to end the shadow")
    release = where.find(name, version) if name and version else None
    where.set_shadow(release)
    print(f"{_named(release)} is in the shadow" if release else "no model is in the shadow")


@app.command("list")
def list_(registry: Url, *, json: Json = False) -> None:
    """Show what was published, what serves, since when, and what is in the shadow."""
    where = Registry(registry)
    releases, served = where.releases(), where.served()
    if json:
        print(msgspec.json.encode({"releases": releases, "served": served}).decode())
        return
    since = {each.release: each.at for each in served.promotions}
    table = Table("model", "version", "serves", "last promoted")
    for release in releases:
        role = "now" if release == served.now else "shadow" if release == served.shadow else ""
        at = since.get(release)
        table.add_row(release.name, release.version, role, f"{at:%Y-%m-%d %H:%M}" if at else "")
    Console().print(table)


def check_loss(manifest: Manifest, loss_max: float) -> None:
    """Raise CompressError where a smaller model lost more than it may, or nobody knows how much."""
    if manifest.precision == Precision.FLOAT32:
        return
    loss = manifest.metrics.get("ndcg_loss")
    named = f"{manifest.name} {manifest.version}"
    if loss is None:
        raise CompressError(
            f"{named} holds {manifest.precision}, and its manifest does not say what NDCG@10 lost "
            "by that: compress the float32 model again with --build, the folder in which `python "
            "-m models train` left its requests, or publish the float32 model"
        )
    if not loss <= loss_max:
        raise CompressError(
            f"{named} lost {loss:.2%} of NDCG@10 by {manifest.precision}, more than the "
            f"{loss_max:.2%} of --loss-max: publish another precision, or allow more"
        )


def _named(release: Release) -> str:
    return f"{release.name} {release.version}"
