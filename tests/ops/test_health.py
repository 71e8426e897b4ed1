"""The metrics port of a worker: what it answers, and whom a slow client keeps waiting."""

import asyncio
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stream_app.clock import monotonic_seconds
from stream_app.config import Settings
from stream_app.errors import ConfigError
from stream_app.ops import health
from stream_app.ops.demo_child import free_port
from stream_app.runtime.app import StreamApp

SLOW_CLIENTS = 20
BEAT_SECONDS = 0.01


def get(port: int, path: str) -> tuple[int, str]:
    """Return the code and the text of an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=4) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


@pytest.fixture
def app() -> Any:
    """Return what the port asks of a worker, and serve it."""
    port = free_port()
    settings = Settings(metrics_host="127.0.0.1", metrics_port=port)
    asked = SimpleNamespace(settings=settings, heartbeat=0.0, ready=True)
    assert health.attach(cast("StreamApp", asked)) == port
    return asked


def port_of(app: Any) -> int:
    """Return the port that is served."""
    port: int = app.settings.metrics_port
    return port


def test_health_follows_the_heartbeat(app: Any) -> None:
    """A loop that has not begun, or beats, is healthy; one that has stopped is not."""
    assert get(port_of(app), "/healthz") == (200, "ok\n")
    app.heartbeat = monotonic_seconds()
    assert get(port_of(app), "/healthz")[0] == 200
    app.heartbeat = monotonic_seconds() - health.HEARTBEAT_SECONDS_MAX - 1
    assert get(port_of(app), "/healthz")[0] == 503
    ages = [
        float(line.split()[1])
        for line in get(port_of(app), "/metrics")[1].splitlines()
        if line.startswith("stream_app_heartbeat_age_seconds")
    ]
    assert ages[0] > health.HEARTBEAT_SECONDS_MAX


def test_metrics_say_whether_the_worker_is_ready_and_its_version(app: Any) -> None:
    """The gauge of readiness is asked for at each scrape, and the version stands beside it."""
    assert "stream_app_ready 1.0" in get(port_of(app), "/metrics")[1]
    app.ready = False
    text = get(port_of(app), "/metrics")[1]
    assert "stream_app_ready 0.0" in text
    assert get(port_of(app), "/readyz")[0] == 503
    assert 'stream_app_build_info{version="' in text


def test_port_that_is_taken_is_said(app: Any) -> None:
    """A second worker on the same port says which setting to change."""
    with pytest.raises(ConfigError, match="metrics_port = "):
        health.attach(app)


def test_slow_clients_keep_nobody_waiting(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that never ask, or never read, stall neither a scrape nor the event loop.

    After a while their connections are closed.
    """
    monkeypatch.setattr(health._Quiet, "timeout", 2.0)
    port = port_of(app)
    longest = 0.0
    done = threading.Event()

    async def beat() -> None:
        nonlocal longest
        loop = asyncio.get_running_loop()
        last = loop.time()
        while not done.is_set():
            await asyncio.sleep(BEAT_SECONDS)
            now = loop.time()
            longest, last = max(longest, now - last), now

    loop = threading.Thread(target=asyncio.run, args=(beat(),))
    loop.start()
    try:
        with ExitStack() as stack:
            clients = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                for _ in range(SLOW_CLIENTS)
            ]
            for number, client in enumerate(clients):
                client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n" if number % 2 else b"GET /met")
            began = time.monotonic()
            for path in ("/metrics", "/healthz", "/readyz"):
                assert get(port, path)[0] == 200
            assert time.monotonic() - began < 2.0
            clients[0].settimeout(10.0)
            assert clients[0].recv(1) == b""
    finally:
        done.set()
        loop.join()
    assert longest < 1.0
