"""What must come out: the pipeline in one pass, record by record, without faults or batches."""

from collections.abc import Sequence

from msgspec import Struct

from stream_app.config import Settings
from stream_app.event import Catalog
from stream_app.pipeline import Context, next_batch, process
from stream_app.state import PartitionState
from stream_app.steps import OutputRecord, Outside, RawRecord

CATALOG_VERSION = "7"
TOPIC_ID = "topic-1"


class Source(Struct, frozen=True):
    """One source partition: where it begins, and what a reader of it sees."""

    partition: int
    first: int
    records: Sequence[RawRecord]


class Truth(Struct):
    """What one source partition gives: outputs by id, in order, and the state after the last."""

    outputs: dict[str, OutputRecord]
    state: PartitionState


def identity(headers: Sequence[tuple[str, bytes]]) -> str:
    """Return an output's id."""
    return dict(headers)["ce_id"].decode()


def tell(source: Source, settings: Settings, catalog: Catalog, slice_max: int = 1) -> Truth:
    """Return what one partition must give, cut into slices of at most ``slice_max`` records."""
    state, records = PartitionState(), source.records
    outside = Outside(CATALOG_VERSION)
    context = Context(settings.stages, settings.partitions, catalog, outside)
    state.begin(source.first, settings.partitions, TOPIC_ID)
    outputs: dict[str, OutputRecord] = {}
    done = 0
    while done < len(records):
        waiting = records[done : done + slice_max]
        topic, partition = settings.topic("events"), source.partition
        batch = next_batch(state, topic, partition, waiting, slice_max)
        for record in process(state, batch, context).records:
            name = identity(record.headers)
            assert name not in outputs, f"the pipeline itself gives {name} twice"
            outputs[name] = record
        state.changes()
        done += len(batch.records)
    return Truth(outputs, state)
