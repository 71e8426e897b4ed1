"""The live catalogue as it is read: what each record does to the world."""

from prometheus_client import REGISTRY

from stream_app.config import Settings
from stream_app.event import Item, encode
from stream_app.hashing import id_hash
from stream_app.runtime.catalog import CatalogReader
from stream_app.runtime.task import World
from stream_app.runtime.topics import Topology


def test_records_keep_catalogue_and_shelves_in_step() -> None:
    """An item that comes, changes, or goes does so in the catalogue and on the shelves alike."""
    world, settings = World(), Settings()
    reader = CatalogReader(settings, Topology({settings.topic("catalog"): 1}, "topic-id"), world)
    one = Item(item_id="a", category=["milk"])
    for item in (one, Item(item_id="b", category=["milk"])):
        reader.take(item.item_id.encode(), encode(item))
    assert set(world.shelves.catalog) == {"a", "b"}
    assert list(world.shelves.near(id_hash("a"))) == [id_hash("b")]
    hidden = Item(item_id="b", category=["milk"], hidden=True)
    reader.take(b"b", encode(hidden))
    assert world.shelves.catalog["b"] == hidden
    assert world.shelves.near(id_hash("a")) == {}
    before = REGISTRY.get_sample_value("stream_app_catalog_rejects_total") or 0
    reader.take(b"c", b"no item")
    assert REGISTRY.get_sample_value("stream_app_catalog_rejects_total") == before + 1
    reader.take(b"b", None)
    reader.take(None, None)
    assert world.shelves.catalog == {"a": one}
    assert set(world.shelves.known) == {id_hash("a")}
