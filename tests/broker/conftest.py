"""One Kafka for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.kafka import SHORT_LIVED, KafkaServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, so that `-m "not broker"` leaves them out."""
    folder = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder):
            item.add_marker(pytest.mark.broker)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Start a Kafka for the whole session; tests keep apart by the names of their topics."""
    with KafkaServer(tmp_path_factory.mktemp("kafka"), java=SHORT_LIVED) as server:
        yield server
