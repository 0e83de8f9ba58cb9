"""Runs the server: what `serve.py` does."""

import logging
import socket
import sys

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tsn.serving.app import create_app
from tsn.serving.arguments import check_arguments

MAX_HEADERS = 64_000  # bytes
BACKLOG = 2048  # connections that wait to be accepted
KEEP_ALIVE = 15  # seconds that an idle connection is kept


def serve(arguments) -> None:
    """Serves until the process is asked to stop, and then finishes what was taken.

    Args:
        arguments: From `tsn.serving.arguments.build_parser`.

    Raises:
        ValueError: an option is out of its range; the message says which.
        OSError: the address cannot be listened on, or the model cannot be loaded.
    """
    check_arguments(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    failures: list[str] = []

    def fail(message):
        failures.append(message)
        server.should_exit = True

    app = create_app(arguments, fail)

    class Protocol(_TimedProtocol):
        seconds = arguments.sender_timeout

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(arguments.timeout) + 1,
    )
    family = socket.AF_INET6 if ":" in arguments.host else socket.AF_INET
    try:
        listening = socket.create_server((arguments.host, arguments.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(
            f"cannot listen on {arguments.host}, port {arguments.port}: {error.strerror or error}"
        ) from error
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    print(f"http://{host}:{listening.getsockname()[1]}", flush=True)
    server = _Server(config, app.state.service.drain)
    server.run([listening])
    if failures:
        raise OSError(failures[0])


class _Server(uvicorn.Server):
    """Calls a function before it begins to stop."""

    def __init__(self, config, drain):
        super().__init__(config)
        self._drain = drain

    def handle_exit(self, sig, frame):
        self._drain()
        super().handle_exit(sig, frame)


class _TimedProtocol(HttpToolsProtocol):
    """Closes a connection whose headers are slow or endless, for which uvicorn has no limit."""

    seconds: float
    _timer = None
    _received = 0

    def connection_made(self, transport):
        super().connection_made(transport)
        self._wait_for_headers()

    def data_received(self, data):
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before or self._in_request():  # headers are complete
            self._stop_waiting()
        else:
            self._received += len(data)
            if self._timer is None:
                self._wait_for_headers()
            if self._received > MAX_HEADERS:
                self.transport.close()

    def connection_lost(self, exc):
        self._stop_waiting()
        super().connection_lost(exc)

    def _in_request(self):
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self):
        self._timer = self.loop.call_later(self.seconds, self._close_unless_asked)

    def _stop_waiting(self):
        self._received = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_unless_asked(self):
        self._timer = None
        if not self._in_request() and not self.transport.is_closing():
            self.transport.close()
