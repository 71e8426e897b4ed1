"""The files under deploy/ and docker-compose.yml, as far as they can be checked without Docker."""

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker-compose.yml"


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


def test_kafka_versions_agree() -> None:
    """Tests start the version of Kafka that docker-compose.yml deploys."""
    pom = (ROOT / "deploy" / "kafka" / "pom.xml").read_text(encoding="utf-8")
    tested = re.search(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>([\d.]+)<", pom)
    deployed = re.search(r"image: apache/kafka:([\d.]+)", COMPOSE.read_text(encoding="utf-8"))
    assert tested
    assert deployed
    assert tested[1] == deployed[1]
