"""``/metrics``, ``/healthz`` and ``/readyz`` on one port, served from a thread of their own.

``/healthz`` says whether the event loop still turns, ``/readyz`` whether the catalogue is read and
every assigned partition is being processed. A worker without partitions is ready: it stands by.
Each client has a thread, and a few seconds: one that is slow keeps neither others nor the event
loop waiting.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterable
from importlib.metadata import version
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from stream_app import metrics
from stream_app.clock import monotonic_seconds
from stream_app.errors import ConfigError
from stream_app.runtime.app import StreamApp

logger = logging.getLogger(__name__)

# The loop beats each second; ten without a beat mean that it hangs.
HEARTBEAT_SECONDS_MAX = 10.0
# How long a client may take to ask, or to take the next piece of an answer.
CLIENT_SECONDS_MAX = 5.0

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


def attach(app: StreamApp) -> int | None:
    """Serve the health and metrics of a worker; return the port, None when switched off.

    Raises
    ------
    ConfigError
        When the port is taken.
    """
    settings = app.settings
    if not settings.metrics_port:
        return None
    exposition = make_wsgi_app()
    metrics.BUILD_INFO.labels(version("stream-app")).set(1)
    metrics.READY.set_function(lambda: float(app.ready))
    metrics.HEARTBEAT_AGE_SECONDS.set_function(lambda: _heartbeat_age(app))

    def answer(environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            body: Iterable[bytes] = exposition(environ, start)
            return body
        if path == "/healthz":
            good = _heartbeat_age(app) < HEARTBEAT_SECONDS_MAX
        elif path == "/readyz":
            good = app.ready
        else:
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"there are /metrics, /healthz and /readyz\n"]
        start("200 OK" if good else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"ok\n" if good else b"not yet\n"]

    try:
        server = make_server(settings.metrics_host, settings.metrics_port, answer, _Server, _Quiet)
    except OSError as error:
        raise ConfigError(
            f"metrics_port = {settings.metrics_port}: {error.strerror}; set another, or 0 for none"
        ) from None
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    logger.info("metrics on http://%s:%d/metrics", settings.metrics_host, settings.metrics_port)
    return settings.metrics_port


def _heartbeat_age(app: StreamApp) -> float:
    """Return for how many seconds the event loop has not beat; 0 before its first beat."""
    return monotonic_seconds() - app.heartbeat if app.heartbeat else 0.0


class _Server(ThreadingMixIn, WSGIServer):
    """A server with a thread for each client; the process does not wait for them when it ends."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Pass over a client that did not ask, or did not take its answer, in time."""
        logger.debug("a client of the metrics port is gone: %s", sys.exception())


class _Quiet(WSGIRequestHandler):
    """A handler that does not write a line for each scrape, nor for a client that gave up."""

    timeout = CLIENT_SECONDS_MAX

    def log_message(self, *_: object) -> None:
        """Say nothing."""
