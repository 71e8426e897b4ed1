"""Settings: from the environment, a TOML file, or the defaults; checked before anything starts.

``STREAM_APP_GUARANTEE=at_least_once`` sets ``guarantee``, ``STREAM_APP_STAGES__TOP_K=20`` sets
``top_k`` of ``[stages]``. The file is ``stream_app.toml`` in the working directory, or the one that
``STREAM_APP_CONFIG`` names.
"""

import json
import os
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from stream_app.errors import ConfigError

DAY_MS = 86_400_000
Guarantee = Literal["exactly_once", "at_least_once"]
_NAME = r"^[A-Za-z0-9._-]{1,200}$"
_PREFIX = r"^[A-Za-z0-9._-]{0,100}$"
_BROKERS = r"^[^\s,:]+:\d+(,[^\s,:]+:\d+)*$"
# What is asked for, in words.
_PATTERNS = {
    _NAME: "should be 1 to 200 letters, digits, '.', '_' or '-'",
    _PREFIX: "should be up to 100 letters, digits, '.', '_' or '-'",
    _BROKERS: "should be host:port, more after commas, such as kafka-1:9092,kafka-2:9092",
}
Name = Annotated[str, Field(pattern=_NAME)]


class StageSettings(BaseModel):
    """What the stages do; the same settings and the same log give the same outputs."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    record_bytes_max: int = Field(65_536, ge=1_024, le=1_000_000)
    """Longer records, in bytes, are rejected."""
    future_ms_max: int = Field(300_000, ge=0)
    """An event dated later than its record by more is rejected."""
    lateness_ms_max: int = Field(600_000, ge=0)
    """An event older than the log by more is late: it is learned from, but teaches no co-visitation
    and prompts nothing."""
    check_partition: bool = True
    """Reject events in a partition that murmur2 does not give their key."""
    user_ttl_days: int = Field(400, ge=8, le=3_650)
    """Silence, in log time, that ends a user's row."""
    item_ttl_days: int = Field(180, ge=8, le=3_650)
    """Silence, in log time, that ends an item's row."""
    items_max: int = Field(200_000, ge=100, le=5_000_000)
    """Item rows of a partition; for one too many the least wanted leaves."""
    session_gap_minutes: int = Field(30, ge=1, le=1_440)
    """Silence that ends a session."""
    debounce_seconds: int = Field(60, ge=0)
    """Event time between two recommendations to a user that nobody asked for."""
    recommend_on: frozenset[Literal["view", "cart", "purchase"]] = frozenset(
        {"view", "cart", "purchase"}
    )
    """Types of event that prompt a recommendation."""
    top_k: int = Field(10, ge=1, le=50)
    """Items in a recommendation."""
    allow_repeat: bool = True
    """Recommend what the user has bought before."""
    category_cap: int = Field(0, ge=0)
    """Items of one category in a recommendation; 0 for no limit."""
    merchant_cap: int = Field(0, ge=0)
    """Items of one merchant in a recommendation; 0 for no limit."""
    exploration_share: float = Field(0.0, ge=0, le=0.5)
    """Share of recommendations whose last place goes to a candidate from below the cut."""
    session_horizon_minutes: int = Field(30, ge=1, le=1_440)
    """How far ahead behaviour is predicted at an event with a `session_id`."""
    horizon_days: int = Field(7, ge=1, le=28)
    """The same at an event without one."""
    learn_share_session: float = Field(0.5, ge=0, le=1)
    """Share of predictions with a `session_id` that are judged and learned from, as far as a user's
    row has room for them."""
    learn_share: float = Field(1.0, ge=0, le=1)
    """The same without one."""
    churn_horizon_days: int = Field(28, ge=7, le=28)
    """Churn is: no purchase for so long."""
    churn_active_days: int = Field(56, ge=7, le=365)
    """The risk of users who have bought within them is assessed weekly."""
    silence_days: tuple[Annotated[int, Field(ge=1, le=365)], ...] = Field(
        default=(10, 20, 30, 45), min_length=1
    )
    """On these days of a user's silence the risk is looked at too; they rise."""
    timer_jitter_minutes: int = Field(360, ge=0, le=1_440)
    """The weekly assessment is spread over so long, from Sunday 00:00 UTC on; 0 in a replay."""
    churn_watch: float = Field(0.3, gt=0, lt=1)
    """Risk from which on an alert of level `watch` is raised."""
    churn_warning: float = Field(0.5, gt=0, lt=1)
    """The same for `warning`; above `churn_watch`."""
    churn_critical: float = Field(0.7, gt=0, lt=1)
    """The same for `critical`; above `churn_warning`."""
    churn_hysteresis: float = Field(0.1, ge=0, lt=1)
    """A level ends when the risk has fallen so far below where it begins; below `churn_watch`."""
    churn_cooldown_days: int = Field(14, ge=0, le=365)
    """Between two alerts of a user, unless it gets graver."""
    offers: dict[Literal["watch", "warning", "critical"], str] = {
        "watch": "reminder",
        "warning": "free-delivery",
        "critical": "discount",
    }
    """What an alert proposes to offer, by its level."""
    context_field: str = "place"
    """Name in an event's `context` that says where the user is: what is wanted there is proposed
    there."""
    seed: str = "stream-app"
    """Key of every draw."""

    @field_validator("silence_days")
    @classmethod
    def _rising(cls, days: tuple[int, ...]) -> tuple[int, ...]:
        if list(days) != sorted(set(days)):
            raise ValueError("should rise from one to the next")
        return days

    @model_validator(mode="after")
    def _levels_rise(self) -> "StageSettings":
        if not self.churn_watch < self.churn_warning < self.churn_critical:
            raise ValueError(
                "churn_watch, churn_warning and churn_critical should rise from one to the next"
            )
        if self.churn_hysteresis >= self.churn_watch:
            raise ValueError("churn_hysteresis should be below churn_watch, or no level ever ends")
        return self

    def horizon_ms(self, *, in_session: bool) -> int:
        """Return for how long behaviour is predicted from an event on, in ms of event time."""
        return self.session_horizon_minutes * 60_000 if in_session else self.horizon_days * DAY_MS

    @property
    def churn_horizon_ms(self) -> int:
        """For how long no purchase is churn, in ms of event time."""
        return self.churn_horizon_days * DAY_MS


class TopicSettings(BaseModel):
    """Names of the topics, without the prefix."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    events: Name = "clickstream.events"
    """In: what users do; key: the user's id."""
    catalog: Name = "catalog.items"
    """In: the catalogue; key: the item's id."""
    recommendations: Name = "recommendations"
    """Out: what to show a user; key: the user's id."""
    predictions: Name = "predictions"
    """Out: how probable purchase, comment, share and churn are; key: the user's id."""
    churn_alerts: Name = "churn-alerts"
    """Out: users at risk of leaving; key: the user's id."""
    dead_letter: Name = "dead-letter"
    """Out: what was rejected, and why; key: that of the source."""


class Settings(BaseSettings):
    """Everything that an operator can set."""

    model_config = SettingsConfigDict(
        env_prefix="STREAM_APP_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    app: Name = "stream-app"
    """Consumer group, start of the transactional ids and of the state topic's name. A new name
    starts with no state, at the first record that the log still holds."""
    brokers: str = Field("127.0.0.1:9092", pattern=_BROKERS)
    """host:port, more after commas."""
    guarantee: Guarantee = "exactly_once"
    """What a crash may not do: lose and repeat, or only lose."""
    topic_prefix: Annotated[str, Field(pattern=_PREFIX)] = ""
    """Stands before the name of every topic and transactional id."""
    topics: TopicSettings = TopicSettings()
    """Names of the topics."""
    partitions: int = Field(4, ge=1, le=1_000)
    """Of a topic that `topics create` makes; cannot be changed later without a new `app` name."""
    replication: int = Field(1, ge=1, le=10)
    """Of a topic that `topics create` makes; 3 on a cluster."""
    replay: bool = False
    """The log is history: records are dated by their events, so `topics` asks for `retention.ms=-1`
    in place of a limit on timestamps, no ticks are written, and end-to-end time is not observed."""
    instance: Name | None = None
    """Static member id, such as the pod's name: a worker that comes back within the session timeout
    takes its partitions up without a rebalance."""
    processes: int = Field(1, ge=1, le=64)
    """Worker processes that `worker` starts, watches and starts again."""
    batch_records_max: int = Field(128, ge=1, le=128)
    """Records in a transaction."""
    commit_interval_ms: int = Field(20, ge=0, le=10_000)
    """Least time between two commits of a partition; with more than three partitions in a process 6
    ms for each, if that is longer. A full batch does not wait."""
    fetch_records_max: int = Field(1_000, ge=1, le=10_000)
    """Records in a fetch; at twice as many waiting a partition is paused."""
    live_rows_max: int = Field(20_000, ge=0)
    """Rows that stay decoded between batches, for each partition and kind."""
    idle_tick_seconds: int = Field(60, ge=0)
    """After so long without a record a partition gets a tick, so that its timers fire; 0 for
    none."""
    session_timeout_seconds: float = Field(12.0, ge=1, le=300)
    """Without a heartbeat for so long, a worker's partitions go to others; also the wait of a task
    that was fenced."""
    stall_seconds: float = Field(60.0, ge=1)
    """With records waiting and no commit for so long, the worker gives up and exits."""
    model: Path | None = None
    """Folder of the ranking model, read once at the start. Without one, and when it is refused, the
    formula ranks."""
    model_ms_max: float = Field(20.0, gt=0, le=10_000)
    """A model whose median answer takes longer than so many milliseconds at the start is
    refused."""
    registry: str | None = Field(None, min_length=1)
    """Folder or URL of a registry of models, in place of `model`."""
    registry_seconds: float = Field(10.0, gt=0, le=86_400)
    """Between two looks into the registry."""
    shadow_share: float = Field(1.0, gt=0, le=1)
    """Of requests, those that a model in the shadow scores too."""
    metrics_host: str = "0.0.0.0"  # noqa: S104 - Prometheus scrapes from outside
    """Address that metrics and health are served on."""
    metrics_port: int = Field(8_000, ge=0, le=65_000)
    """0 for none; process n of `processes` takes this port + n."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Of the program; what the clients log below `WARNING` stays hidden."""
    stages: StageSettings = StageSettings()
    """What the stages do."""

    @model_validator(mode="after")
    def _one_model(self) -> "Settings":
        if self.model is not None and self.registry is not None:
            raise ValueError("give either `model` or `registry`: each says what ranks")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic passes it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic passes it
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments first, then the environment, then the file."""
        toml = TomlConfigSettingsSource(settings_cls, toml_file=_file())
        return init_settings, env_settings, toml

    @cached_property
    def stages_in_effect(self) -> StageSettings:
        """What the stages go by: in a replay, timers without jitter."""
        return self.stages.model_copy(update={"timer_jitter_minutes": 0} if self.replay else {})

    def topic(self, logical: str) -> str:
        """Return the real name of a topic by its field in :class:`TopicSettings`."""
        name: str = getattr(self.topics, logical)
        return self.topic_prefix + name

    @property
    def state_topic(self) -> str:
        """The compacted topic that holds the state: one partition for each of the source's."""
        return f"{self.topic_prefix}{self.app}-state"


def load(**overrides: object) -> Settings:
    """Return the checked settings; arguments win over the environment and the file.

    Raises
    ------
    ConfigError
        With a line for each wrong setting: its name, its value and what is allowed.
    """
    _check_variables()
    if _FILE_VARIABLE in os.environ and not _file().is_file():
        raise ConfigError(f"{_FILE_VARIABLE} = {str(_file())!r}: there is no such file")
    try:
        return Settings(**{k: v for k, v in overrides.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [_explain(dict(entry)) for entry in error.errors()]
        raise ConfigError("wrong settings:\n  " + "\n  ".join(lines)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{_file()} is not TOML: {error}") from None


_FILE_VARIABLE = "STREAM_APP_CONFIG"
_JSON = (frozenset, tuple, dict)  # settings of these types are given as JSON
_SECTIONS: dict[str, type[BaseModel]] = {"stages": StageSettings, "topics": TopicSettings}


def _file() -> Path:
    return Path(os.environ.get(_FILE_VARIABLE, "stream_app.toml"))


def _explain(entry: dict[str, Any]) -> str:
    """Return one sentence for one of pydantic's errors."""
    if not entry["loc"]:  # settings that contradict each other
        return str(entry["msg"]).removeprefix("Value error, ")
    *sections, last = (str(part) for part in entry["loc"])
    name = ".".join((*sections, last))
    if entry["type"] == "extra_forbidden":
        fields = (_SECTIONS[sections[0]] if sections else Settings).model_fields
        return f"{name}: there is no such setting; there are: {', '.join(sorted(fields))}"
    needed = f"{entry['msg'][:1].lower()}{entry['msg'][1:]}"
    if entry["type"] == "string_pattern_mismatch":
        needed = _PATTERNS[str(entry["ctx"]["pattern"])]
    return f"{name} = {entry['input']!r}: {needed}"


def _check_variables() -> None:
    """Refuse a misspelt variable, which pydantic would ignore, and one that should be JSON."""
    for variable, value in os.environ.items():
        if not variable.startswith("STREAM_APP_") or variable == _FILE_VARIABLE:
            continue
        head, deeper, tail = variable.removeprefix("STREAM_APP_").lower().partition("__")
        fields = Settings.model_fields
        if deeper and head in fields:
            fields = _SECTIONS[head].model_fields if head in _SECTIONS else {}
        field = fields.get(tail if deeper else head)
        if field is None:
            allowed = ", ".join(sorted(fields)) or f"no settings inside {head}"
            raise ConfigError(f"{variable}: there is no such setting; there are: {allowed}")
        if get_origin(field.annotation) in _JSON or field.annotation in _SECTIONS.values():
            try:
                json.loads(value)
            except ValueError:
                raise ConfigError(f"{variable} = {value!r}: should be JSON") from None
