"""The topics: what they must be like, making them, saying what is wrong with those there are."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from stream_app.config import Settings
from stream_app.errors import StreamAppError, TopicError, UnreachableError

_HOUR_MS = 3_600_000
# How long to look for a broker.
_ANSWER_MS_MAX = 10_000
_AGAIN_MS_MAX = 1_000
_FOREVER = "-1"
_STATE_MESSAGE_BYTES_MAX = 8 * 1024 * 1024
_DEAD_LETTER_BYTES_MAX = 2 * 1024 * 1024


class Topology(msgspec.Struct, frozen=True):
    """What the broker says of the topics: partition counts by real name, and the source's id."""

    partitions: dict[str, int]
    source_id: str


def wanted(settings: Settings) -> dict[str, dict[str, str]]:
    """Return the configuration that each topic needs, by real name."""
    events: dict[str, str] = (
        {"retention.ms": _FOREVER}
        if settings.replay
        else {"message.timestamp.after.max.ms": str(_HOUR_MS)}
    )
    return {
        settings.topic("events"): events,
        settings.topic("catalog"): {"cleanup.policy": "compact"},
        settings.topic("recommendations"): {},
        settings.topic("predictions"): {},
        settings.topic("churn_alerts"): {},
        settings.topic("dead_letter"): {"max.message.bytes": str(_DEAD_LETTER_BYTES_MAX)},
        settings.state_topic: {
            "cleanup.policy": "compact",
            "max.message.bytes": str(_STATE_MESSAGE_BYTES_MAX),
            "segment.bytes": str(64 * 1024 * 1024),
        },
    }


def create(settings: Settings) -> list[str]:
    """Make the topics that are missing; return their names.

    Raises
    ------
    UnreachableError
        When no broker answers.
    TopicError
        When the broker refuses.
    """
    topics = wanted(settings)
    try:
        with _admin(settings) as admin:
            present = set(admin.list_topics())
            missing = {
                name: {
                    "num_partitions": settings.partitions,
                    "replication_factor": settings.replication,
                    "configs": configs,
                }
                for name, configs in topics.items()
                if name not in present
            }
            if missing:
                admin.create_topics(missing, wait_for_metadata=True)
            return list(missing)
    except KafkaError as error:
        raise _failed(settings, "make the topics", error) from error


def check(settings: Settings) -> list[str]:
    """Return what is wrong with the topics, a sentence each; nothing when all is well."""
    try:
        with _admin(settings) as admin:
            counts, faults = _describe(admin, settings)
            if not faults:
                configs = _configs(admin, counts)
                faults = _check_configs(settings, configs)
    except KafkaError as error:
        raise _failed(settings, "describe the topics", error) from error
    state, source = settings.state_topic, settings.topic("events")
    if not faults and counts[state] != counts[source]:
        faults.append(
            f"{state} has {counts[state]} partitions, it must have {counts[source]} like {source}"
        )
    return faults


def topology(settings: Settings) -> Topology:
    """Return the partition counts and the source's id.

    Raises
    ------
    UnreachableError
        When no broker answers.
    TopicError
        When a topic is missing, or state and source differ in partitions.
    """
    try:
        with _quiet(), _admin(settings) as admin:
            counts, faults = _describe(admin, settings)
            source = settings.topic("events")
            if not faults and counts[settings.state_topic] != counts[source]:
                faults = [f"{settings.state_topic} must have {counts[source]} partitions"]
            if faults:
                raise TopicError("; ".join(faults) + ". Run: stream-app topics create")
            (description,) = admin.describe_topics([source])
            return Topology(counts, str(description["topic_id"] or ""))
    except KafkaError as error:
        raise _failed(settings, "describe the topics", error) from error


def _admin(settings: Settings) -> KafkaAdminClient:
    return KafkaAdminClient(
        bootstrap_servers=settings.brokers.split(","),
        client_id=settings.app,
        bootstrap_timeout_ms=_ANSWER_MS_MAX,
        reconnect_backoff_max_ms=_AGAIN_MS_MAX,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the client from telling each try to reach a broker: what is raised says it once."""
    logger = logging.getLogger("kafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _failed(settings: Settings, doing: str, error: KafkaError) -> StreamAppError:
    if isinstance(error, KafkaConnectionError | KafkaTimeoutError):
        return UnreachableError(settings.brokers, error)
    return TopicError(f"the broker at {settings.brokers} did not {doing}: {error}")


def _describe(admin: KafkaAdminClient, settings: Settings) -> tuple[dict[str, int], list[str]]:
    names = list(wanted(settings))
    found = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(names)}
    counts = {name: found.get(name, 0) for name in names}
    return counts, [f"topic {name} is missing" for name, count in counts.items() if not count]


def _configs(admin: KafkaAdminClient, names: Mapping[str, int]) -> dict[str, dict[str, str | None]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    described = admin.describe_configs(resources, config_filter="all")
    return {
        name: {key: entry["value"] for key, entry in entries.items()}
        for name, entries in described["topic"].items()
    }


def _check_configs(
    settings: Settings, configs: Mapping[str, Mapping[str, str | None]]
) -> list[str]:
    """Compare what matters: compaction, sizes, and whether a producer can date records ahead."""
    faults = []
    state = settings.state_topic
    for name in (state, settings.topic("catalog")):
        policy = configs[name].get("cleanup.policy")
        if policy != "compact":
            faults.append(f"{name}: cleanup.policy is {policy}, it must be compact")
    for name, least in (
        (state, _STATE_MESSAGE_BYTES_MAX),
        (settings.topic("dead_letter"), settings.stages.record_bytes_max),
    ):
        size = int(configs[name].get("max.message.bytes") or 0)
        if size < least:
            faults.append(f"{name}: max.message.bytes is {size}, it must be at least {least}")
    source = settings.topic("events")
    if settings.replay:
        retention = configs[source].get("retention.ms")
        if retention != _FOREVER:
            faults.append(
                f"{source}: retention.ms is {retention}; a replay dates records in the past, so "
                "Kafka would delete them: set it to -1"
            )
    elif configs[source].get("message.timestamp.type") != "LogAppendTime":
        ahead = int(configs[source].get("message.timestamp.after.max.ms") or 0)
        if not 0 < ahead <= _HOUR_MS:
            faults.append(
                f"{source}: one record dated far ahead would fire every timer. Set message."
                f"timestamp.type=LogAppendTime, or message.timestamp.after.max.ms<={_HOUR_MS}"
            )
    return faults
