"""The alerts of deploy/prometheus: valid, tried both ways, explained, and worth their threshold."""

import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "prometheus"
RUNBOOK = ROOT / "docs" / "runbook.md"
ALERTS, TESTS = "alerts.yml", "alerts_test.yml"
SEVERITIES = {"critical", "warning"}
OPPOSITE = {">": "<=", "<": ">=", "<=": ">"}


def promtool(*arguments: str, folder: Path = FOLDER) -> "subprocess.CompletedProcess[str]":
    """Run promtool in a folder."""
    program = shutil.which("promtool")
    assert program, "promtool is missing: install Debian's package prometheus"
    return subprocess.run(
        [program, *arguments], cwd=folder, check=False, capture_output=True, text=True
    )


@cache
def read(name: str) -> Any:
    """Return what a file says."""
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alerts by name."""
    rules = [rule for group in read(ALERTS)["groups"] for rule in group["rules"]]
    return {rule["alert"]: rule for rule in rules}


def cases(name: str) -> list[tuple[dict[str, Any], bool]]:
    """Return the tests of an alert, and whether it fires in them."""
    return [
        (test, bool(check["exp_alerts"]))
        for test in read(TESTS)["tests"]
        for check in test.get("alert_rule_test", ())
        if check["alertname"] == name
    ]


def failing(folder: Path, change: Callable[[str], str]) -> set[str]:
    """Return the alerts whose cases fail when all expressions are changed."""
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    rules = [{**rule, "expr": change(rule["expr"])} for rule in alerts().values()]
    groups = {"groups": [{"name": "changed", "rules": rules}]}
    (folder / ALERTS).write_text(yaml.safe_dump(groups), encoding="utf-8")
    result = promtool("test", "rules", TESTS, folder=folder)
    return set(re.findall(r"alertname: (\w+)", result.stdout + result.stderr))


def turned(expression: str) -> str:
    """Return the opposite of an alert's expression, which is a query and a threshold."""
    parts = re.fullmatch(r"(.+) (<=|<|>) ([\d.]+)", expression)
    assert parts, expression
    return f"{parts[1]} {OPPOSITE[parts[2]]} {parts[3]}"


def test_files_are_valid() -> None:
    """Prometheus takes the settings, and the rules that they name."""
    for arguments in (("rules", "rules.yml", ALERTS), ("config", "prometheus.yml")):
        result = promtool("check", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr


def test_cases_pass() -> None:
    """Alerts fire, with the words expected, and are quiet, as their cases say."""
    result = promtool("test", "rules", TESTS)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", alerts())
def test_alert_is_whole(name: str) -> None:
    """An alert waits, says how grave it is, has words, a section in the runbook, and both cases."""
    rule = alerts()[name]
    assert rule["for"]
    assert rule["labels"]["severity"] in SEVERITIES
    said = rule["annotations"]
    assert said["summary"]
    assert said["description"]
    assert said["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    assert f"\n## {name}\n" in RUNBOOK.read_text(encoding="utf-8")
    assert {fires for _, fires in cases(name)} == {True, False}


def test_runbook_has_no_other_alerts() -> None:
    """Each section of an alert in the runbook is of one that there is."""
    titles = re.findall(r"^## (StreamApp\w+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    assert titles == list(alerts())


def test_cases_notice_a_wrong_expression(tmp_path: Path) -> None:
    """An alert that always fires, never does, or does the other way round, fails its cases."""
    assert failing(tmp_path, str) == set()
    assert failing(tmp_path, lambda _: "vector(1)") == set(alerts())
    assert failing(tmp_path, lambda _: "vector(1) > 2") == set(alerts())
    assert failing(tmp_path, turned) == set(alerts())
