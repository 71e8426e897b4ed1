"""The files under deploy/ and docker-compose.yml, as far as they can be checked without Docker."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.test_docs import collectors

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker-compose.yml"
GRAFANA = ROOT / "deploy" / "grafana"
BOARD = GRAFANA / "dashboards" / "stream_app.json"
ROWS = ["Health", "Traffic", "Latency", "Recommending", "Predictions", "Churn", "State"]


def services() -> dict[str, dict[str, Any]]:
    """Return the services of the compose file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return found["services"]


def mounts() -> dict[str, Path]:
    """Return the folders of ours that services mount, by where they stand in the container."""
    volumes = [each for service in services().values() for each in service.get("volumes", ())]
    pairs = [each.split(":")[:2] for each in volumes if each.startswith(".")]
    return {target: (ROOT / source).resolve() for source, target in pairs}


def panels() -> list[dict[str, Any]]:
    """Return the panels of the committed dashboard, without the titles of its rows."""
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_compose_file_is_valid() -> None:
    """docker-compose accepts the file."""
    compose = shutil.which("docker-compose")
    assert compose, "docker-compose is missing: run make docker-compose"
    result = subprocess.run(
        [compose, "-f", str(COMPOSE), "config", "-q"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_compose_runs_everything() -> None:
    """What is needed is started, in pinned versions, and says whether it is well."""
    assert set(services()) == {"kafka", "topics", "worker", "prometheus", "grafana"}
    for name, service in services().items():
        if "build" not in service:
            assert re.fullmatch(r".+:v?\d+\.\d+\.\d+", service["image"]), name
        assert name == "topics" or service["healthcheck"]["test"], name


def test_compose_mounts_what_there_is() -> None:
    """Each folder of ours that a service mounts is in the repository."""
    assert len(mounts()) == 3
    assert all(source.is_dir() for source in mounts().values())


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    """What is provisioned fits: the uid of the panels, the address and the folder of compose."""
    folder = GRAFANA / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"]}
    (provider,) = yaml.safe_load((folder / "dashboards" / "stream_app.yml").read_text())[
        "providers"
    ]
    assert mounts()[provider["options"]["path"]] == BOARD.parent
    assert mounts()["/etc/grafana/provisioning"] == folder
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]


def test_dashboard_is_the_generated_one() -> None:
    """The committed dashboard is what its generator writes."""
    program = GRAFANA / "dashboard.py"
    result = subprocess.run(
        [sys.executable, str(program)], check=True, capture_output=True, text=True
    )
    command = f"python {program.relative_to(ROOT)} > {BOARD.relative_to(ROOT)}"
    assert BOARD.read_text(encoding="utf-8") == result.stdout, f"run: {command}"


def test_dashboard_is_explained() -> None:
    """The dashboard has its rows, and each panel a title, a description, a unit and a query."""
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    assert [panel["title"] for panel in board["panels"] if panel["type"] == "row"] == ROWS
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, panel["title"]


def test_dashboard_shows_every_metric() -> None:
    """Each metric of a worker stands in a panel, and no panel names one that is no more."""
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    named = set(re.findall(r"\bstream_app_\w+", shown))
    known = {name: kind for name, kind, _ in collectors()}
    suffixes = ("_bucket", "_sum", "_count")
    found = {
        next((name.removesuffix(s) for s in suffixes if name.endswith(s)), name) for name in named
    }
    assert found == set(known)


def test_kafka_versions_agree() -> None:
    """Tests start the version of Kafka that docker-compose.yml deploys."""
    pom = (ROOT / "deploy" / "kafka" / "pom.xml").read_text(encoding="utf-8")
    tested = re.search(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>([\d.]+)<", pom)
    deployed = re.search(r"image: apache/kafka:([\d.]+)", COMPOSE.read_text(encoding="utf-8"))
    assert tested
    assert deployed
    assert tested[1] == deployed[1]
