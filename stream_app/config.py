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
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")]


class StageSettings(BaseModel):
    """What the stages do; the same settings and the same log give the same outputs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    record_bytes_max: int = Field(65_536, ge=1_024, le=1_000_000, description="bytes")
    future_ms_max: int = Field(300_000, ge=0, description="an event dated later is rejected")
    lateness_ms_max: int = Field(600_000, ge=0, description="an older event gets no answer")
    check_partition: bool = Field(default=True, description="reject keys in a foreign partition")
    user_ttl_days: int = Field(400, ge=8, le=3_650, description="silence that ends a user's row")
    item_ttl_days: int = Field(180, ge=8, le=3_650, description="silence that ends an item's row")
    items_max: int = Field(200_000, ge=100, le=5_000_000, description="item rows a partition")
    session_gap_minutes: int = Field(30, ge=1, le=1_440, description="silence that ends a session")
    debounce_seconds: int = Field(60, ge=0, description="between two unasked recommendations")
    recommend_on: frozenset[Literal["view", "cart", "purchase"]] = Field(
        default=frozenset({"view", "cart", "purchase"}), description="what prompts a recommendation"
    )
    top_k: int = Field(10, ge=1, le=50, description="items in a recommendation")
    allow_repeat: bool = Field(default=True, description="recommend what was bought before")
    category_cap: int = Field(0, ge=0, description="items of one category; 0 for no limit")
    merchant_cap: int = Field(0, ge=0, description="items of one merchant; 0 for no limit")
    exploration_share: float = Field(
        0.0, ge=0, le=0.5, description="of requests, one place explores"
    )
    session_horizon_minutes: int = Field(
        30, ge=1, le=1_440, description="how far behaviour is predicted where there are sessions"
    )
    horizon_days: int = Field(7, ge=1, le=28, description="the same where there are none")
    learn_share_session: float = Field(
        0.5, ge=0, le=1, description="of predictions in sessions, those learned from"
    )
    learn_share: float = Field(1.0, ge=0, le=1, description="the same outside sessions")
    churn_horizon_days: int = Field(28, ge=7, le=28, description="no purchase for so long is churn")
    churn_active_days: int = Field(
        56, ge=7, le=365, description="the risk of who bought within them is assessed weekly"
    )
    silence_days: tuple[Annotated[int, Field(ge=1, le=365)], ...] = Field(
        default=(10, 20, 30, 45), min_length=1, description="of silence that call for a look"
    )
    timer_jitter_minutes: int = Field(
        360, ge=0, le=1_440, description="the weekly risk is spread over them; 0 in replays"
    )
    churn_watch: float = Field(0.3, gt=0, lt=1, description="risk that alerts, level `watch`")
    churn_warning: float = Field(0.5, gt=0, lt=1, description="risk of level `warning`")
    churn_critical: float = Field(0.7, gt=0, lt=1, description="risk of level `critical`")
    churn_hysteresis: float = Field(
        0.1, ge=0, lt=1, description="so far below a level's risk the level ends"
    )
    churn_cooldown_days: int = Field(
        14, ge=0, le=365, description="between two alerts of a user, unless it gets graver"
    )
    offers: dict[Literal["watch", "warning", "critical"], str] = Field(
        default={"watch": "reminder", "warning": "free-delivery", "critical": "discount"},
        description="what to offer, by an alert's level",
    )
    context_field: str = Field(
        "place", description="of an event's `context`: where the user is, for what is wanted there"
    )
    seed: str = Field("stream-app", description="key of every draw")

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

    model_config = ConfigDict(extra="forbid", frozen=True)

    events: Name = "clickstream.events"
    catalog: Name = "catalog.items"
    recommendations: Name = "recommendations"
    predictions: Name = "predictions"
    churn_alerts: Name = "churn-alerts"
    dead_letter: Name = "dead-letter"


class Settings(BaseSettings):
    """Everything that an operator can set."""

    model_config = SettingsConfigDict(
        env_prefix="STREAM_APP_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    app: Name = Field("stream-app", description="consumer group, state topic, transactional ids")
    brokers: str = Field(
        "127.0.0.1:9092",
        pattern=r"^[^\s,:]+:\d+(,[^\s,:]+:\d+)*$",
        description="host:port, more after commas",
    )
    guarantee: Guarantee = "exactly_once"
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = ""
    topics: TopicSettings = TopicSettings()
    partitions: int = Field(4, ge=1, le=1_000, description="of a topic that `topics create` makes")
    replication: int = Field(1, ge=1, le=10, description="of a topic that `topics create` makes")
    replay: bool = Field(default=False, description="the log is history: no ticks, no clock checks")
    instance: Name | None = Field(None, description="static member id, such as the pod's name")
    processes: int = Field(1, ge=1, le=64, description="worker processes")
    batch_records_max: int = Field(128, ge=1, le=128, description="records in a transaction")
    commit_interval_ms: int = Field(20, ge=0, le=10_000, description="least time between commits")
    fetch_records_max: int = Field(1_000, ge=1, le=10_000, description="records in a fetch")
    live_rows_max: int = Field(20_000, ge=0, description="decoded rows kept, a partition and kind")
    idle_tick_seconds: int = Field(60, ge=0, description="idleness before a tick; 0 for none")
    session_timeout_seconds: float = Field(12.0, ge=1, le=300)
    stall_seconds: float = Field(60.0, ge=1, description="lag without a commit before giving up")
    model: Path | None = Field(None, description="folder of a ranking model; none: the formula")
    model_ms_max: float = Field(
        20.0, gt=0, le=10_000, description="a model that takes longer for an answer is refused"
    )
    registry: str | None = Field(
        None, min_length=1, description="folder or URL of a registry of models, in place of `model`"
    )
    registry_seconds: float = Field(
        10.0, gt=0, le=86_400, description="between two looks into the registry"
    )
    shadow_share: float = Field(
        1.0, gt=0, le=1, description="of requests, those that a model in the shadow scores too"
    )
    metrics_host: str = "0.0.0.0"  # noqa: S104 - Prometheus scrapes from outside
    metrics_port: int = Field(8_000, ge=0, le=65_000, description="0 for none; +1 a process")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    stages: StageSettings = StageSettings()

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
    return f"{name} = {entry['input']!r}: {entry['msg'][:1].lower()}{entry['msg'][1:]}"


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
