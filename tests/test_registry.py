"""The registry: releases never change, what serves can be rolled back, and every fault is named."""

from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest

from stream_app.errors import ModelError
from stream_app.manifest import CARD
from stream_app.registry import HISTORY_MAX, SERVED, Registry, RegistryError, Release
from tests.onnx_model import NAME, POOL, flip_bit, proposer, write_model

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["folder", "store"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    """Return an empty registry: a folder, or an object store (fsspec's own, in memory)."""
    if request.param == "folder":
        return Registry(str(tmp_path / "registry"))
    return Registry(f"memory://{tmp_path.name}/registry")


def publish(registry: Registry, folder: Path, version: str) -> Release:
    """Publish a small model under a version."""
    return registry.publish(write_model(folder / version, version=version), POOL)


def test_empty_registry_serves_nothing(registry: Registry) -> None:
    """Before anything is published there are no releases, and nothing serves."""
    assert registry.releases() == []
    assert registry.served().now is None


def test_published_release_is_found_and_fetched(registry: Registry, tmp_path: Path) -> None:
    """What is fetched is what was published, byte for byte."""
    release = publish(registry, tmp_path, "1")
    assert registry.releases() == [registry.find(NAME, "1")] == [release]
    registry.fetch(release, tmp_path / "fetched")
    for path in (tmp_path / "1").iterdir():
        assert (tmp_path / "fetched" / path.name).read_bytes() == path.read_bytes()


def test_model_card_is_published_too(registry: Registry, tmp_path: Path) -> None:
    """Whoever looks into the registry finds the card beside the model; workers do not fetch it."""
    folder = write_model(tmp_path / "model")
    (folder / CARD).write_text("what it is for", "utf-8")
    release = registry.publish(folder, POOL)
    files, root = fsspec.core.url_to_fs(f"{registry.url}/{release.place}")
    assert files.cat_file(f"{root}/{CARD}") == b"what it is for"
    registry.fetch(release, tmp_path / "fetched")
    assert not (tmp_path / "fetched" / CARD).exists()


def test_proposer_is_published_too(registry: Registry, tmp_path: Path) -> None:
    """A model of two graphs is fetched with both."""
    folder = write_model(tmp_path / "both", proposing=proposer())
    registry.fetch(registry.publish(folder, POOL), tmp_path / "fetched")
    names = {path.name for path in (tmp_path / "fetched").iterdir()}
    assert names == {"manifest.json", "ranker.onnx", "items.txt", "proposer.onnx"}
    assert (tmp_path / "fetched/proposer.onnx").read_bytes() == proposer()


def test_release_never_changes(registry: Registry, tmp_path: Path) -> None:
    """A version that is there already is refused, whatever is in the folder."""
    publish(registry, tmp_path, "1")
    with pytest.raises(RegistryError, match="has tiny 1 already, and a release never changes"):
        publish(registry, tmp_path / "again", "1")


def test_damaged_model_is_not_published(registry: Registry, tmp_path: Path) -> None:
    """A model is checked before it is copied."""
    folder = write_model(tmp_path / "model")
    flip_bit(folder / "ranker.onnx")
    with pytest.raises(ModelError, match=r"ranker\.onnx is not the file"):
        registry.publish(folder, POOL)
    assert registry.releases() == []


@pytest.mark.parametrize("version", ["../../up", "a/b", ".hidden", "with space"])
def test_version_stays_in_its_place(registry: Registry, tmp_path: Path, version: str) -> None:
    """A version that would lead elsewhere is refused."""
    folder = write_model(tmp_path / "model", version=version)
    with pytest.raises(RegistryError, match="makes no folder"):
        registry.publish(folder, POOL)


def test_promotions_and_roll_backs(registry: Registry, tmp_path: Path) -> None:
    """The last one promoted serves; each roll-back brings back the one before, until none is."""
    one, two, three = (publish(registry, tmp_path, version) for version in "123")
    for release in (one, two, three):
        registry.promote(release, AT)
    assert registry.promote(three, AT) == registry.served()
    assert registry.served().now == three
    assert registry.roll_back().now == two
    assert registry.roll_back().now == registry.served().now == one
    with pytest.raises(RegistryError, match="nothing served before"):
        registry.roll_back()


def test_history_is_bounded(registry: Registry, tmp_path: Path) -> None:
    """Only the last promotions are remembered."""
    releases = [publish(registry, tmp_path, version) for version in "12"]
    for number in range(HISTORY_MAX + 5):
        registry.promote(releases[number % 2], AT)
    assert len(registry.served().promotions) == HISTORY_MAX


def test_shadow_comes_and_goes(registry: Registry, tmp_path: Path) -> None:
    """A shadow is remembered beside what serves, and changes nothing of it."""
    one, two = (publish(registry, tmp_path, version) for version in "12")
    registry.promote(one, AT)
    registry.set_shadow(two)
    assert (registry.served().now, registry.served().shadow) == (one, two)
    registry.set_shadow(None)
    assert (registry.served().now, registry.served().shadow) == (one, None)


def test_another_manifest_is_refused(tmp_path: Path) -> None:
    """A manifest that is not the promoted one is refused, since it vouches for the other files."""
    registry = Registry(str(tmp_path / "registry"))
    release = publish(registry, tmp_path, "1")
    flip_bit(tmp_path / "registry" / release.place / "manifest.json")
    with pytest.raises(ModelError, match="is not the one that was promoted"):
        registry.fetch(release, tmp_path / "fetched")


def test_unknown_release_is_named(registry: Registry) -> None:
    """A release that is not there is named, with how to see what is."""
    with pytest.raises(RegistryError, match="has no release tiny 9"):
        registry.find("tiny", "9")


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', "\x00"])
def test_damaged_list_is_named(tmp_path: Path, text: str) -> None:
    """A list of what serves that cannot be read is an error with its place, and no traceback."""
    (tmp_path / SERVED).write_text(text)
    with pytest.raises(RegistryError, match=rf"{SERVED} (cannot be read|has format 2)"):
        Registry(str(tmp_path)).served()


@pytest.mark.parametrize("url", ["nowhere://models", "s3://bucket/models"])
def test_unknown_store_is_named(url: str) -> None:
    """A store that fsspec does not know here is named, with what to install if that helps."""
    with pytest.raises(RegistryError, match=rf"registry {url}: "):
        Registry(url)


def test_unreadable_registry_is_named(tmp_path: Path) -> None:
    """What a file system raises becomes one sentence."""
    (tmp_path / SERVED).mkdir()
    with pytest.raises(RegistryError, match="cannot be read: "):
        Registry(str(tmp_path)).served()
