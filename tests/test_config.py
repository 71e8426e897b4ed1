"""Settings: where they come from, which wins, and what is said of a wrong one."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stream_app.config import Settings, StageSettings, load
from stream_app.errors import ConfigError


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test where there is no file of settings."""
    monkeypatch.chdir(tmp_path)


def write(text: str) -> Path:
    """Write the file of settings that is read unless another is named."""
    path = Path("stream_app.toml")
    path.write_text(text, encoding="utf-8")
    return path


def complaint(**overrides: Any) -> str:
    """Return what is said of wrong settings."""
    with pytest.raises(ConfigError) as caught:
        load(**overrides)
    return str(caught.value)


def test_defaults_are_valid() -> None:
    """Without environment and file the defaults hold, and they pass their own checks."""
    settings = load()
    assert settings == Settings()
    assert settings.guarantee == "exactly_once"
    assert StageSettings.model_validate(settings.stages.model_dump()) == settings.stages


def test_environment_beats_file_and_arguments_beat_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Arguments win over the environment, the environment over the file, setting by setting."""
    write(
        'app = "file"\npartitions = 2\nprocesses = 2\n'
        "[stages]\ntop_k = 2\nitems_max = 222\n[topics]\nevents = 'file.events'\n"
    )
    monkeypatch.setenv("STREAM_APP_PARTITIONS", "3")
    monkeypatch.setenv("STREAM_APP_PROCESSES", "3")
    monkeypatch.setenv("STREAM_APP_STAGES__TOP_K", "3")
    settings = load(processes=4, instance=None)
    assert (settings.app, settings.partitions, settings.processes) == ("file", 3, 4)
    assert (settings.stages.top_k, settings.stages.items_max) == (3, 222)
    assert settings.topics.events == "file.events"
    assert settings.topics.catalog == "catalog.items"


def test_file_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """``STREAM_APP_CONFIG`` names another file, which is read instead."""
    write("partitions = 2")
    Path("other.toml").write_text("partitions = 5", encoding="utf-8")
    monkeypatch.setenv("STREAM_APP_CONFIG", "other.toml")
    assert load().partitions == 5


def test_lists_and_sections_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists and whole sections can be given as JSON."""
    monkeypatch.setenv("STREAM_APP_STAGES__RECOMMEND_ON", '["view"]')
    monkeypatch.setenv("STREAM_APP_TOPICS", '{"events": "mine"}')
    settings = load()
    assert settings.stages.recommend_on == {"view"}
    assert settings.topics.events == "mine"


# Setting, what it is set to, and what is allowed instead.
WRONG = [
    ("partitions", "0", "greater than or equal to 1"),
    ("partitions", "1001", "less than or equal to 1000"),
    ("partitions", "", "valid integer"),
    ("partitions", "four", "valid integer"),
    ("guarantee", "at_most_once", "'exactly_once' or 'at_least_once'"),
    ("app", "a b", "should be 1 to 200 letters, digits"),
    ("app", "x" * 201, "should be 1 to 200 letters, digits"),
    ("brokers", "localhost", "should be host:port, more after commas"),
    ("brokers", "a:1,,b:2", "should be host:port"),
    ("topic_prefix", "team/", "should be up to 100 letters"),
    ("instance", "", "should be 1 to 200 letters"),
    ("replay", "perhaps", "valid boolean"),
    ("batch_records_max", "129", "less than or equal to 128"),
    ("session_timeout_seconds", "0.5", "greater than or equal to 1"),
    ("log_level", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ("stages.top_k", "51", "less than or equal to 50"),
    ("stages.exploration_share", "0.6", "less than or equal to 0.5"),
    ("stages.churn_horizon_days", "29", "less than or equal to 28"),
    ("stages.user_ttl_days", "7", "greater than or equal to 8"),
    ("topics.events", "a b", "should be 1 to 200 letters"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG)
def test_wrong_setting_in_the_environment(
    name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong variable is named, with its value and what is allowed."""
    monkeypatch.setenv("STREAM_APP_" + name.replace(".", "__").upper(), value)
    said = complaint()
    assert f"{name} = {value!r}" in said
    assert allowed in said


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG)
def test_wrong_setting_in_the_file(name: str, value: str, allowed: str) -> None:
    """A wrong setting of the file is named, with its value and what is allowed."""
    section, _, field = name.rpartition(".")
    write((f"[{section}]\n" if section else "") + f'{field} = "{value}"\n')
    said = complaint()
    assert f"{name} = {value!r}" in said
    assert allowed in said


def test_all_wrong_settings_are_named_at_once() -> None:
    """Whoever corrects settings sees everything that is wrong, a line for each."""
    write("partitions = 0\nprocesses = 65\n[stages]\ntop_k = 0\n")
    lines = complaint().splitlines()
    assert len(lines) == 4
    assert [line.split(" = ")[0].strip() for line in lines[1:]] == [
        "partitions",
        "processes",
        "stages.top_k",
    ]


def test_wrong_list_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is not JSON, or has an entry that is not allowed, is named with its value."""
    monkeypatch.setenv("STREAM_APP_STAGES__RECOMMEND_ON", "view,cart")
    said = complaint()
    assert "STREAM_APP_STAGES__RECOMMEND_ON" in said
    assert "'view,cart'" in said
    assert "JSON" in said
    monkeypatch.setenv("STREAM_APP_STAGES__RECOMMEND_ON", '["view", "search"]')
    said = complaint()
    assert "stages.recommend_on" in said
    assert "'search'" in said
    assert "'view', 'cart' or 'purchase'" in said


@pytest.mark.parametrize("value", ["top_k=3", "3", "[]"])
def test_wrong_section_in_the_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole section that is no JSON object is named with its value."""
    monkeypatch.setenv("STREAM_APP_STAGES", value)
    said = complaint()
    assert "stages" in said.lower()
    assert value in said


@pytest.mark.parametrize(
    "name", ["TOPK", "STAGES__TOPK", "STAGES__TOP_K__X", "PARTITIONS__X", "TOPIC__EVENTS"]
)
def test_unknown_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is refused, with the names that there are where it stands."""
    monkeypatch.setenv(f"STREAM_APP_{name}", "1")
    said = complaint()
    assert f"STREAM_APP_{name}: there is no such setting" in said
    assert ("top_k" if name == "STAGES__TOPK" else "partitions") in said or "__X" in name


@pytest.mark.parametrize(
    ("text", "name", "there_is"),
    [
        ("topk = 1", "topk", "partitions"),
        ("[stages]\ntopk = 1", "stages.topk", "top_k"),
        ("[topics]\nevent = 'e'", "topics.event", "events"),
        ("[stage]\ntop_k = 1", "stage", "stages"),
    ],
)
def test_unknown_setting_in_the_file(text: str, name: str, there_is: str) -> None:
    """A misspelt setting of the file is refused, with the names that there are where it stands."""
    write(text)
    said = complaint()
    assert f"{name}: there is no such setting" in said
    assert there_is in said


def test_unknown_argument() -> None:
    """A misspelt argument is refused like any other setting."""
    assert "topk: there is no such setting" in complaint(topk=3)


def test_file_that_is_not_toml() -> None:
    """A file that cannot be read as TOML is named, with the place."""
    write("partitions = \n")
    said = complaint()
    assert "stream_app.toml" in said
    assert "line 1" in said
    Path("stream_app.toml").write_bytes(b"app = '\xff'")
    assert "stream_app.toml" in complaint()


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_named_file_that_does_not_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was named and is not there is an error, not a reason to take the defaults."""
    monkeypatch.setenv("STREAM_APP_CONFIG", name)
    said = complaint()
    assert f"STREAM_APP_CONFIG = '{name}'" in said


def test_names_of_topics() -> None:
    """The prefix stands before every topic, and the state topic is named after the app."""
    settings = load(topic_prefix="team.", app="shop")
    assert settings.topic("churn_alerts") == "team.churn-alerts"
    assert settings.state_topic == "team.shop-state"


def test_settings_do_not_change() -> None:
    """Settings are frozen: what was checked at the start holds to the end."""
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.partitions = 9  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.stages.top_k = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"silence_days": [20, 10]}, "rise"),
        ({"churn_watch": 0.6}, "churn_watch, churn_warning and churn_critical should rise"),
        ({"churn_hysteresis": 0.3}, "no level ever ends"),
    ],
)
def test_settings_that_do_not_go_together(fields: dict[str, object], said: str) -> None:
    """Settings that contradict each other are refused, with what should be."""
    with pytest.raises(ValidationError, match=said):
        StageSettings.model_validate(fields)
