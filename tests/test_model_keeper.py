"""What a worker does about models: loads, follows the registry, keeps what serves if it must."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from stream_app.config import load as load_settings
from stream_app.errors import ConfigError
from stream_app.hashing import id_hash
from stream_app.registry import SERVED, Registry, Release
from stream_app.runtime.model import ModelKeeper
from stream_app.runtime.task import World
from tests.onnx_model import ITEMS, NAME, POOL, VERSION, WIDTH, flip_bit, graph, write_model

AT = datetime(2026, 1, 1, tzinfo=UTC)
SLOW_MS = 1_000.0  # the machine may be busy


def value(metric: str, **labels: str) -> float:
    """Return what a metric stands at."""
    return REGISTRY.get_sample_value(metric, labels) or 0.0


def keep(partitions: int = 4, **over: Any) -> tuple[ModelKeeper, World]:
    """Return a keeper and its world."""
    world = World()
    return ModelKeeper(load_settings(model_ms_max=SLOW_MS, **over), partitions, world), world


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a good model."""
    return write_model(tmp_path / "model")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Return an empty registry."""
    return Registry(str(tmp_path / "registry"))


def publish(registry: Registry, tmp_path: Path, version: str, **over: Any) -> Release:
    """Publish a small model and let it serve."""
    release = registry.publish(write_model(tmp_path / version, version=version, **over), POOL)
    registry.promote(release, AT)
    return release


# --- a folder -------------------------------------------------------------------------------------


def test_worker_without_a_model_loads_none() -> None:
    """Without a setting there is nothing to load, and nothing is refused."""
    keeper, world = keep()
    asyncio.run(keeper.start())
    assert world.ranker is None


def test_worker_says_what_it_loaded(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A loaded model stands in the log and in the metrics by name and version."""
    caplog.set_level("INFO")
    keeper, world = keep(model=folder)
    asyncio.run(keeper.start())
    assert world.ranker is not None
    assert value("stream_app_model_info", name=NAME, version=VERSION) == 1.0
    assert "model tiny, version 7: 12 items, trained on made up from 2017-01-01" in caplog.text
    assert not [entry for entry in caplog.records if entry.levelname == "WARNING"]


def test_worker_warns_of_another_number_of_partitions(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that was trained with other numbers of partitions is used, with a warning."""
    keeper, world = keep(3, model=folder)
    asyncio.run(keeper.start())
    assert world.ranker is not None
    (entry,) = caplog.records
    assert entry.levelname == "WARNING"
    assert "was trained with 1 or 4 partitions and the topic has 3" in entry.message


def test_worker_goes_on_when_a_model_is_refused(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal is an error in the log and counted by its reason, and nothing is raised."""
    flip_bit(folder / "ranker.onnx")
    before = value("stream_app_model_refusals_total", reason="corrupt")
    keeper, world = keep(model=folder)
    asyncio.run(keeper.start())
    assert world.ranker is None
    assert value("stream_app_model_refusals_total", reason="corrupt") == before + 1
    (entry,) = caplog.records
    assert entry.levelname == "ERROR"
    assert entry.message.startswith("model refused (corrupt): ranker.onnx is not the file")


def test_model_and_registry_contradict_each_other(folder: Path) -> None:
    """Only one setting may say what ranks."""
    with pytest.raises(ConfigError, match="give either `model` or `registry`"):
        load_settings(model=folder, registry="models")


# --- a registry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_promoted_release_takes_over(kind: str, tmp_path: Path) -> None:
    """At the next look the worker has what was promoted, and after a roll-back what was before.

    The registry is a folder, or an object store (fsspec's own, in memory).
    """
    place = tmp_path if kind == "folder" else f"memory://{tmp_path.name}"
    registry = Registry(f"{place}/registry")
    publish(registry, tmp_path, "1")
    keeper, world = keep(registry=registry.url)
    asyncio.run(keeper.start())
    assert world.ranker is not None
    assert world.ranker.version == "1"
    swaps = value("stream_app_model_swaps_total")
    publish(registry, tmp_path, "2")
    asyncio.run(keeper.look())
    assert world.ranker.version == "2"
    assert value("stream_app_model_swaps_total") == swaps + 1
    assert value("stream_app_model_info", name=NAME, version="2") == 1.0
    assert value("stream_app_model_info", name=NAME, version="1") == 0.0
    registry.roll_back()
    asyncio.run(keeper.look())
    assert world.ranker.version == "1"


def test_look_without_news_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    """A model is not loaded again while the same one serves."""
    publish(registry, tmp_path, "1")
    keeper, world = keep(registry=registry.url)
    asyncio.run(keeper.start())
    serving = world.ranker
    asyncio.run(keeper.look())
    assert world.ranker is serving


def publish_unchecked(registry: Registry, tmp_path: Path, version: str, **over: Any) -> Release:
    """Publish as a program of other features would have done, and let it serve."""
    write_model(tmp_path / "registry" / "releases" / NAME / version, version=version, **over)
    release = registry.find(NAME, version)
    registry.promote(release, AT)
    return release


REASONS = {
    "flipped bit": "corrupt",
    "not a number": "not_finite",
    "slow": "too_slow",
    "other features": "mismatch",
}


@pytest.mark.parametrize("fault", REASONS)
def test_refused_release_leaves_the_old_one(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    """A release that is damaged, gives no numbers, is slow or does not fit is refused once.

    The old one goes on, a metric counts the reason and a line in the log says it.
    """
    publish(registry, tmp_path, "1")
    keeper, world = keep(registry=registry.url)
    asyncio.run(keeper.start())
    serving = world.ranker
    over: dict[str, Any] = {"onnx": graph(last="Acos")} if fault == "not a number" else {}
    if fault == "other features":
        release = publish_unchecked(registry, tmp_path, "2", features=["price"])
    else:
        release = publish(registry, tmp_path, "2", **over)
    if fault == "flipped bit":
        flip_bit(tmp_path / "registry" / release.place / "ranker.onnx")
    if fault == "slow":
        keeper._settings = load_settings(registry=registry.url, model_ms_max=1e-6)
    reason = REASONS[fault]
    before = value("stream_app_model_refusals_total", reason=reason)
    caplog.clear()
    asyncio.run(keeper.look())
    asyncio.run(keeper.look())
    assert world.ranker is serving
    assert value("stream_app_model_refusals_total", reason=reason) == before + 1
    (entry,) = [entry for entry in caplog.records if entry.levelname == "ERROR"]
    assert entry.message.startswith(f"model refused ({reason}): ")
    assert value("stream_app_model_info", name=NAME, version="1") == 1.0


def test_new_model_is_warmed_up_on_real_requests(registry: Registry, tmp_path: Path) -> None:
    """The release that comes next has answered what the serving one was asked last."""
    publish(registry, tmp_path, "1")
    keeper, world = keep(registry=registry.url)
    asyncio.run(keeper.start())
    assert world.ranker is not None
    request = ((id_hash(ITEMS[0]),), (id_hash(ITEMS[1]),), ((0.5,) * WIDTH,))
    world.ranker.scores(*request)
    publish(registry, tmp_path, "2")
    asyncio.run(keeper.look())
    assert world.ranker.version == "2"
    assert list(world.ranker.recent) == [request]  # type: ignore[attr-defined]


def test_registry_that_cannot_be_read_is_said_once(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the registry fails what serves goes on; the log says so once; then it is followed."""
    publish(registry, tmp_path, "1")
    keeper, world = keep(registry=registry.url)
    asyncio.run(keeper.start())
    serving = world.ranker
    served = tmp_path / "registry" / SERVED
    text = served.read_text()
    served.write_text("{")
    caplog.clear()
    for _ in range(3):
        asyncio.run(keeper.look())
    assert world.ranker is serving
    (entry,) = caplog.records
    assert "cannot be read" in entry.message
    assert entry.message.endswith("what serves goes on serving")
    served.write_text(text)
    publish(registry, tmp_path, "2")
    asyncio.run(keeper.look())
    assert world.ranker is not None
    assert world.ranker.version == "2"


def test_shadow_is_loaded_and_let_go(registry: Registry, tmp_path: Path) -> None:
    """A shadow stands beside the model that ranks while the registry names one."""
    one = publish(registry, tmp_path, "1")
    two = publish(registry, tmp_path, "2")
    registry.promote(one, AT)
    registry.set_shadow(two)
    keeper, world = keep(registry=registry.url)
    asyncio.run(keeper.start())
    assert world.ranker is not None
    assert world.shadow is not None
    assert (world.ranker.version, world.shadow.version) == ("1", "2")
    registry.set_shadow(None)
    asyncio.run(keeper.look())
    assert world.ranker.version == "1"
    assert keeper._world.shadow is None
