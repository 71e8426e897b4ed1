"""``/metrics``, ``/healthz`` and ``/readyz`` on one port, served from a thread of their own.

``/healthz`` says whether the event loop still turns, ``/readyz`` whether the catalogue is read and
every assigned partition is being processed. A worker without partitions is ready: it stands by.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from stream_app.clock import monotonic_seconds
from stream_app.errors import ConfigError
from stream_app.runtime.app import StreamApp

logger = logging.getLogger(__name__)

# The loop beats each second; ten without a beat mean that it hangs.
HEARTBEAT_SECONDS_MAX = 10.0

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
    metrics = make_wsgi_app()
    began = monotonic_seconds()

    def answer(environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            body: Iterable[bytes] = metrics(environ, start)
            return body
        if path == "/healthz":
            beat = app.heartbeat or began
            good = monotonic_seconds() - beat < HEARTBEAT_SECONDS_MAX or not app.heartbeat
        elif path == "/readyz":
            good = app.ready
        else:
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"there are /metrics, /healthz and /readyz\n"]
        start("200 OK" if good else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"ok\n" if good else b"not yet\n"]

    try:
        server = make_server(
            settings.metrics_host, settings.metrics_port, answer, WSGIServer, _Quiet
        )
    except OSError as error:
        raise ConfigError(
            f"metrics_port = {settings.metrics_port}: {error.strerror}; set another, or 0 for none"
        ) from None
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    logger.info("metrics on http://%s:%d/metrics", settings.metrics_host, settings.metrics_port)
    return settings.metrics_port


class _Quiet(WSGIRequestHandler):
    """A handler that does not write a line for each scrape."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""
